"""Tokenizer: texts → token ids → TokenBatch. Training, benchmarks and the service use the same code."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray

from models.errors import FolderError, InputError
from models.forms.foreign_file import refuse_foreign_file

FILE = "tokenizer.json"
PIECE = 1024  # rows per library call, to limit memory: strings, offsets and truncated parts of all rows are kept
Row = tuple[str, ...]  # one text, or the two texts of a pair
NAMED = 3  # maximum number of tokens named in a message


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized row: ids and segment types of its tokens, special tokens included; both have `len(ids)` items."""

    ids: list[int]
    types: list[int]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows padded on the right to the length of the longest; every array is (rows, tokens), int64."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]  # 1 on real tokens, 0 on padding
    types: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.ids.shape[0])


class Tokenizer:
    """A `tokenizers` tokenizer that truncates to `max_tokens` and pads on the right to the longest row of a batch.

    If `table` is given, the number of rows of the model's token table, tokens beyond it become the unknown token.
    `out_of_table` has these tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer, max_tokens: int, table: int | None = None) -> None:
        backend.no_padding()  # tokenizer files on the hub often set padding to a fixed length
        self._backend = backend
        self.max_tokens = max_tokens
        self.pad_id = _pad_id(backend)
        self._set_truncation("right")
        self._parts: dict[str, Any] | None = None
        self.out_of_table: tuple[str, ...] = () if table is None else self.beyond(table)
        self._table = table if self.out_of_table else None
        if self.out_of_table:
            assert table is not None, "without a table no token is beyond it"
            self._unknown = _unknown_id(backend)
            if self._unknown is None or self._unknown >= table:
                raise FolderError(f"{self.out_of_table_message()}; there is no unknown token in the table")
            self.pad_id = self.pad_id if self.pad_id < table else 0  # any valid row will do: padding is masked

    @classmethod
    def open(cls, folder: Path, max_tokens: int, table: int | None = None) -> "Tokenizer":
        """Open `tokenizer.json` of a model folder.

        Raises:
            FolderError: the file is missing or not a tokenizer, or has tokens beyond the table and no unknown token.
        """
        return cls(read_backend(folder), max_tokens, table)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def beyond(self, table: int) -> tuple[str, ...]:
        """Return the tokens, special tokens included, whose ids are beyond a token table of `table` rows."""
        ids = {i: token for token, i in self._backend.get_vocab(with_added_tokens=True).items() if i >= table}
        ids |= {i: f"id {i}" for i in self.special_ids if i >= table and i not in ids}
        return tuple(ids[i] for i in sorted(ids))

    def out_of_table_message(self) -> str:
        """Return the warning about the tokens in `out_of_table`."""
        named, others = self.out_of_table[:NAMED], len(self.out_of_table) - NAMED
        tokens = ", ".join(repr(token) for token in named) + (f" and {others} more" if others > 0 else "")
        return f"the tokenizer has tokens that the model's token table lacks, which become unknown: {tokens}"

    @property
    def segments(self) -> int:
        """Number of segment types that the tokenizer uses for a pair of texts."""
        return 1 + max(self._backend.encode("a", "a").type_ids, default=0)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens that are added to a text or a pair."""
        return frozenset((*self._backend.encode("").ids, *self._backend.encode("", "").ids))

    def encode(self, rows: Sequence[Row], direction: Literal["left", "right"] = "right") -> list[Encoded]:
        """Tokenize rows of one or two texts; `direction` is the end at which long texts are truncated.

        Raises:
            InputError: a row has neither one text nor two.
        """
        for row in rows:
            if len(row) not in (1, 2):
                raise InputError(f"a row is one text or a pair, found {len(row)} texts")
        if direction != self._direction:
            self._set_truncation(direction)
        inputs = [row[0] if len(row) == 1 else (row[0], row[1]) for row in rows]
        chunks = (inputs[start : start + PIECE] for start in range(0, len(inputs), PIECE))
        encoded = [Encoded(e.ids, e.type_ids) for chunk in chunks for e in self._backend.encode_batch_fast(chunk)]
        if self._table is None:
            return encoded
        return [Encoded(self._in_table(e.ids), e.types) for e in encoded]

    def pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each word without special tokens, truncated to `max_tokens`."""
        ids = [e.ids for e in self._backend.encode_batch_fast(list(words), add_special_tokens=False)]
        return ids if self._table is None else [self._in_table(word_ids) for word_ids in ids]

    @property
    def affixes(self) -> tuple[int, int]:
        """Number of special tokens that are added before and after a single text."""
        mask = self._backend.encode("a").special_tokens_mask
        before = mask.index(0) if 0 in mask else len(mask)
        return before, mask[::-1].index(0) if 0 in mask else 0

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of ids, as they are in the vocabulary; the unknown one is an empty string."""
        return [self._backend.id_to_token(i) or "" for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def parts(self) -> dict[str, Any]:
        """Return `normalizer`, `pre_tokenizer` and `added_tokens` of the tokenizer file, and the type of `model`."""
        if self._parts is None:
            document = json.loads(self._backend.to_str())
            self._parts = {
                "normalizer": document.get("normalizer"),
                "pre_tokenizer": document.get("pre_tokenizer"),
                "added_tokens": document.get("added_tokens") or [],
                "model": document["model"].get("type"),
            }
        return self._parts

    def pad(self, encoded: Sequence[Encoded]) -> TokenBatch:
        """Return the rows as one batch, padded on the right to the length of the longest."""
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
        assert self._table is not None, "called only if there are tokens beyond the table"
        assert self._unknown is not None, "__init__ refuses such a tokenizer without an unknown token"
        return [i if i < self._table else self._unknown for i in ids]

    def _set_truncation(self, direction: Literal["left", "right"]) -> None:
        self._backend.enable_truncation(self.max_tokens, strategy="longest_first", direction=direction)
        self._direction = direction


def read_backend(folder: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer in `tokenizer.json` of a folder, with the settings of the file.

    A Hugging Face folder without that file gets the one that transformers makes of its vocabulary files, and one
    whose files disagree the one that transformers makes of them.

    Raises:
        FolderError: the file is not a tokenizer file, or is missing and cannot be made.
    """
    path = Path(folder) / FILE
    refuse_foreign_file(path)
    if not path.is_file():
        from models.families.fast_tokenizer import build_fast_tokenizer

        return build_fast_tokenizer(Path(folder))
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for every kind of bad file
        raise FolderError(f"{path} is not a tokenizer file: {error}") from None
    if _is_own(path.parent):
        return backend
    from models.forms.tokenizer_check import agreed_backend

    return agreed_backend(path.parent, backend)


def copy_file(source: Path, target: Path) -> None:
    """Write `tokenizer.json` of the folder `source` into the folder `target`; it is made where `source` has none.

    Raises:
        FolderError: there is none, and it cannot be made.
    """
    if (source / FILE).is_file() and _is_own(source):
        shutil.copyfile(source / FILE, target / FILE)
    else:
        read_backend(source).save(str(target / FILE))


def _is_own(folder: Path) -> bool:
    """Whether a folder is no Hugging Face folder, or one that Prunella made: its tokenizer was checked at import."""
    return (folder / "manifest.json").is_file() or not (folder / "config.json").is_file()


def _pad_id(backend: tokenizers.Tokenizer) -> int:
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    # MPNet's vocabulary has both, of which [PAD] is an unused word of BERT's
    for token in sorted(("[PAD]", "<pad>"), key=lambda name: name not in added):
        token_id = backend.token_to_id(token)
        if token_id is not None:
            return int(token_id)
    return 0  # another name, or none: any row will do, as padding is masked


def _unknown_id(backend: tokenizers.Tokenizer) -> int | None:
    for token in ("[UNK]", "<unk>", json.loads(backend.to_str())["model"].get("unk_token")):
        token_id = None if token is None else backend.token_to_id(token)
        if token_id is not None:
            return int(token_id)
    return None
