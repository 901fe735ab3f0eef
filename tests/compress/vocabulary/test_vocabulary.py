"""Trimmed tokenizers split covered texts as before, and say no new unknowns."""

import json

import numpy as np
import pytest
import tokenizers
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts
from tokenizers import models, pre_tokenizers, processors, trainers

from compress.config import CompressConfig
from compress.inputs.inputs import CompressionInputs
from compress.inputs.source import open_source
from compress.pipeline import trimmed_source
from compress.vocabulary.frequent_tokens import SPLIT_SHARE, frequent_tokens, script
from compress.vocabulary.subset import read_tokenizer, trim_model, trim_tokenizer
from models.checkpoint import load_checkpoint
from models.data.texts import Texts
from models.errors import DisagreementError, InputError, NoEffectError
from models.finetuning.predict import predict
from models.tokenizer import Tokenizer

COVERED = [row for (row,) in tiny_texts(6).rows]
OTHERS = [row for (row,) in tiny_texts(64).rows] + ["weird zebra", "q", "lovely dreary scene", "très"]


def unigram(folder):
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(OTHERS * 5, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))


@pytest.fixture(params=["bert", "roberta", "unigram"])
def folder(request, tmp_path):
    if request.param == "bert":
        make_tiny_checkpoint(tmp_path)
    elif request.param == "roberta":
        make_tiny_family(tmp_path, "roberta")
    else:
        unigram(tmp_path)
    return tmp_path


def trimmed(folder, texts):
    before = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    used = {i for text in texts for i in before.encode(text).ids}
    found = trim_tokenizer(read_tokenizer(folder), used)
    return before, tokenizers.Tokenizer.from_str(json.dumps(found.document)), found.kept_ids


def test_covered_texts_have_equal_tokens_and_mapped_ids(folder):
    before, after, kept = trimmed(folder, COVERED)
    assert after.get_vocab_size() == len(kept) < before.get_vocab_size()
    for text in COVERED:
        old, new = before.encode(text), after.encode(text)
        assert old.tokens == new.tokens
        assert old.ids == kept[new.ids].tolist()
        assert old.type_ids == new.type_ids


def test_nothing_becomes_unknown(folder):
    before, after, _ = trimmed(folder, COVERED)
    unknown = {"[UNK]", "<unk>"}
    for text in OTHERS:
        assert unknown.isdisjoint(after.encode(text).tokens) or not unknown.isdisjoint(before.encode(text).tokens), (
            text
        )


