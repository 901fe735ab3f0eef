"""pack_corpus(): text files → sequences of one length, in a memory-mapped file that is made once.

Documents run on across sequences, so that nothing is padding: a sequence is [CLS], the next tokens of the stream,
[SEP]; a further [SEP] stands between two documents (Liu et al. 2019, "full sentences"). Only the last sequence may
be short; it is padded, so that no token is lost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from pydantic import Field

from models import tokens
from models.data.paragraphs import Paragraph, identify_files, read_paragraphs
from models.data.wordpiece import Vocabulary, open_backend
from models.errors import CheckError, InputError
from models.folder import ModelFolder, sha256_of
from models.record import Record
from models.stage import Stage, run_stage

VERSION = 1
HEADER, TRAIN, HELD_OUT = "corpus.json", "train.bin", "held_out.bin"
CHUNK = 2**20  # characters that are tokenized together
BUFFERED = 4096  # sequences that are written together


class Packing(Record):
    """How texts become sequences."""

    length: int = Field(128, ge=8, description="tokens of a sequence, [CLS] and [SEP] included")
    hold_out: int = Field(50, ge=2, description="every so manieth document is held out, where no files are given")


class Part(Record):
    """What one file of sequences holds."""

    rows: int
    documents: int
    tokens: int  # of the texts, special tokens not counted
    unknown: int  # tokens among them that the vocabulary does not have


class Header(Record):
    """`corpus.json`: how to read the files beside it."""

    length: int
    dtype: Literal["uint16", "uint32"]  # little-endian
    train: Part
    held_out: Part


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sequences on disk, (rows, length) each, read as they are asked for."""

    folder: ModelFolder
    header: Header
    train: NDArray[Any]
    held_out: NDArray[Any]

    @classmethod
    def open(cls, folder: ModelFolder) -> "Corpus":
        """Map the files of a corpus folder."""
        header = Header.read(folder.path / HEADER)

        def mapped(name: str, part: Part) -> NDArray[Any]:
            kind = np.dtype(header.dtype).newbyteorder("<")
            return np.memmap(folder.path / name, dtype=kind, mode="r", shape=(part.rows, header.length))

        return cls(folder, header, mapped(TRAIN, header.train), mapped(HELD_OUT, header.held_out))


def pack_corpus(
    files: Sequence[Path], validation: Sequence[Path], tokenizer_folder: Path, packing: Packing, store: Path
) -> Corpus:
    """Return the packed corpus, making it in `store/corpus-<id>` only when it is not there.

    The id is a hash of the files' contents, of the tokenizer file and of `packing`.

    Args:
        files: `.txt` or `.jsonl` files, see models/data/paragraphs.py.
        validation: files to hold out; none: every `packing.hold_out`-th document of `files` is held out.
        tokenizer_folder: where `tokenizer.json` is.
        packing: length of the sequences, and what is held out.
        store: where folders are kept.

    Raises:
        InputError: the files cannot be read, hold less than one sequence, or the tokenizer does not know them.
        CheckError: the sequences cannot be written.
    """
    backend = open_backend(tokenizer_folder)
    settings: dict[str, Any] = {
        "train": identify_files(files),
        "validation": identify_files(validation) if validation else None,
        "tokenizer": sha256_of(tokenizer_folder / tokens.FILE),
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
    kind: Literal["uint16", "uint32"] = "uint16" if vocabulary.size <= 2**16 else "uint32"
    with (target / TRAIN).open("wb") as train_file, (target / HELD_OUT).open("wb") as held_out_file:
        train = _Packer(train_file, packing.length, vocabulary, kind)
        held_out = _Packer(held_out_file, packing.length, vocabulary, kind)
        for number, ids in _tokenized(files, backend, "tokenize"):
            is_held_out = not validation and number % packing.hold_out == packing.hold_out - 1
            (held_out if is_held_out else train).add(number, ids)
        if validation:
            for number, ids in _tokenized(validation, backend, "tokenize held-out texts"):
                held_out.add(number, ids)
        header = Header(length=packing.length, dtype=kind, train=train.finish(), held_out=held_out.finish())
    _check(header, packing)
    header.write(target / HEADER)


class _Packer:
    """Takes documents piece by piece and writes them as sequences."""

    def __init__(self, file: BinaryIO, length: int, vocabulary: Vocabulary, kind: str) -> None:
        self._file, self._length, self._vocabulary = file, length, vocabulary
        self._kind = np.dtype(kind).newbyteorder("<")
        self._stream: list[int] = []  # not written yet; begins where a sequence begins
        self._document = -1
        self._rows = self._documents = self._tokens = self._unknown = 0

    def add(self, document: int, ids: Sequence[int]) -> None:
        """Append tokens; a new document number puts a [SEP] before them, except where a sequence begins."""
        if not ids:
            return
        room = self._length - 2
        if document != self._document:
            self._document = document
            self._documents += 1
            if len(self._stream) % room:
                self._stream.append(self._vocabulary.sep)
        self._stream.extend(ids)
        self._tokens += len(ids)
        if len(self._stream) >= room * BUFFERED:
            self._write_full()

    def finish(self) -> Part:
        """Write what is left, the last sequence padded."""
        self._write_full()
        if self._stream:
            row = [self._vocabulary.cls, *self._stream, self._vocabulary.sep]
            row += [self._vocabulary.pad] * (self._length - len(row))
            self._write(np.array([row]))
        return Part(rows=self._rows, documents=self._documents, tokens=self._tokens, unknown=self._unknown)

    def _write_full(self) -> None:
        room = self._length - 2
        count = len(self._stream) // room
        rows = np.full((count, self._length), self._vocabulary.cls, dtype=np.int64)
        rows[:, 1:-1] = np.array(self._stream[: count * room], dtype=np.int64).reshape(count, room)
        rows[:, -1] = self._vocabulary.sep
        del self._stream[: count * room]
        self._write(rows)

    def _write(self, rows: NDArray[np.int64]) -> None:
        self._file.write(rows.astype(self._kind).tobytes())
        self._rows += len(rows)
        self._unknown += int((rows == self._vocabulary.unknown).sum())


def _tokenized(files: Sequence[Path], backend: tokenizers.Tokenizer, told: str) -> Iterator[tuple[int, list[int]]]:
    """Yield the document number and the ids of each paragraph, without special tokens."""
    for chunk in _chunks(read_paragraphs(files, told)):
        found = backend.encode_batch_fast([paragraph.text for paragraph in chunk], add_special_tokens=False)
        yield from ((paragraph.document, e.ids) for paragraph, e in zip(chunk, found, strict=True))


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
            f"the corpus has {train.tokens} tokens beside what is held out, and one sequence takes "
            f"{packing.length - 2}: give more text, or ask for shorter sequences"
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
