"""Tokenizer: texts → TokenBatch. The same code in training, in measuring and in serving."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    """A `tokenizers` tokenizer with this project's rules: cut at `max_tokens`, pad on the right only as needed."""

    def __init__(self, backend: tokenizers.Tokenizer, max_tokens: int) -> None:
        backend.no_padding()  # files on the hub often ask for padding to a fixed length
        self._backend = backend
        self.max_tokens = max_tokens
        self.pad_id = _pad_id(backend)
        self._cut("right")

    @classmethod
    def open(cls, folder: Path, max_tokens: int) -> "Tokenizer":
        """Open `tokenizer.json` of a model folder.

        Raises:
            FolderError: there is none, or it is not a tokenizer file.
        """
        return cls(read_backend(folder), max_tokens)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

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
        return [Encoded(e.ids, e.type_ids) for piece in pieces for e in self._backend.encode_batch_fast(piece)]

    def pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Return the token ids of words without special tokens, as many of each as fit a row."""
        return [e.ids for e in self._backend.encode_batch_fast(list(words), add_special_tokens=False)]

    def definition(self) -> str:
        """Return what its file says, as JSON."""
        return str(self._backend.to_str())

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
