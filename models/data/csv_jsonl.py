"""read_records(): read CSV, TSV and JSONL files line by line. Rows of a table have its columns; objects may differ.

TSV follows the IANA registration of text/tab-separated-values: there is no quoting, and a quotation mark is an
ordinary character (the files of GLUE rely on this). CSV follows RFC 4180: a quoted cell may contain commas, line ends
and doubled quotation marks.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from models.data.other_formats import file_problem, separator_remedy
from models.errors import InputError

LocatedRecord = tuple[str, dict[str, Any]]  # the location of a record ("a.csv, line 3"), and its cells by column
LINE_LIMIT = 16 * 2**20  # characters, about 4 M tokens: a file with a longer line probably has no line ends
ONE_PER_LINE = "each line is one object (of an array: jq -c '.[]'; of indented objects: jq -c .)"
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" decodes invalid bytes to


def read_records(path: Path) -> Iterator[LocatedRecord]:
    """Yield the records of a file; its suffix decides the format: `.csv`, `.tsv` or `.jsonl`.

    Raises:
        InputError: the file cannot be read, is not UTF-8, has a line longer than LINE_LIMIT, two columns of the same
            name, or a row of a table that is longer or shorter than its header; the message names file and line.
    """
    return READERS[path.suffix.lower()](path)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their line ends, one at a time; a byte-order mark is skipped.

    Raises:
        InputError: the file cannot be read, is not UTF-8 (the message says how to convert it), or has a line longer
            than LINE_LIMIT.
    """
    try:
        if problem := file_problem(path):
            raise InputError(f"{path} {problem}")
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            number = 0
            while line := file.readline(LINE_LIMIT + 1):
                number += 1
                _check_line(f"{path}, line {number}", line)
                yield line
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def check_header(where: str, names: Sequence[str]) -> None:
    """Check that column names are unique.

    Raises:
        InputError: two columns have the same name.
    """
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise InputError(f"{where}: two columns are named {duplicates[0]!r}; rename one")


def _check_line(where: str, line: str) -> None:
    if len(line) > LINE_LIMIT:
        raise InputError(f"{where}: longer than {LINE_LIMIT} characters; wanted one row per line")
    if not line.isascii() and (match := _NOT_UTF8.search(line)):
        raise InputError(f"{where}: byte 0x{ord(match[0]) & 0xFF:02x} is not UTF-8; convert the file first")


def table_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a CSV or TSV file without empty lines, the header first, each with its location.

    Raises:
        InputError: the file cannot be read, or a row is not valid.
    """
    csv.field_size_limit(LINE_LIMIT)  # the default limit is 128 KiB per cell
    options: dict[str, Any] = {"strict": True}
    if path.suffix.lower() == ".tsv":
        options |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(read_lines(path), **options)
    header: list[str] = []
    start = 1  # number of the row's first line: a quoted cell may contain line ends
    try:
        for cells in reader:
            where = f"{path}, line {start}"
            start = reader.line_num + 1
            header = header or cells
            if cells:
                yield where, cells
    except csv.Error as error:
        remedy = separator_remedy(header) or "; wanted quotation marks inside a quoted cell doubled, and a last one"
        raise InputError(f"{path}, line {start}: not valid {path.suffix[1:].upper()} ({error}){remedy}") from None


def _table_records(path: Path) -> Iterator[LocatedRecord]:
    header: list[str] | None = None
    for where, cells in table_rows(path):
        if header is None:
            header = [cell.strip() for cell in cells]
            check_header(where, [name for name in header if name])  # spreadsheets leave columns without a name
        elif _is_blank(cells, header):
            continue
        elif len(cells) != len(header):
            raise InputError(
                f"{where}: the row has {len(cells)} columns, the header {len(header)}{separator_remedy(header)}"
            )
        else:
            yield where, dict(zip(header, cells, strict=True))


def _is_blank(cells: list[str], header: list[str]) -> bool:
    """Whether a line has nothing but spaces; in a table of one column that is an empty cell."""
    return len(cells) == 1 < len(header) and not cells[0].strip()


def _jsonl_records(path: Path) -> Iterator[LocatedRecord]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        yield where, json_object(where, line)


def json_object(where: str, line: str) -> dict[str, Any]:
    """Return the JSON object in a line; `where` begins the messages.

    Raises:
        InputError: it is not an object, or has two keys of the same name.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_header(where, [name for name, _ in pairs])
        return dict(pairs)

    try:
        record = json.loads(line, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON ({error.msg}): {ONE_PER_LINE}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of nested brackets
        raise InputError(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: found {type(record).__name__}, wanted an object: {ONE_PER_LINE}")
    return record


READERS: dict[str, Callable[[Path], Iterator[LocatedRecord]]] = {
    ".csv": _table_records,
    ".tsv": _table_records,
    ".jsonl": _jsonl_records,
}
