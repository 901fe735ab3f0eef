"""pack_corpus(): tokenizes text files into sequences of equal length, in a memory-mapped file that is written once.

Documents continue across sequences, so that there is no padding: a sequence is [CLS], the next tokens of the stream,
and [SEP]; one more [SEP] separates two documents (Liu et al. 2019, "full sentences"). Only the last sequence can be
shorter; it is padded, so that no token is lost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from pydantic import Field

from models import tokenizer as tokenizer_file
from models.errors import CheckError, InputError
from models.pretraining.paragraphs import Paragraph, identify_files, read_paragraphs
from models.pretraining.wordpiece import Vocabulary, open_backend
from models.schema import Record
from models.store.folder import ModelFolder, sha256_of
from models.store.stage import Stage, run_stage

VERSION = 1
HEADER, TRAIN, HELD_OUT = "corpus.json", "train.bin", "held_out.bin"
CHUNK = 2**20  # characters per call of the tokenizer
BUFFERED = 4096  # sequences per write


class Packing(Record):
    """Settings of how texts are packed into sequences."""

    length: int = Field(128, ge=8, description="tokens of a sequence, including [CLS] and [SEP]")
    hold_out: int = Field(50, ge=2, description="hold out every N-th document, if no validation files are given")


class Part(Record):
    """Contents of one file of sequences."""

    rows: int
    documents: int
    tokens: int  # of the texts, without special tokens
    unknown: int  # number of these that are not in the vocabulary


class Header(Record):
    """`corpus.json`: the format and the contents of the two files of sequences."""

    length: int
    dtype: Literal["uint16", "uint32"]  # little-endian
    train: Part
    held_out: Part


@dataclass(frozen=True, slots=True)
class Corpus:
    """Memory-mapped sequences; `train` and `held_out` are (rows, length)."""

    folder: ModelFolder
    header: Header
    train: NDArray[Any]
    held_out: NDArray[Any]

    @classmethod
    def open(cls, folder: ModelFolder) -> "Corpus":
        """Map the files of a corpus folder into memory."""
        header = Header.read(folder.path / HEADER)

        def mapped(name: str, part: Part) -> NDArray[Any]:
            dtype = np.dtype(header.dtype).newbyteorder("<")
            return np.memmap(folder.path / name, dtype=dtype, mode="r", shape=(part.rows, header.length))

        return cls(folder, header, mapped(TRAIN, header.train), mapped(HELD_OUT, header.held_out))


def pack_corpus(
    files: Sequence[Path], validation: Sequence[Path], tokenizer_folder: Path, packing: Packing, store: Path
) -> Corpus:
    """Return the packed corpus from the folder `store/corpus-<key>`, and create it if it does not exist.

    The key is a hash of the files' contents, the tokenizer file and `packing`.

    Args:
        files: `.txt` or `.jsonl` files, see models/pretraining/paragraphs.py.
        validation: held-out files; if empty, every `packing.hold_out`-th document of `files` is held out.
        tokenizer_folder: the folder of `tokenizer.json`.
        packing: length of the sequences, and the share of held-out documents.
        store: the folder of all model folders.

    Raises:
        InputError: the files cannot be read, hold less than one sequence, or most of their tokens are unknown.
        CheckError: the sequences cannot be written.
    """
    backend = open_backend(tokenizer_folder)
    settings: dict[str, Any] = {
        "train": identify_files(files),
        "validation": identify_files(validation) if validation else None,
        "tokenizer": sha256_of(tokenizer_folder / tokenizer_file.FILE),
        "length": packing.length,
        "hold_out": None if validation else packing.hold_out,
    }

    def make(target: Path) -> None:
        try:
            _write(target, files, validation, backend, packing)
        except OSError as error:
            raise CheckError(
                f"cannot write the packed corpus ({error.strerror}): make room and run it again"
            ) from None

    return Corpus.open(run_stage(Stage("corpus", VERSION, settings), [], store, make).folder)


def _write(
    target: Path, files: Sequence[Path], validation: Sequence[Path], backend: tokenizers.Tokenizer, packing: Packing
) -> None:
    vocabulary = Vocabulary.of(backend)
    dtype: Literal["uint16", "uint32"] = "uint16" if vocabulary.size <= 2**16 else "uint32"
    with (target / TRAIN).open("wb") as train_file, (target / HELD_OUT).open("wb") as held_out_file:
        train = _Packer(train_file, packing.length, vocabulary, dtype)
        held_out = _Packer(held_out_file, packing.length, vocabulary, dtype)
        for number, ids in _tokenized(files, backend, "tokenize"):
            is_held_out = not validation and number % packing.hold_out == packing.hold_out - 1
            (held_out if is_held_out else train).add(number, ids)
        if validation:
            for number, ids in _tokenized(validation, backend, "tokenize held-out texts"):
                held_out.add(number, ids)
        header = Header(length=packing.length, dtype=dtype, train=train.finish(), held_out=held_out.finish())
    _check(header, packing)
    header.write(target / HEADER)


class _Packer:
    """Collects the tokens of documents and writes them to a file as sequences."""

    def __init__(self, file: BinaryIO, length: int, vocabulary: Vocabulary, dtype: str) -> None:
        self._file, self._length, self._vocabulary = file, length, vocabulary
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._stream: list[int] = []  # tokens not written yet; its first token begins a sequence
        self._document = -1
        self._rows = self._documents = self._tokens = self._unknown = 0

    def add(self, document: int, ids: Sequence[int]) -> None:
        """Append tokens; before those of a new document a [SEP] is added, unless they begin a sequence."""
        if not ids:
            return
        capacity = self._length - 2
        if document != self._document:
            self._document = document
            self._documents += 1
            if len(self._stream) % capacity:
                self._stream.append(self._vocabulary.sep)
        self._stream.extend(ids)
        self._tokens += len(ids)
        if len(self._stream) >= capacity * BUFFERED:
            self._write_full()

    def finish(self) -> Part:
        """Write the remaining tokens, with the last sequence padded, and return the totals."""
        self._write_full()
        if self._stream:
            row = [self._vocabulary.cls, *self._stream, self._vocabulary.sep]
            row += [self._vocabulary.pad] * (self._length - len(row))
            self._write(np.array([row]))
        return Part(rows=self._rows, documents=self._documents, tokens=self._tokens, unknown=self._unknown)

    def _write_full(self) -> None:
        capacity = self._length - 2
        count = len(self._stream) // capacity
        rows = np.full((count, self._length), self._vocabulary.cls, dtype=np.int64)
        rows[:, 1:-1] = np.array(self._stream[: count * capacity], dtype=np.int64).reshape(count, capacity)
        rows[:, -1] = self._vocabulary.sep
        del self._stream[: count * capacity]
        self._write(rows)

    def _write(self, rows: NDArray[np.int64]) -> None:
        self._file.write(rows.astype(self._dtype).tobytes())
        self._rows += len(rows)
        self._unknown += int((rows == self._vocabulary.unknown).sum())


def _tokenized(
    files: Sequence[Path], backend: tokenizers.Tokenizer, description: str
) -> Iterator[tuple[int, list[int]]]:
    """Yield the document number and the token ids of each paragraph, without special tokens."""
    for chunk in _chunks(read_paragraphs(files, description)):
        encodings = backend.encode_batch_fast([paragraph.text for paragraph in chunk], add_special_tokens=False)
        yield from ((paragraph.document, e.ids) for paragraph, e in zip(chunk, encodings, strict=True))


def _chunks(paragraphs: Iterator[Paragraph]) -> Iterator[list[Paragraph]]:
    chunk: list[Paragraph] = []
    size = 0
    for paragraph in paragraphs:
        chunk.append(paragraph)
        size += len(paragraph.text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _check(header: Header, packing: Packing) -> None:
    train, held_out = header.train, header.held_out
    if train.tokens < packing.length - 2:
        raise InputError(
            f"the corpus has {train.tokens} tokens that are not held out, and one sequence takes "
            f"{packing.length - 2}: give more text, or choose shorter sequences"
        )
    if not held_out.tokens:
        raise InputError(
            f"the corpus has {train.documents} documents, too few to hold out every {packing.hold_out}th: put blank "
            "lines between documents, hold out more often, or give --validation files"
        )
    for part in (train, held_out):
        if 2 * part.unknown > part.tokens:
            raise InputError(
                f"the tokenizer does not know {part.unknown} of {part.tokens} tokens: train a new one on this corpus"
            )
