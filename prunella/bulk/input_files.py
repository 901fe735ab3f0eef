"""Input of a bulk run: one file, or a folder of files of one format in the order of their names."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from models.data.csv_jsonl import check_header
from models.errors import InputError
from prunella.bulk.job import Format

FORMATS: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl"}
MOST_FILES = 100_000  # the names of the parts have five digits for the file
HIDDEN = ("_", ".")  # first characters of names that are no data, such as _SUCCESS


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
    """The files of an input, which have one format."""

    format: Format
    files: list[InputFile]
    schema: pa.Schema | None = None  # of Parquet: that of the first file, and the columns of the partitions


def open_input(source: Path) -> InputFiles:
    """Return the files of `source`, a file or a folder; of Parquet files the first one's schema is read.

    Raises:
        InputError: there is nothing, a file cannot be read, or the files are of several formats or of an unknown one.
    """
    paths = _paths(source)
    suffixes = sorted({path.suffix.lower() for path in paths})
    if len(suffixes) > 1 or suffixes[0] not in FORMATS:
        raise InputError(
            f"{source} has files that end in {', '.join(suffix or 'nothing' for suffix in suffixes)}: "
            f"wanted one of {', '.join(FORMATS)}"
        )
    files = [_input_file(path, source) for path in paths]
    file_format = FORMATS[suffixes[0]]
    if file_format == "parquet":
        return _with_schema(source, files)
    if partition := next((file.name for file in files if "=" in str(Path(file.name).parent)), None):
        raise InputError(f"{source} has partitions ({partition}): they are read from Parquet files only")
    return InputFiles(file_format, files)


def _paths(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"there is no {source}: wanted a file or a folder")
    paths = [path for path in source.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(source))]
    if not paths:
        raise InputError(f"{source} has no files: wanted {', '.join(FORMATS)}")
    if len(paths) > MOST_FILES:
        raise InputError(
            f"{source} has {len(paths)} files: wanted {MOST_FILES} or fewer; score its folders one by one"
        )
    return sorted(paths, key=lambda path: path.relative_to(source).parts)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(HIDDEN) for part in path.parts)


def _input_file(path: Path, source: Path) -> InputFile:
    name = path.name if path == source else str(path.relative_to(source))
    status = path.stat()
    return InputFile(path, name, status.st_size, status.st_mtime_ns)


def _with_schema(source: Path, files: list[InputFile]) -> InputFiles:
    """Return Parquet files with the schema of the first one and the partitions in their paths (key=value)."""
    first = files[0].path
    try:
        own = pyarrow.parquet.read_schema(first)
        check_header(str(first), own.names)
        if files[0].path == source:
            return InputFiles("parquet", files, own)
        options = {"format": "parquet", "partitioning": "hive", "partition_base_dir": str(source)}
        data = pyarrow.dataset.dataset([str(file.path) for file in files], **options)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{first} is not a whole Parquet file: {one_line(error)}") from None
    keys = {one.path: pyarrow.dataset.get_partition_keys(one.partition_expression) for one in data.get_fragments()}
    names = sorted({name for partition in keys.values() for name in partition}, key=data.schema.names.index)
    if doubled := sorted(set(own.names) & set(names)):
        raise InputError(f"{source}: {doubled[0]!r} is a column of {first.name} and a partition too; rename one")
    schema = pa.schema([*own, *(data.schema.field(name) for name in names)], own.metadata)
    return InputFiles("parquet", [replace(file, partition=keys[str(file.path)]) for file in files], schema)


def one_line(error: Exception) -> str:
    """Return the beginning of an error's message as one line."""
    return " ".join(str(error).split())[:300]
