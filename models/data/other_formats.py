"""How to convert a file that no reader reads: of another encoding, suffix or separator, or a compressed one."""

from collections.abc import Sequence
from pathlib import Path

BEGINNINGS = (  # first bytes of a file → what it is, and the command that converts it
    (b"\xff\xfe", "is UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "is UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "is compressed with gzip", "gunzip"),
    (b"BZh", "is compressed with bzip2", "bunzip2"),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard", "unzstd"),
    (b"PK\x03\x04", "is a ZIP archive, as Excel files are", "unzip it, or save the table as CSV (UTF-8)"),
    (b"PAR1", "is a Parquet file", "rename it to .parquet"),
)
SUFFIXES = {
    ".gz": "gunzip it first", ".bz2": "bunzip2 it first", ".zst": "unzstd it first", ".zip": "unzip it first",
    ".json": "write one object per line and name it .jsonl (jq -c '.[]' FILE.json)",
    ".ndjson": "rename it to .jsonl",
    ".xlsx": "save the table as CSV (UTF-8)", ".xls": "save the table as CSV (UTF-8)",
    ".txt": "name its columns in a first line, and rename it to .csv or .tsv", ".arrow": "write it as Parquet",
}  # fmt: skip
NUL = b"\x00"


def file_problem(path: Path) -> str | None:
    """Return what a file is, by its first bytes, if it is no text in UTF-8, and how to convert it; else None.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(200)
    for beginning, kind, remedy in BEGINNINGS:
        if start.startswith(beginning):
            return f"{kind}; wanted text in UTF-8: {remedy}"
    if start and len(start) <= 4 * start.count(NUL) <= 3 * len(start):  # about every second byte of a text in UTF-16
        return "has NUL bytes, as UTF-16 has; wanted text in UTF-8: iconv -f UTF-16LE -t UTF-8"
    return None


def suffix_remedy(suffix: str) -> str:
    """Return how to convert a file of another suffix, as the end of a sentence; empty for an unknown suffix."""
    remedy = SUFFIXES.get(suffix.lower())
    return f"; {remedy}" if remedy else ""


def missing_column(column: str, flag: str, names: Sequence[str]) -> str:
    """Return that a source has no column of a name, the names that it has, and what to do, without a subject."""
    return f"no column {column!r}: it has {', '.join(names)}{separator_remedy(names) or f'; {flag} names another'}"


def header_remedy(source: str) -> str:
    """Return what to do with a table whose first line is a row, as the end of a sentence; empty for other sources."""
    is_table = source.lower().endswith((".csv", ".tsv"))
    return "; if its first line is a row, put a line of names before it, such as text and label" if is_table else ""


def separator_remedy(names: Sequence[str]) -> str:
    """Return what separates the columns of a table whose header seems to be one column; empty for other headers."""
    for separator, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars"), (",", "commas")):
        if len(names) == 1 and separator in names[0]:
            return f"; its columns seem to be separated by {called}: .csv files have commas, .tsv files tabs"
    return ""
