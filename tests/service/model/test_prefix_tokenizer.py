"""Of a long text only the beginning is tokenized: the tokenizer, given all of it, is the reference."""

import random

import pytest
import tokenizers
from tiny import BAD, GOOD, OTHER, write_bpe_tokenizer, write_tokenizer
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers

from models.tokenizer import Tokenizer
from service.model.prefix_tokenizer import PrefixTokenizer

WORDS = [*GOOD, *BAD, *OTHER, "it's", "3.5%", "unheard", "x" * 130, "zażółć", "ΣΟΦΟΣ", "ﬁne", "Å"]
ODD = ["\u0301", "\u00a8", "\u0600", "\u200d", "中文", "😀", "\x00", "\t", "\n", "  ", "▁", "\u00a0", "\ufeff"]
MARKS = ["[MASK]", "<mask>", "[CLS]", "</s>"]


def write_unigram(folder, pre, normalizer):
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.normalizer = pre, normalizer
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator([f"{a} {b}" for a in WORDS for b in OTHER], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    backend.save(str(folder / "tokenizer.json"))


def write(kind, folder):
    if kind == "wordpiece":
        write_tokenizer(folder)
    elif kind == "byte-level":
        write_bpe_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    elif kind == "unigram":
        spaces = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
        write_unigram(folder, pre_tokenizers.Metaspace(), normalizers.Sequence([normalizers.NFKC(), spaces]))
    else:
        pre = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace()]
        write_unigram(folder, pre_tokenizers.Sequence(pre), normalizers.Lowercase())
    path = str(folder / "tokenizer.json")
    if kind in ("wordpiece", "byte-level"):
        mask = "[MASK]" if kind == "wordpiece" else "<mask>"
        backend = tokenizers.Tokenizer.from_file(path)
        backend.add_special_tokens([AddedToken(mask, lstrip=True, rstrip=True)])
        backend.add_tokens([AddedToken("film-noir", single_word=True)])
        backend.save(path)


KINDS = ["wordpiece", "byte-level", "unigram", "sequence"]


def texts(count, most=400):
    chance = random.Random(0)
    for _ in range(count):
        odd = chance.choice([0.0, 0.0, 0.05, 0.3])
        parts = [
            chance.choice([*ODD, *MARKS, "film-noir"]) if chance.random() < odd else chance.choice(WORDS)
            for _ in range(chance.randrange(most))
        ]
        yield chance.choice([" ", " ", "  ", ""]).join(parts)


class Seen:
    """A tokenizer that counts the characters that it is given."""

    def __init__(self, tokenizer):
        self._tokenizer, self.max_tokens, self.chars = tokenizer, tokenizer.max_tokens, 0

    def encode(self, rows):
        self.chars += sum(len(part) for row in rows for part in row)
        return self._tokenizer.encode(rows)


@pytest.mark.parametrize("max_tokens", [4, 24])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_whole_text(tmp_path, kind, max_tokens):
    write(kind, tmp_path)
    tokenizer = Tokenizer.open(tmp_path, max_tokens)
    assert PrefixTokenizer.of(tokenizer) is not None
    heads = PrefixTokenizer(seen := Seen(tokenizer))
    rows = [(text,) for text in texts(300)]
    assert heads.encode(rows) == tokenizer.encode(rows)
    assert seen.chars < sum(len(row[0]) for row in rows)
    seen.chars = 0
    row = (" ".join(["good", "film"] * 10_000),)
    assert heads.encode([row]) == tokenizer.encode([row])
    assert seen.chars < 10 * max_tokens


def test_pairs_are_whole_and_mixed_rows_keep_their_order(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, 12)
    pool = list(texts(40))
    rows = [(a, b) if i % 3 else (a,) for i, (a, b) in enumerate(zip(pool, reversed(pool), strict=True))]
    assert PrefixTokenizer.of(tokenizer).encode(rows) == tokenizer.encode(rows)
    assert PrefixTokenizer.of(tokenizer).encode([]) == []


@pytest.mark.parametrize("kind", ["an added token with a space", "no spaces", "all in one", "a far normalizer"])
def test_other_tokenizers_get_the_whole_text(tmp_path, kind):
    write("unigram", tmp_path)
    path = str(tmp_path / "tokenizer.json")
    backend = tokenizers.Tokenizer.from_file(path)
    if kind == "an added token with a space":
        backend.add_tokens(["film noir"])
    elif kind == "no spaces":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    elif kind == "all in one":
        backend = tokenizers.Tokenizer(backend.model)
    else:
        backend.normalizer = normalizers.Replace(tokenizers.Regex("good.*end"), "x")
    backend.save(path)
    assert PrefixTokenizer.of(Tokenizer.open(tmp_path, 12)) is None
