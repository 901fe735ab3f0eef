"""Prefix tokenization: of a text that is truncated on the right, only a prefix is tokenized when the result is equal.

A tokenizer that splits at spaces gives the words before a space the same tokens whatever follows the space. So if a
prefix that ends before spaces between two printable ASCII characters gives as many tokens as the model takes, the
rest of the text need not be read. If it does not, a longer prefix is tried, up to the whole text.
"""

import re
from collections.abc import Sequence
from typing import Any

from models.tokenizer import Encoded, Row, Tokenizer

# A place where a text may be split. The normalizers in LOCAL do not look across it: no ASCII character combines with
# another.
BOUNDARY = re.compile(r"[!-~](?= +[!-~])")
CHARS = 8  # characters of the first prefix per token that the model takes: words have 4 to 6
GROWTH = 8  # factor from one prefix to the next
SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}  # pre-tokenizers that split at every space
ADJACENT = {"Punctuation", "Digits"}  # pre-tokenizers that read adjacent characters only
LOCAL = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Precompiled", "Nmt", "Prepend"}
MODELS = {"WordPiece", "BPE", "Unigram", "WordLevel"}  # tokenizer models that process each word independently


class PrefixTokenizer:
    """Tokenizes prefixes of texts, with the same result as the whole texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.chars = CHARS * tokenizer.max_tokens  # of the first prefix

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "PrefixTokenizer | None":
        """Wrap a tokenizer that truncates on the right; None where the rest of a text may change the tokens."""
        parts = tokenizer.parts()
        has_spaces = any(char.isspace() for token in parts["added_tokens"] for char in token["content"])
        if has_spaces or parts["model"] not in MODELS or not _is_local(parts["normalizer"]):
            return None
        return cls(tokenizer) if _splits_at_spaces(parts["pre_tokenizer"]) else None

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Tokenize rows as the tokenizer does. Pairs are tokenized whole: truncation of one text depends on both."""
        chars, remaining = self.chars, list(range(len(rows)))
        results: dict[int, Encoded] = {}
        while remaining:
            prefixes = [_prefix(rows[i], chars) for i in remaining]
            for i, prefix, encoded in zip(remaining, prefixes, self._tokenizer.encode(prefixes), strict=True):
                if prefix is rows[i] or len(encoded.ids) == self._tokenizer.max_tokens:
                    results[i] = encoded
            remaining = [i for i in remaining if i not in results]
            chars *= GROWTH
        return [results[i] for i in range(len(rows))]


def _prefix(row: Row, chars: int) -> Row:
    """Return the first `chars` characters of the text and those up to the next boundary, or the row itself."""
    if len(row) > 1 or len(row[0]) <= chars:
        return row
    boundary = BOUNDARY.search(row[0], chars)
    return row if boundary is None else (row[0][: boundary.end()],)


def _is_local(normalizer: dict[str, Any] | None) -> bool:
    """Whether the normalized text before a boundary is independent of the text behind it."""
    if normalizer is None:
        return True
    match normalizer["type"]:
        case "Sequence":
            return all(_is_local(part) for part in normalizer["normalizers"])
        case "Replace":
            return normalizer["pattern"] in ({"Regex": " {2,}"}, {"String": " "})
        case kind:
            return kind in LOCAL


def _splits_at_spaces(splitter: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer splits at every space and reads nothing beyond it."""
    if splitter is None:
        return False
    match splitter["type"]:
        case "Sequence":
            parts = splitter["pretokenizers"]
            splits = any(map(_splits_at_spaces, parts))
            return splits and all(_splits_at_spaces(part) or part["type"] in ADJACENT for part in parts)
        case "ByteLevel":
            return bool(splitter.get("use_regex", True))
        case "Metaspace":
            return bool(splitter.get("split", True))
        case kind:
            return kind in SPLITTING
