"""Tokenizer: texts → TokenBatch. The same code in training, in measuring and in serving."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray

from models.errors import FolderError, InputError

FILE = "tokenizer.json"
PIECE = 1024  # rows tokenized at once: of each the library keeps strings, offsets, and what was cut off
Row = tuple[str, ...]  # one text, or the two texts of a pair


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as tokens: ids and segment types, both of `len(ids)` tokens, special tokens included."""

    ids: list[int]
    types: list[int]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows padded on the right to the longest of them; every array is (rows, tokens), int64."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]  # 1 on real tokens, 0 on padding
    types: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Number of texts."""
        return int(self.ids.shape[0])


class Tokenizer:
    """A `tokenizers` tokenizer with this project's rules: cut at `max_tokens`, pad on the right only as needed.

    Where `table` is the number of rows of the model's token table, tokens beyond it become the unknown token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, max_tokens: int, table: int | None = None) -> None:
        backend.no_padding()  # files on the hub often ask for padding to a fixed length
        self._backend = backend
        self.max_tokens = max_tokens
        self.pad_id = _pad_id(backend)
        self._cut("right")
        self._parts: dict[str, Any] | None = None
        self.strangers: tuple[str, ...] = () if table is None else self.beyond(table)
        self._table = table if self.strangers else None
        if self.strangers:
            assert table is not None, "else nothing is beyond it"
            self._unknown = _unknown_id(backend)
            if self._unknown is None or self._unknown >= table:
                raise FolderError(f"{self.told_of_strangers()}; there is no unknown token in the table")
            self.pad_id = self.pad_id if self.pad_id < table else 0  # any row: padding is masked

    @classmethod
    def open(cls, folder: Path, max_tokens: int, table: int | None = None) -> "Tokenizer":
        """Open `tokenizer.json` of a model folder.

        Raises:
            FolderError: there is none, it is not a tokenizer file, or it has tokens beyond the table and no unknown
                token.
        """
        return cls(read_backend(folder), max_tokens, table)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def beyond(self, table: int) -> tuple[str, ...]:
        """Return the tokens that texts may become, or that are put around them, beyond a table of `table` rows."""
        ids = {i: token for token, i in self._backend.get_vocab(with_added_tokens=True).items() if i >= table}
        ids |= {i: f"id {i}" for i in self.special_ids if i >= table and i not in ids}
        return tuple(ids[i] for i in sorted(ids))

    def told_of_strangers(self) -> str:
        """Return what is wrong where there are tokens beyond the table."""
        named = ", ".join(repr(token) for token in self.strangers[:3])
        more = f" and {len(self.strangers) - 3} more" if len(self.strangers) > 3 else ""
        return f"the tokenizer has tokens that the model's token table lacks, which become unknown: {named}{more}"

    @property
    def segments(self) -> int:
        """Number of segment types that a pair of texts gets."""
        return 1 + max(self._backend.encode("a", "a").type_ids, default=0)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are put around texts."""
        return frozenset((*self._backend.encode("").ids, *self._backend.encode("", "").ids))

    def encode(self, rows: Sequence[Row], direction: Literal["left", "right"] = "right") -> list[Encoded]:
        """Tokenize rows of one text or two; `direction` is the end at which a long text loses tokens.

        Raises:
            InputError: a row has neither one text nor two.
        """
        for row in rows:
            if len(row) not in (1, 2):
                raise InputError(f"a row is one text or a pair, found {len(row)} texts")
        if direction != self._direction:
            self._cut(direction)
        inputs = [row[0] if len(row) == 1 else (row[0], row[1]) for row in rows]
        pieces = (inputs[place : place + PIECE] for place in range(0, len(inputs), PIECE))
        encoded = [Encoded(e.ids, e.type_ids) for piece in pieces for e in self._backend.encode_batch_fast(piece)]
        if self._table is None:
            return encoded
        return [Encoded(self._in_table(e.ids), e.types) for e in encoded]

    def pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Return the token ids of words without special tokens, as many of each as fit a row."""
        ids = [e.ids for e in self._backend.encode_batch_fast(list(words), add_special_tokens=False)]
        return ids if self._table is None else [self._in_table(one) for one in ids]

    def parts(self) -> dict[str, Any]:
        """Return `normalizer`, `pre_tokenizer` and `added_tokens` of its file, and the type of its `model`."""
        if self._parts is None:
            document = json.loads(self._backend.to_str())
            named = {name: document.get(name) for name in ("normalizer", "pre_tokenizer")}
            added = document.get("added_tokens") or []
            self._parts = {**named, "added_tokens": added, "model": document["model"].get("type")}
        return self._parts

    def pad(self, encoded: Sequence[Encoded]) -> TokenBatch:
        """Return the rows as one batch, padded on the right to the longest."""
        longest = max((len(e.ids) for e in encoded), default=0)
        ids = np.full((len(encoded), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        for row, e in enumerate(encoded):
            ids[row, : len(e.ids)] = e.ids
            mask[row, : len(e.ids)] = 1
            types[row, : len(e.types)] = e.types
        return TokenBatch(ids, mask, types)

    def batch(self, rows: Sequence[Row]) -> TokenBatch:
        """Tokenize and pad in one call."""
        return self.pad(self.encode(rows))

    def _in_table(self, ids: list[int]) -> list[int]:
        assert self._table is not None, "else every id is in it"
        assert self._unknown is not None, "else the tokenizer was refused"
        return [i if i < self._table else self._unknown for i in ids]

    def _cut(self, direction: Literal["left", "right"]) -> None:
        self._backend.enable_truncation(self.max_tokens, strategy="longest_first", direction=direction)
        self._direction = direction


def read_backend(folder: Path) -> tokenizers.Tokenizer:
    """Return what `tokenizer.json` of a folder holds, with the settings of the file.

    Raises:
        FolderError: there is none, or it is not a tokenizer file.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FolderError(f"{folder} has no {FILE}: wanted a fast-tokenizer file beside the weights")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for every kind of bad file
        raise FolderError(f"{path} is not a tokenizer file: {error}") from None


def _pad_id(backend: tokenizers.Tokenizer) -> int:
    for token in ("[PAD]", "<pad>"):
        found = backend.token_to_id(token)
        if found is not None:
            return int(found)
    raise FolderError("the tokenizer has no padding token: wanted [PAD] or <pad> in its vocabulary")


def _unknown_id(backend: tokenizers.Tokenizer) -> int | None:
    for token in ("[UNK]", "<unk>", json.loads(backend.to_str())["model"].get("unk_token")):
        found = None if token is None else backend.token_to_id(token)
        if found is not None:
            return int(found)
    return None
