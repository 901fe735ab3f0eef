"""From files to sequences: documents are told apart, tokenizers are reproducible, and no token is lost."""

import itertools
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from pretraining import LENGTH, write_corpus
from tiny import BAD, GOOD, OTHER, write_mpnet_tokenizer
from tokenizers.models import WordPiece

from models.errors import CheckError, FolderError, InputError
from models.pretraining import corpus
from models.pretraining.corpus import Packing, _Packer, pack_corpus
from models.pretraining.paragraphs import LINE_LIMIT, read_paragraphs
from models.pretraining.wordpiece import SPECIAL, Vocabulary, open_backend, train_wordpiece


def read_all(*paths: Path) -> list[tuple[int, str]]:
    return [(p.document, p.text) for p in read_paragraphs(paths, "read")]


def test_blank_lines_and_ends_of_files_end_documents(tmp_path):
    plain, other, json_lines = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.jsonl"
    plain.write_bytes(b"\xef\xbb\xbfone\r\ntwo \n \t\n\n\nthree")
    other.write_text("\n\nfour\n\n")
    json_lines.write_text('{"text": "five\\n\\nsix", "id": 1}\n\n{"text": " "}\n{"text": "seven"}\n')
    found = read_all(plain, other, json_lines)
    assert found == [(0, "one"), (0, "two"), (1, "three"), (2, "four"), (3, "five"), (3, "six"), (4, "seven")]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"fine\n\xff\xfe\n", "line 2: byte 0xff is not UTF-8"),
        ("a.txt", b" \n\n", "holds no text"),
        ("a.jsonl", b"", "holds no text"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"title": "no text"}\n', "line 1: wanted an object whose 'text' is a text"),
        ("a.jsonl", b"[1]\n", "line 1: wanted an object"),
        ("a.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: 'text' holds an unpaired surrogate"),
        ("a.csv", b"text\nfine\n", "ends in '.csv'"),
    ],
)
def test_files_that_are_no_corpus_are_refused_by_line(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_all(tmp_path / name)


def test_missing_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt is not a file"):
        read_all(tmp_path / "gone.txt")
    with pytest.raises(InputError, match="no corpus file was given"):
        read_all()


def test_gigabytes_without_a_line_end_do_not_fill_the_memory(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("fine\n")
    with path.open("r+b") as file:
        file.truncate(3 * 2**30)  # sparse: no byte of it is on the disk
    tracemalloc.start()
    with pytest.raises(InputError, match="line 2 is longer than 32 MiB"):
        read_all(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * LINE_LIMIT
    tracemalloc.stop()


def test_the_same_texts_give_the_same_tokenizer(tmp_path):
    draw = np.random.default_rng(0)  # many ties between pieces, which the trainer alone breaks differently each time
    words = ["".join(draw.choice(list("abcdefgh"), draw.integers(2, 9))) for _ in range(800)]
    (tmp_path / "a.txt").write_text("\n".join(" ".join(draw.choice(words, 20)) for _ in range(300)))
    found = {train_wordpiece([tmp_path / "a.txt"], 300, lowercase=True).to_str() for _ in range(4)}
    assert len(found) == 1


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_trained_tokenizer_is_a_bert_tokenizer(tmp_path, corpus_file, lowercase):
    tokenizer = train_wordpiece([corpus_file], 300, lowercase)
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL)
    assert tokenizer.get_vocab_size() <= 300
    encoded = tokenizer.encode("Good film.", "The plot.")
    assert encoded.tokens[0] == "[CLS]"
    assert encoded.tokens[-1] == "[SEP]"
    assert encoded.type_ids == [0] * (encoded.tokens.index("[SEP]") + 1) + [1] * (
        len(encoded.ids) - encoded.tokens.index("[SEP]") - 1
    )
    assert tokenizer.decode(encoded.ids) == ("good film. the plot." if lowercase else "Good film. The plot.")
    assert tokenizer.encode("Дом").tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_rare_characters_and_small_sizes(tmp_path):
    (tmp_path / "a.txt").write_text("ab ab 好 " * 50 + "".join(chr(0x400 + i) for i in range(100)))
    tokenizer = train_wordpiece([tmp_path / "a.txt"], 100, lowercase=False)
    pieces = tokenizer.get_vocab()
    assert {"a", "b", "ab", "好"} <= pieces.keys()
    assert "##好" not in pieces  # it is a word of its own
    assert len(pieces) <= 100
    with pytest.raises(InputError, match="leaves no room"):
        train_wordpiece([tmp_path / "a.txt"], 8, lowercase=False)


def test_mpnets_special_tokens_are_the_added_ones_and_not_berts_unused_words(tmp_path):
    write_mpnet_tokenizer(tmp_path)
    backend = open_backend(tmp_path)
    ids = backend.get_vocab()
    found = Vocabulary.of(backend)
    wanted = [ids[name] for name in ("<pad>", "[UNK]", "<s>", "</s>", "<mask>")]
    assert [found.pad, found.unknown, found.cls, found.sep, found.mask] == wanted
    assert {"[PAD]", "[CLS]", "[SEP]", "[MASK]"} < set(ids)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path):
    tokenizers.Tokenizer(WordPiece({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(InputError, match=r"no \[MASK\]"):
        Vocabulary.of(open_backend(tmp_path))
    with pytest.raises(FolderError, match=r"has no tokenizer\.json"):
        open_backend(tmp_path / "empty")


def tokens_of(path: Path, folder: Path) -> list[list[int]]:
    """Tokens of each document, by a way of its own: one text after the other."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    grouped = itertools.groupby(read_all(path), key=lambda found: found[0])
    return [
        [i for _, text in group for i in backend.encode(text, add_special_tokens=False).ids] for _, group in grouped
    ]


@pytest.mark.parametrize("length", [8, 13, 64])
def test_packing_loses_no_token(tmp_path, corpus_file, tokenizer_folder, vocabulary, length):
    packed = pack_corpus([corpus_file], [], tokenizer_folder, Packing(length=length, hold_out=7), tmp_path)
    documents = tokens_of(corpus_file, tokenizer_folder)
    parts = (
        (packed.train, packed.header.train, [d for i, d in enumerate(documents) if i % 7 != 6]),
        (packed.held_out, packed.header.held_out, documents[6::7]),
    )
    for rows, part, wanted in parts:
        inner = rows[:, 1:-1].copy()
        assert (rows[:, 0] == vocabulary.cls).all()
        assert (rows[:-1, -1] == vocabulary.sep).all()
        assert not (rows[:-1] == vocabulary.pad).any()  # only the last one is padded
        flat = rows[~np.isin(rows, [vocabulary.cls, vocabulary.sep, vocabulary.pad])]
        assert flat.tolist() == [i for document in wanted for i in document]
        assert (part.documents, part.tokens) == (len(wanted), len(flat))
        ends_inside = int((inner[:, 1:] == vocabulary.sep).sum())
        assert ends_inside <= len(wanted)
        # a boundary is a [SEP] between two documents, and none is left out but where a sequence begins anyway
        spare = len(wanted) - 1 - int((inner == vocabulary.sep).sum())
        assert -1 <= spare <= len(rows) - 1


def test_documents_run_on_with_a_separator_between(tmp_path, vocabulary):
    with (tmp_path / "rows").open("wb") as file:
        packer = _Packer(file, 8, vocabulary, "uint16")
        packer.add(0, [10, 11, 12, 13])
        packer.add(0, [14])
        packer.add(1, [20, 21])
        packer.add(2, [])
        packer.add(3, [30, 31, 32, 33, 34])  # fills the second sequence
        packer.add(4, [40])
        part = packer.finish()
    cls, sep, pad = vocabulary.cls, vocabulary.sep, vocabulary.pad
    assert np.fromfile(tmp_path / "rows", "<u2").reshape(-1, 8).tolist() == [
        [cls, 10, 11, 12, 13, 14, sep, sep],
        [cls, 20, 21, sep, 30, 31, 32, sep],
        [cls, 33, 34, sep, 40, sep, pad, pad],
    ]
    assert (part.rows, part.documents, part.tokens) == (3, 4, 13)


def test_no_separator_where_a_sequence_begins(tmp_path, vocabulary):
    with (tmp_path / "rows").open("wb") as file:
        packer = _Packer(file, 8, vocabulary, "uint32")
        packer.add(0, [10, 11, 12, 13, 14, 15])
        packer.add(1, [20])
        packer.finish()
    rows = np.fromfile(tmp_path / "rows", "<u4").reshape(-1, 8)
    assert rows[1, :3].tolist() == [vocabulary.cls, 20, vocabulary.sep]


def test_a_text_cannot_hold_special_tokens(tmp_path, tokenizer_folder, vocabulary):
    (tmp_path / "a.txt").write_text("good [SEP] film [MASK] plot [CLS]\n" * 20 + "\nthe end of it\n")
    packed = pack_corpus([tmp_path / "a.txt"], [], tokenizer_folder, Packing(length=16, hold_out=2), tmp_path)
    assert not (packed.train[:, 1:-1] == vocabulary.cls).any()
    assert not (packed.train == vocabulary.mask).any()
    assert not (packed.train[:-1, 1:-1] == vocabulary.sep).any()


def test_the_packed_corpus_is_reused_until_something_changes(tmp_path, tokenizer_folder):
    path, store = write_corpus(tmp_path / "a.txt"), tmp_path / "store"
    packing = Packing(length=LENGTH, hold_out=10)
    first = pack_corpus([path], [], tokenizer_folder, packing, store)
    written = (first.folder.path / "train.bin").stat().st_mtime_ns
    copied = shutil.copy(path, tmp_path / "b.txt")
    again = pack_corpus([Path(copied)], [], tokenizer_folder, packing, store)  # contents count, names do not
    assert again.folder.id == first.folder.id
    assert (again.folder.path / "train.bin").stat().st_mtime_ns == written
    assert np.array_equal(again.train, first.train)
    path.write_text(path.read_text() + "\n\nOne more film.\n")
    ids = {
        first.folder.id,
        pack_corpus([path], [], tokenizer_folder, packing, store).folder.id,
        pack_corpus([path], [], tokenizer_folder, packing.model_copy(update={"length": 8}), store).folder.id,
        pack_corpus([path], [Path(copied)], tokenizer_folder, packing, store).folder.id,
    }
    other = tmp_path / "tokenizer"
    other.mkdir()
    train_wordpiece([path], 130, lowercase=False).save(str(other / "tokenizer.json"))
    ids.add(pack_corpus([path], [], other, packing, store).folder.id)
    assert len(ids) == 5


def test_validation_files_are_held_out_and_nothing_else(tmp_path, corpus_file, tokenizer_folder, vocabulary):
    held_out = write_corpus(tmp_path / "held_out.txt", documents=3)
    packed = pack_corpus([corpus_file], [held_out], tokenizer_folder, Packing(length=LENGTH), tmp_path)
    assert packed.header.train.documents == 60
    assert packed.header.held_out.documents == 3
    special = [vocabulary.cls, vocabulary.sep, vocabulary.pad]
    flat = packed.held_out[~np.isin(packed.held_out, special)].tolist()
    assert flat == [i for document in tokens_of(held_out, tokenizer_folder) for i in document]


def test_large_vocabularies_take_four_bytes_a_token(tmp_path, corpus_file):
    words = [*SPECIAL, *(f"w{i}" for i in range(70_000)), *GOOD, *BAD, *OTHER]
    tokenizer = tokenizers.Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    packed = pack_corpus([corpus_file], [], tmp_path, Packing(length=LENGTH, hold_out=10), tmp_path / "store")
    assert packed.header.dtype == "uint32"
    assert packed.train.max() > 70_000
    assert packed.header.train.unknown == (packed.train == 1).sum() > 0


@pytest.mark.parametrize(
    ("content", "packing", "told"),
    [
        ("good film\n\nthe plot\n", {"length": 64, "hold_out": 2}, "one sequence takes 62"),
        ("good film and a story\n" * 40, {"length": 8}, "has 1 documents, too few to hold out every 50th"),
        ("юля\n\nюля\n" * 40, {"length": 8, "hold_out": 2}, "does not know .* train a new one"),
    ],
)
def test_corpora_that_give_nothing_to_learn_are_refused(tmp_path, tokenizer_folder, content, packing, told):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(InputError, match=told):
        pack_corpus([tmp_path / "a.txt"], [], tokenizer_folder, Packing(**packing), tmp_path)


def test_a_full_disk_is_told_in_one_sentence(tmp_path, corpus_file, tokenizer_folder, monkeypatch):
    write = corpus._write

    def on_a_full_disk(target, *rest):
        (target / "train.bin").symlink_to("/dev/full")
        write(target, *rest)

    monkeypatch.setattr(corpus, "_write", on_a_full_disk)
    with pytest.raises(CheckError, match=r"cannot write the packed corpus \(No space left on device\): make room"):
        pack_corpus([corpus_file], [], tokenizer_folder, Packing(length=LENGTH, hold_out=10), tmp_path)
