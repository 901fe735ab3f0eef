"""The table of words in front of a tokenizer: what the tokenizer itself says is the reference."""

import random
import string

import pytest
import tokenizers
from tiny import BAD, GOOD, OTHER, write_bpe_tokenizer, write_tokenizer

import service.model.wordpiece_cache
from models.tokenizer import Tokenizer
from service.model.wordpiece_cache import WordPieceCache

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + "  "
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(params=["no added tokens", "special tokens"])
def tokenizer(tmp_path, request):
    write_tokenizer(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    if request.param == "special tokens":
        backend = tokenizers.Tokenizer.from_file(path)
        backend.add_special_tokens(SPECIAL)
        backend.save(path)
    return Tokenizer.open(tmp_path, 24)


def texts():
    chance = random.Random(0)
    words = [*GOOD, *BAD, *OTHER, "Good", "unheard", "x" * 120, "it's", "3.5%", "_a_", "[", "]"]
    for _ in range(400):
        yield "".join(chance.choice(PRINTABLE) for _ in range(chance.randrange(120)))
        yield " ".join(chance.choice(words) for _ in range(chance.randrange(30)))
    yield from ("", " ", "a", "good" * 30)


def test_equals_the_tokenizer(tokenizer):
    words = WordPieceCache.of(tokenizer)
    pairs = [(words.encode(text), tokenizer.encode([(text,)])[0]) for text in texts() for _ in range(2)]
    known = [(found, wanted) for found, wanted in pairs if found is not None]
    assert len(known) > 400
    assert all(found == wanted for found, wanted in known)


@pytest.mark.parametrize("text", ["café", "a\nb", "a\x00b", "a\tb", "好", "a" * 3000])
def test_leaves_other_texts_to_the_tokenizer(tokenizer, text):
    assert WordPieceCache.of(tokenizer).encode(text) is None


@pytest.mark.parametrize("tokenizer", ["special tokens"], indirect=True)
def test_leaves_texts_with_special_tokens_to_the_tokenizer(tokenizer):
    assert WordPieceCache.of(tokenizer).encode("a [MASK] film") is None
    assert WordPieceCache.of(tokenizer).encode("a film").ids == tokenizer.encode([("a film",)])[0].ids


def test_a_full_table_goes_on(tokenizer, monkeypatch):
    monkeypatch.setattr(service.model.wordpiece_cache, "MOST_WORDS", 5)
    words = WordPieceCache.of(tokenizer)
    for text in texts():
        found = words.encode(text)
        assert found is None or found == tokenizer.encode([(text,)])[0]
    assert len(words._ids) <= 5


def test_other_makes_have_none(tmp_path):
    write_bpe_tokenizer(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    assert WordPieceCache.of(Tokenizer.open(tmp_path, 24)) is None


def test_an_added_word_has_none(tokenizer):
    tokenizer._backend.add_tokens(["film noir"])
    assert WordPieceCache.of(tokenizer) is None
