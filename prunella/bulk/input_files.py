"""Input of a bulk run: one file, or a folder of files of one format in the order of their names."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from models.data.other_formats import suffix_remedy
from models.errors import InputError
from prunella.bulk.job import Format

FORMATS: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl"}
MOST_FILES = 100_000  # the names of the parts have five digits for the file
HIDDEN = ("_", ".")  # first characters of names that are no data, such as _SUCCESS
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # Hive's name of null
WHOLE_NUMBER = re.compile("-?[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the input."""

    path: Path
    name: str  # relative to the input folder
    size: int  # bytes
    modified_ns: int  # time of the last change
    partition: dict[str, Any] = field(default_factory=dict)  # hive partition: value by column


@dataclass(frozen=True, slots=True)
class InputFiles:
    """The files of an input, which have one format; `read_columns` adds the columns."""

    format: Format
    files: list[InputFile]
    columns: list[str] | None = None  # of the first file; of JSONL the keys of the first rows, None without rows
    schema: pa.Schema | None = None  # of Parquet: that of the first file, and the columns of the partitions
    differences: dict[str, str] = field(default_factory=dict)  # by column: how another file differs from the first


def open_input(source: Path) -> InputFiles:
    """Return the files of `source`, a file or a folder.

    Raises:
        InputError: there is nothing, a file cannot be read, or the files are of several formats or of an unknown one.
    """
    paths = _paths(source)
    suffixes = sorted({path.suffix.lower() for path in paths})
    if len(suffixes) > 1 or suffixes[0] not in FORMATS:
        raise InputError(
            f"{source} has files that end in {', '.join(suffix or 'nothing' for suffix in suffixes)}: "
            f"wanted one of {', '.join(FORMATS)}{suffix_remedy(suffixes[0]) if len(suffixes) == 1 else ''}"
        )
    files = [_input_file(path, source) for path in paths]
    file_format = FORMATS[suffixes[0]]
    partition = next((file.name for file in files if "=" in str(Path(file.name).parent)), None)
    if partition and file_format != "parquet":
        raise InputError(f"{source} has partitions ({partition}): they are read from Parquet files only")
    return InputFiles(file_format, _partitioned(files) if partition else files)


def _paths(source: Path) -> list[Path]:
    _check_name(source.resolve())
    if source.is_file():
        return [source]
    if not source.is_dir():
        problem = f"{source} is neither a file nor a folder" if source.exists() else f"there is no {source}"
        raise InputError(f"{problem}: wanted a file or a folder")
    paths = list(_files(source))
    if not paths:
        raise InputError(f"{source} has no files: wanted {', '.join(FORMATS)}")
    if len(paths) > MOST_FILES:
        raise InputError(
            f"{source} has {len(paths)} files: wanted {MOST_FILES} or fewer; score its folders one by one"
        )
    return sorted(paths, key=lambda path: path.relative_to(source).parts)


def _files(source: Path) -> Iterator[Path]:
    for path in source.rglob("*"):
        if _is_hidden(path.relative_to(source)):
            continue
        _check_name(path)
        if path.is_file():
            yield path
        elif path.is_symlink():  # rows would be missing without a word
            target = "a folder, which is not followed" if path.is_dir() else "nothing"
            raise InputError(f"{path} is a link to {target}: remove it, or let its name begin with an underscore")


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # it cannot be noted
        raise InputError(f"the name {os.fsencode(path)!r} is not UTF-8: rename it") from None


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(HIDDEN) for part in path.parts)


def _input_file(path: Path, source: Path) -> InputFile:
    name = path.name if path == source else str(path.relative_to(source))
    status = path.stat()
    return InputFile(path, name, status.st_size, status.st_mtime_ns)


def _partitioned(files: list[InputFile]) -> list[InputFile]:
    """Return files with the partitions in their paths (key=value); values are numbers if all of a key are."""
    texts = [_partition_texts(file) for file in files]
    keys = dict.fromkeys(key for one in texts for key in one)
    values_of = {key: [one[key] for one in texts if one.get(key) is not None] for key in keys}
    whole = {key: bool(values) and all(map(_is_whole, values)) for key, values in values_of.items()}
    return [
        replace(file, partition={key: int(text) if text and whole[key] else text for key, text in one.items()})
        for file, one in zip(files, texts, strict=True)
    ]


def _partition_texts(file: InputFile) -> dict[str, Any]:
    pairs = (part.partition("=") for part in Path(file.name).parent.parts)
    named = {unquote(key): unquote(value) for key, equals, value in pairs if key and equals}
    return {key: None if value == NO_PARTITION else value for key, value in named.items()}


def _is_whole(text: str) -> bool:
    return WHOLE_NUMBER.fullmatch(text) is not None and -(2**31) <= int(text) < 2**31


def one_line(error: Exception) -> str:
    """Return the beginning of an error's message as one line."""
    return " ".join(str(error).split())[:300]
