"""read_records(): CSV, TSV and JSONL files, as a stream of lines → records that all have the same columns.

TSV is what IANA registered as text/tab-separated-values: no quoting, so that a quotation mark is a character like any
other (the files of GLUE rely on it). CSV is RFC 4180: a quoted cell may hold commas, line ends and doubled quotes.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from models.errors import InputError

Placed = tuple[str, dict[str, Any]]  # where a record stands ("a.csv, line 3"), and its cells by column
LINE_LIMIT = 16 * 2**20  # characters; 16 Mi are some 4 M tokens: a longer line is a file without line ends
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # where errors="surrogateescape" puts bytes that it cannot decode


def read_records(path: Path) -> Iterator[Placed]:
    """Yield the records of a file by its ending: `.csv`, `.tsv` or `.jsonl`.

    Raises:
        InputError: the file cannot be read, is not UTF-8, has a line above LINE_LIMIT, a header with a name twice, or
            a row with other columns than the first; the message names file and line.
    """
    return READERS[path.suffix.lower()](path)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their ends, holding one at a time in memory; a byte-order mark is dropped.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or has a line above LINE_LIMIT.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            number = 0
            while line := file.readline(LINE_LIMIT + 1):
                number += 1
                _check_line(f"{path}, line {number}", line)
                yield line
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def check_header(where: str, names: Sequence[str]) -> None:
    """Check that no column has the name of another.

    Raises:
        InputError: two have.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{where}: two columns are named {twice[0]!r}; rename one")


def _check_line(where: str, line: str) -> None:
    if len(line) > LINE_LIMIT:
        raise InputError(f"{where}: longer than {LINE_LIMIT} characters; wanted one row a line")
    if not line.isascii() and (found := _NOT_UTF8.search(line)):
        raise InputError(f"{where}: byte 0x{ord(found[0]) & 0xFF:02x} is not UTF-8; convert the file first")


def _csv_records(path: Path) -> Iterator[Placed]:
    csv.field_size_limit(LINE_LIMIT)  # the default refuses cells above 128 KiB
    yield from _table(path, csv.reader(read_lines(path), strict=True))


def _tsv_records(path: Path) -> Iterator[Placed]:
    csv.field_size_limit(LINE_LIMIT)
    yield from _table(path, csv.reader(read_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def _table(path: Path, reader: Any) -> Iterator[Placed]:
    header: list[str] | None = None
    start = 1  # a quoted cell may hold line ends: a row is named by its first line
    try:
        for cells in reader:
            where = f"{path}, line {start}"
            start = reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                check_header(where, header)
            elif len(cells) != len(header):
                raise InputError(f"{where}: the row has {len(cells)} columns, the header {len(header)}")
            else:
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: not valid {path.suffix[1:].upper()} ({error})") from None


def _jsonl_records(path: Path) -> Iterator[Placed]:
    first: dict[str, Any] | None = None
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = _json_object(where, line)
        if first is None:
            first = record
        if record.keys() != first.keys():
            told = [f"lacks {name!r}" for name in first if name not in record]
            told += [f"adds {name!r}" for name in record if name not in first]
            raise InputError(f"{where}: the row {', '.join(told[:5])}; wanted the keys of the first row")
        yield where, record


def _json_object(where: str, line: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_header(where, [name for name, _ in pairs])
        return dict(pairs)

    try:
        record = json.loads(line, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise InputError(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: found {type(record).__name__}, wanted an object")
    return record


READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".csv": _csv_records,
    ".tsv": _tsv_records,
    ".jsonl": _jsonl_records,
}