@pytest.mark.parametrize("fallback", [True, False])
def test_the_bytes_that_stand_for_unknown_characters_stay(fallback):
    names = ["<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"abcd", "ab", "cd"]
    model = models.BPE(
        {name: i for i, name in enumerate(names)}, [("a", "b"), ("c", "d")], unk_token="<unk>", byte_fallback=fallback
    )
    before = tokenizers.Tokenizer(model)
    found = trim_tokenizer(json.loads(before.to_str()), before.encode("ab").ids)
    after = tokenizers.Tokenizer.from_str(json.dumps(found.document))
    assert after.encode("ab中").tokens == before.encode("ab中").tokens
    assert ("cd" in after.get_vocab()) is False
    assert ("<0xE4>" in after.get_vocab()) is fallback


def test_every_special_token_keeps_its_place_in_a_row(folder):
    before, after, _ = trimmed(folder, COVERED)
    for pair in ((COVERED[0], COVERED[1]), (OTHERS[-1], OTHERS[-2])):
        old, new = before.encode(*pair), after.encode(*pair)
        assert (old.tokens[0], old.tokens[-1]) == (new.tokens[0], new.tokens[-1])
        assert old.special_tokens_mask.count(1) == new.special_tokens_mask.count(1)


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
def test_the_trimmed_model_answers_covered_texts_as_before(tmp_path, family):
    make_tiny_family(tmp_path, family)
    before, model = Tokenizer.open(tmp_path, 24), load_checkpoint(tmp_path)
    rows = [(text,) for text in COVERED]
    used = {i for e in before.encode(rows) for i in e.ids}
    found = trim_tokenizer(read_tokenizer(tmp_path), used)
    smaller = trim_model(model, found.kept_ids, 24)
    assert smaller.architecture.vocabulary == len(found.kept_ids)
    assert smaller.architecture.positions == 24
    (tmp_path / "tokenizer.json").write_text(json.dumps(found.document), encoding="utf-8")
    after = Tokenizer.open(tmp_path, 24)
    assert after.pad_id == smaller.architecture.pad_id
    wanted = predict(model, before.encode(rows), before)
    assert np.array_equal(predict(smaller, after.encode(rows), after), wanted)


def test_a_tokenizer_whose_tokens_are_all_used_is_not_trimmed(tmp_path):
    make_tiny_checkpoint(tmp_path)
    model = load_checkpoint(tmp_path)
    found = trim_tokenizer(read_tokenizer(tmp_path), range(model.architecture.vocabulary))
    with pytest.raises(NoEffectError, match="nothing to trim"):
        trim_model(model, found.kept_ids, 24)


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    make_tiny_checkpoint(tmp_path)
    document = read_tokenizer(tmp_path)
    document["model"]["type"] = "WordLevel"
    with pytest.raises(InputError, match="WordLevel"):
        trim_tokenizer(document, [0])


def lost(names, used, held_out):
    """Return the number of held-out tokens that are dropped, and the tokens that stay besides `used`."""
    kept = frequent_tokens(names, used, held_out)
    assert not kept & used
    return sum(token not in used | kept for token in held_out), kept


def test_frequent_tokens_stay_until_held_out_texts_are_split_as_before():
    names = dict.fromkeys(range(2000), "##word")
    held_out = [*range(1000), 5, 5, 5]
    assert lost(names, set(range(1000)), held_out) == (0, set())
    number, kept = lost(names, set(range(0, 1000, 2)), held_out)  # odd ones were never seen
    assert number == 10 == int(len(held_out) * SPLIT_SHARE)
    assert kept == set(range(1, max(kept) + 1, 2))
    assert lost(names, set(), [7]) == (0, set(range(8)))
    assert lost(names, set(), [2000, 3]) == (1, {0, 1, 2, 3})  # an added token that the vocabulary lacks


def test_of_a_vocabulary_of_many_languages_the_frequent_tokens_of_the_texts_stay_only():
    names = {i: ("▁word", "слово", "中文", "▁123")[i % 4] for i in range(10_000)}
    held_out = [*range(2, 8000, 8)] * 2 + [9996]  # half of the Chinese tokens, and a Latin one
    number, kept = lost(names, set(), held_out)
    assert number <= len(held_out) * SPLIT_SHARE
    assert {names[i] for i in kept} == {"中文"}
    assert max(kept) < 8000
    assert 9996 not in kept  # one lost token frees the rows of a whole script


def test_the_script_of_a_token_is_that_of_its_first_letter():
    assert [script(name) for name in ("▁word", "##été", "酒店", "、很", "слово", "ホテル", "12", "<0x0A>")] == [
        "LATIN", "LATIN", "CJK", "CJK", "CYRILLIC", "KATAKANA", "", "LATIN",
    ]  # fmt: skip


def test_a_truncated_text_is_split_as_before_where_its_end_decides_how_its_beginning_is_split(tmp_path):
    """A Unigram tokenizer prefers a|bcd to ab|c|d; without "bcd", which is beyond max_tokens, it would take ab."""
    make_tiny_family(tmp_path / "source", "deberta-v2")
    document = read_tokenizer(tmp_path / "source")
    pieces = {"ab": -3.0, "bcd": -4.0, "zz": -5.0} | dict.fromkeys("▁abcdz", -10.0)
    document["model"]["vocab"][5:] = [[name, score] for name, score in pieces.items()]
    document["model"]["vocab"][4] = ["[MASK]", 0.0]
    document["added_tokens"][-1]["id"] = 4
    (tmp_path / "source" / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    rows = [("abcd",), ("ab",)] * 30
    texts = Texts(rows, ["LABEL_0", "LABEL_1"] * 30, "rows")
    source = open_source(tmp_path / "source", tmp_path, max_tokens=4)
    before = Tokenizer.open(source.path, 4)
    folder = trimmed_source(
        CompressionInputs(source, texts, texts), CompressConfig(heal=None, vocabulary="trim"), tmp_path
    )
    after = Tokenizer.open(folder.path, 4)
    assert after.vocabulary < before.vocabulary
    for one, other in zip(before.encode(rows), after.encode(rows), strict=True):
        assert before.token_strings(one.ids) == after.token_strings(other.ids)


def test_an_unknown_character_costs_as_much_as_before():
    """Its score is the lowest of the table minus ten: without "zz", abc|d (d is unknown) would be preferred."""
    pieces = {"<unk>": 0.0, "ab": -15.0, "cd": -15.0, "abc": -1.0, "zz": -30.0, "yy": -2.0}
    before = tokenizers.Tokenizer(models.Unigram(list(pieces.items()), unk_id=0))
    texts = ["abcd", "abc"]
    used = {i for text in texts for i in before.encode(text).ids}
    document = trim_tokenizer(json.loads(before.to_str()), used).document
    after = tokenizers.Tokenizer.from_str(json.dumps(document))
    assert after.get_vocab_size() == before.get_vocab_size() - 1
    assert [after.encode(text).tokens for text in texts] == [["ab", "cd"], ["abc"]]


def multilingual(folder, store):
    """Return inputs whose texts a smaller tokenizer splits otherwise, as in scripts that a vocabulary half covers.

    "abc" is unknown: its longest beginning is "ab", and nothing goes on from there. Without "ab" it is "a", "##bc".
    """
    make_tiny_checkpoint(folder)
    document = read_tokenizer(folder)
    places = document["model"]["vocab"]
    for old, new in (("##c", "##bc"), ("plot", "ab")):
        places[new] = places.pop(old)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    texts = Texts([("abc",), ("xbc",)] * 60, ["LABEL_0", "LABEL_1"] * 60, "two scripts")
    return CompressionInputs(
        open_source(folder, store, max_tokens=32), texts, texts.take(range(60)), texts.take(range(60, 120))
    )


def test_a_vocabulary_that_cannot_be_trimmed_ends_no_compression_unless_trimming_was_asked_for(tmp_path, capsys):
    inputs = multilingual(tmp_path / "source", tmp_path)
    config = CompressConfig(heal=None)
    assert trimmed_source(inputs, config, tmp_path).id == inputs.source.id
    assert "WARNING" not in capsys.readouterr().err
    for_size = config.model_copy(update={"vocabulary": "trim_if_possible"})
    assert trimmed_source(inputs, for_size, tmp_path).id == inputs.source.id
    assert "WARNING: the vocabulary stays whole" in capsys.readouterr().err
    with pytest.raises(DisagreementError, match="60 training texts are split differently"):
        trimmed_source(inputs, config.model_copy(update={"vocabulary": "trim"}), tmp_path)


def test_a_tokenizer_of_another_kind_ends_no_compression_either(tmp_path, capsys):
    inputs = multilingual(tmp_path / "source", tmp_path)
    path = inputs.source.path / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"] = {"type": "WordLevel", "vocab": document["model"]["vocab"], "unk_token": "[UNK]"}
    path.write_text(json.dumps(document))
    config = CompressConfig(heal=None, vocabulary="trim_if_possible")
    assert trimmed_source(inputs, config, tmp_path).id == inputs.source.id
    assert "a WordLevel tokenizer cannot be trimmed" in capsys.readouterr().err


def test_what_trimming_changes_is_counted_on_texts_that_did_not_set_its_limit(tmp_path):
    make_tiny_checkpoint(tmp_path / "source")
    rows = tiny_texts(64).rows
    labels = ["LABEL_0", "LABEL_1"]
    train, choosing = (Texts([("good film",), ("bad film",)] * 4, labels * 4, name) for name in ("train", "choosing"))
    reported = Texts(rows, labels * 32, "reported")
    inputs = CompressionInputs(open_source(tmp_path / "source", tmp_path, max_tokens=32), train, choosing, reported)
    folder = trimmed_source(inputs, CompressConfig(heal=None, vocabulary="trim"), tmp_path)
    told = json.loads((folder.path / "report.json").read_text())
    assert told["held_out_texts"] == 64
    assert told["held_out_split_otherwise"] > 32  # nothing of them was looked at
    blind = CompressionInputs(inputs.source, train, choosing)
    told = json.loads(
        (
            trimmed_source(blind, CompressConfig(heal=None, vocabulary="trim"), tmp_path).path / "report.json"
        ).read_text()
    )
    assert (told["held_out_split_otherwise"], told["chosen_on_reported_rows"]) == (0, True)
