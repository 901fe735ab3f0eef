"""read_paragraphs(): reads the paragraphs of plain text and JSONL files of any size, one after the other.

Plain text (`.txt`): one paragraph per line, a blank line between documents. JSONL (`.jsonl`): one document per line,
with its text under `text`; the lines of this text are paragraphs. Only the current line is kept in memory.
"""

import codecs
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.distributed import rank
from models.errors import InputError
from models.messages import progress
from models.store.folder import sha256_of

LINE_LIMIT = 32 * 2**20  # bytes; limits the memory that a file without line ends takes


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A text that is not blank, and the number of its document, from 0 over all files."""

    document: int
    text: str


def read_paragraphs(files: Sequence[Path], description: str) -> Iterator[Paragraph]:
    """Yield the paragraphs of all files in order, with a progress bar over their bytes, named `description`.

    Raises:
        InputError: a file is missing, of an unknown type, not UTF-8, or has a line that is too long or invalid for
            its type (the message names file and line); or none of the files has text.
    """
    check_files(files)
    document, in_document = 0, False
    total = sum(path.stat().st_size for path in files)
    with progress(total=total, unit="B", unit_scale=True, desc=description, disable=rank() != 0) as bar:
        for path in files:
            for number, line in _lines(path, bar):
                for text in _paragraphs(path, number, line):
                    if text:
                        yield Paragraph(document, text)
                    elif in_document:
                        document += 1
                    in_document = bool(text)
            document, in_document = document + in_document, False
    if document == 0:
        raise InputError(f"{_named(files)} holds no text: wanted one paragraph per line, or JSONL documents")


def check_files(files: Sequence[Path]) -> None:
    """Refuse files that do not exist or are of an unknown type.

    Raises:
        InputError: a file is refused; the message names it and the reason.
    """
    if not files:
        raise InputError("no corpus file was given: wanted one or more .txt or .jsonl files")
    for path in files:
        if path.suffix not in (".txt", ".jsonl"):
            raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}: wanted .txt or .jsonl")
        if not path.is_file():
            raise InputError(f"{path} is not a file: wanted a .txt or .jsonl file")


def identify_files(files: Sequence[Path]) -> list[str]:
    """Return the identity of each file: its type and the SHA-256 of its bytes.

    Raises:
        InputError: a file cannot be read.
    """
    check_files(files)
    try:
        return [f"{path.suffix[1:]}:{sha256_of(path)}" for path in files]
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None


def _lines(path: Path, bar: Any) -> Iterator[tuple[int, str]]:
    """Yield each line's number and text."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    number = 0
    with file:
        while line := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(line) > LINE_LIMIT:
                raise InputError(
                    f"{path}, line {number} is longer than {LINE_LIMIT // 2**20} MiB: wanted one paragraph per line "
                    "(or one document per line in .jsonl); break it into lines first"
                )
            bar.update(len(line))
            yield number, _decoded(path, number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; convert the file first"
        ) from None


def _paragraphs(path: Path, number: int, line: str) -> Iterator[str]:
    """Yield the paragraphs of one line; an empty one marks the end of the document."""
    if path.suffix == ".txt":
        yield line
        return
    if line:
        yield from (text for part in _json_text(path, number, line).split("\n") if (text := part.strip()))
        yield ""


def _json_text(path: Path, number: int, line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: not valid JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise InputError(f"{path}, line {number}: wanted an object whose 'text' is a text")
    try:
        record["text"].encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(record['text'][error.start]):04x}"
        raise InputError(
            f"{path}, line {number}: 'text' holds an unpaired surrogate {code}: not valid Unicode"
        ) from None
    return record["text"]


def _named(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} (and {len(files) - 1} more)"
