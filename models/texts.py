"""read_texts(): CSV and JSONL files, and the built-in sets, → checked rows.

A row is a text, or two texts for pair tasks, and may have a label. Files must be UTF-8; a text must not be empty.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from models.builtin import read_bbc_news
from models.errors import InputError
from models.record import Record
from models.tokens import Row

BUILTIN = "builtin:"
BUILTIN_SETS = ("builtin:bbc-news:train", "builtin:bbc-news:validation", "builtin:bbc-news:test")


class Columns(Record):
    """The names of the columns (CSV) or keys (JSONL) that hold the texts and the label."""

    text: str = Field("text", description="column of the text, or of a pair's first text")
    text_pair: str = Field("text_pair", description="column of a pair's second text")
    label: str = Field("label", description="column of the label")


@dataclass(frozen=True, slots=True)
class Texts:
    """Checked rows. `labels` is None when the source had no label column."""

    rows: list[Row]
    labels: list[str] | None
    source: str  # where they came from, for messages and reports

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pair(self) -> bool:
        """Whether each row is two texts."""
        return bool(self.rows) and len(self.rows[0]) == 2

    @property
    def sha256(self) -> str:
        """Hash of rows and labels: what identifies the data in a stage's configuration."""
        digest = hashlib.sha256()
        for index, row in enumerate(self.rows):
            digest.update(json.dumps([row, self.labels[index] if self.labels else None]).encode())
        return digest.hexdigest()

    def label_names(self) -> tuple[str, ...]:
        """Return the labels that occur, sorted (numbers by their value).

        Raises:
            InputError: there are no labels.
        """
        return tuple(sorted(set(self.require_labels()), key=lambda name: (not _is_number(name), _number(name), name)))

    def require_labels(self) -> list[str]:
        """Return the labels.

        Raises:
            InputError: there are none.
        """
        if self.labels is None:
            raise InputError(f"{self.source} has no label column: wanted labelled rows")
        return self.labels

    def take(self, indices: Iterable[int]) -> "Texts":
        """Return the rows at `indices`, in that order."""
        chosen = list(indices)
        labels = [self.labels[i] for i in chosen] if self.labels is not None else None
        return Texts([self.rows[i] for i in chosen], labels, self.source)

    def split(self, fraction: float, seed: int) -> tuple["Texts", "Texts"]:
        """Return two disjoint parts, the second with `fraction` of the rows; stratified by label, seeded."""
        from sklearn.model_selection import train_test_split

        labels = self.require_labels()
        rarest, count = min(Counter(labels).items(), key=lambda item: item[1])
        if count < 2:
            raise InputError(f"label {rarest!r} of {self.source} has one row only: give --validation FILE")
        first, second = train_test_split(
            list(range(len(self))), test_size=fraction, random_state=seed, stratify=labels, shuffle=True
        )
        return self.take(first), self.take(second)


def read_texts(source: str | Path, columns: Columns | None = None) -> Texts:
    """Read a `.csv` or `.jsonl` file, or a built-in set such as `builtin:bbc-news:train`.

    Raises:
        InputError: the file is missing, not UTF-8, empty, lacks a column, or has an empty text; the message names
            the file and the line.
    """
    name = str(source)
    if name.startswith(BUILTIN):
        return _read_builtin(name)
    path = Path(source)
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix not in readers:
        raise InputError(
            f"{path} ends in {path.suffix or 'nothing'!r}: wanted {', '.join(readers)}, or a built-in set"
        )
    records = list(readers[path.suffix](path, _read_utf8(path)))
    if not records:
        raise InputError(f"{path} has no rows")
    return _checked(path, records, columns or Columns())


def _read_builtin(name: str) -> Texts:
    if name not in BUILTIN_SETS:
        raise InputError(f"{name} is not built in: there are {', '.join(BUILTIN_SETS)}")
    pairs = read_bbc_news(name.rsplit(":", 1)[1])
    return Texts([(text,) for text, _ in pairs], [label for _, label in pairs], name)


def _read_utf8(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file first"
        ) from None


def _csv_rows(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses fields above 128 KiB
    reader = csv.DictReader(content.splitlines(keepends=True), strict=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                raise InputError(
                    f"{path}, line {reader.line_num}: the row has another number of columns than the header"
                )
            yield reader.line_num, record
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def _jsonl_rows(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error.msg})") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: found {type(record).__name__}, wanted an object")
        yield number, record


def _checked(path: Path, records: Sequence[tuple[int, dict[str, Any]]], columns: Columns) -> Texts:
    first = records[0][1]
    if columns.text not in first:
        raise InputError(f"{path} has no column {columns.text!r}: it has {', '.join(first)}")
    text_columns = [columns.text] + ([columns.text_pair] if columns.text_pair in first else [])
    labelled = columns.label in first
    rows: list[Row] = []
    labels: list[str] = []
    for line, record in records:
        rows.append(tuple(_text(path, line, record, column) for column in text_columns))
        if labelled:
            labels.append(_label(path, line, record, columns.label))
    return Texts(rows, labels if labelled else None, str(path))


def _text(path: Path, line: int, record: dict[str, Any], column: str) -> str:
    value = record.get(column)
    if not isinstance(value, str):
        raise InputError(f"{path}, line {line}: {column!r} holds {type(value).__name__}, wanted a text")
    if not value.strip():
        raise InputError(f"{path}, line {line}: {column!r} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{path}, line {line}: {column!r} holds half of a surrogate pair, which is no text")
    return value


def _label(path: Path, line: int, record: dict[str, Any], column: str) -> str:
    value = record.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or str(value) == "":
        raise InputError(
            f"{path}, line {line}: {column!r} holds {value!r}, wanted a label (a text or a whole number)"
        )
    return str(value)


def _is_number(name: str) -> bool:
    return name.lstrip("-").isdecimal()


def _number(name: str) -> int:
    return int(name) if _is_number(name) else 0
