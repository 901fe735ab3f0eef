"""Heads: of a text that will be cut on the right, only the beginning is tokenized, where the result is the same.

A tokenizer that splits at spaces makes the same tokens of the words before a space whatever stands behind it. So
where the beginning, up to spaces between two printable ASCII characters, fills the model, the rest of a text of
megabytes need not be looked at. Where it does not, a longer beginning is tried, in the end all of it.
"""

import re
from collections.abc import Sequence
from typing import Any

from models.tokens import Encoded, Row, Tokenizer

BOUNDARY = re.compile(r"[!-~](?= +[!-~])")  # no normalizer below looks across it: nothing here combines
CHARS = 8  # for each token that the model takes, at first: words have 4 to 6
GROWTH = 8
SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}  # pre-tokenizers that split at every space
INSIDE = {"Punctuation", "Digits"}  # and those that look at neighbours only
LOCAL = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Precompiled", "Nmt", "Prepend"}
MODELS = {"WordPiece", "BPE", "Unigram", "WordLevel"}  # see one word at a time


class Heads:
    """Tokenizes the beginnings of texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.chars = CHARS * tokenizer.max_tokens  # of the first beginning

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Heads | None":
        """Return the heads of a tokenizer that cuts on the right; None where the rest of a text may matter."""
        parts = tokenizer.parts()
        added = any(char.isspace() for token in parts["added_tokens"] for char in token["content"])
        if added or parts["model"] not in MODELS or not _is_local(parts["normalizer"]):
            return None
        return cls(tokenizer) if _splits(parts["pre_tokenizer"]) else None

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Return rows as tokens, as the tokenizer does; pairs are tokenized whole: how one is cut depends on both."""
        chars, left = self.chars, list(range(len(rows)))
        found: dict[int, Encoded] = {}
        while left:
            heads = [_head(rows[i], chars) for i in left]
            for i, head, one in zip(left, heads, self._tokenizer.encode(heads), strict=True):
                if head is rows[i] or len(one.ids) == self._tokenizer.max_tokens:
                    found[i] = one
            left = [i for i in left if i not in found]
            chars *= GROWTH
        return [found[i] for i in range(len(rows))]


def _head(row: Row, chars: int) -> Row:
    """Return the row, or its first `chars` characters and those up to the next boundary."""
    if len(row) > 1 or len(row[0]) <= chars:
        return row
    boundary = BOUNDARY.search(row[0], chars)
    return row if boundary is None else (row[0][: boundary.end()],)


def _is_local(normalizer: dict[str, Any] | None) -> bool:
    """Whether a normalizer changes what is before a boundary in the same way, whatever is behind it."""
    if normalizer is None:
        return True
    match normalizer["type"]:
        case "Sequence":
            return all(_is_local(one) for one in normalizer["normalizers"])
        case "Replace":
            return normalizer["pattern"] in ({"Regex": " {2,}"}, {"String": " "})
        case kind:
            return kind in LOCAL


def _splits(splitter: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer splits at every space, and looks no further."""
    if splitter is None:
        return False
    match splitter["type"]:
        case "Sequence":
            inner = splitter["pretokenizers"]
            return any(map(_splits, inner)) and all(_splits(one) or one["type"] in INSIDE for one in inner)
        case "ByteLevel":
            return bool(splitter.get("use_regex", True))
        case "Metaspace":
            return bool(splitter.get("split", True))
        case kind:
            return kind in SPLITTING
