"""read_columns(): the columns that all files of an input have, and where a file differs from the first one."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from models.data.csv_jsonl import check_header, json_object, read_lines, table_rows
from models.data.labels import SURROGATE
from models.errors import InputError
from prunella.bulk.input_files import InputFile, InputFiles, one_line

SCHEMA_ROWS = 1000  # of JSONL files, from which the columns of a table and their types are derived
KINDS = [
    pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_date, pa.types.is_time,
    lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind),
    lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind),
    lambda kind: pa.types.is_timestamp(kind) and kind.tz is None,
    lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None,
]  # fmt: skip  # types of one kind, of which a value of one is also a value of the other or cannot be converted


def read_columns(data: InputFiles) -> InputFiles:
    """Return the input with its columns.

    A Parquet file that is damaged, other than the first, is no error here: the rows before it are scored.

    Raises:
        InputError: the first file cannot be read, two columns have the same name, or no line is an object.
    """
    return {"parquet": _of_parquet, "csv": _of_csv, "jsonl": _of_jsonl}[data.format](data)


def _of_parquet(data: InputFiles) -> InputFiles:
    partitions = _partition_fields(data.files)
    first = data.files[0]
    try:
        own = pyarrow.parquet.read_schema(first.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{first.path} is not a whole Parquet file: {one_line(error)}") from None
    fields = _fields(first, own, partitions)
    differences: dict[str, str] = {}
    for file in data.files[1:]:
        try:
            theirs = _fields(file, pyarrow.parquet.read_schema(file.path), partitions)
        except (pa.ArrowException, OSError):
            continue  # the reader says why when it comes to the file
        _note_names(differences, first, list(fields), file, list(theirs))
        for name in sorted(fields.keys() & theirs.keys()):
            mine, other = fields[name], theirs[name]
            if _fits(other.type, mine.type):
                mine = mine.with_type(other.type) if pa.types.is_null(mine.type) else mine
                fields[name] = mine.with_nullable(mine.nullable or other.nullable)
            else:
                types = f"{other.type} in {file.path}, and {mine.type} in {first.path}"
                differences.setdefault(name, f"the type of the column {name!r} is {types}")
    schema = pa.schema(list(fields.values()), own.metadata)
    return replace(data, columns=list(fields), schema=schema, differences=differences)


def _partition_fields(files: list[InputFile]) -> dict[str, pa.Field]:
    types: dict[str, pa.DataType] = {}
    for file in files:
        for key, value in file.partition.items():
            if isinstance(value, int):
                types[key] = pa.int32()
            types.setdefault(key, pa.string())
    return {key: pa.field(key, kind) for key, kind in types.items()}


def _fields(file: InputFile, own: pa.Schema, partitions: dict[str, pa.Field]) -> dict[str, pa.Field]:
    """Return the columns of a Parquet file, those of its partition included.

    Raises:
        InputError: two columns have the same name, or a column and a partition.
    """
    check_header(str(file.path), own.names)
    if doubled := sorted(file.partition.keys() & set(own.names)):
        raise InputError(f"{file.path}: {doubled[0]!r} is a column of the file and a partition too; rename one")
    return {field.name: field for field in own} | {key: partitions[key] for key in file.partition}


def _note_names(
    differences: dict[str, str], first: InputFile, columns: list[str], file: InputFile, others: list[str]
) -> None:
    """Note the columns that only one of two files has."""
    for name in sorted(set(columns) - set(others)):
        differences.setdefault(name, f"{file.path} has no column {name!r}, {first.path} has it")
    for name in sorted(set(others) - set(columns)):
        differences.setdefault(name, f"{file.path} has a column {name!r}, {first.path} has not")


def _fits(other: pa.DataType, mine: pa.DataType) -> bool:
    """Whether values of a type can be among those of another without becoming other values."""
    other, mine = (one.value_type if pa.types.is_dictionary(one) else one for one in (other, mine))
    if other == mine or pa.types.is_null(other) or pa.types.is_null(mine):
        return True
    if pa.types.is_nested(other):
        return other.id == mine.id  # the reader converts, or says why it cannot
    whole_as_real = pa.types.is_integer(other) and pa.types.is_floating(mine)
    return whole_as_real or any(of_kind(other) and of_kind(mine) for of_kind in KINDS)


def _of_csv(data: InputFiles) -> InputFiles:
    columns: list[str] = []
    differences: dict[str, str] = {}
    first = data.files[0]
    for file in data.files:
        header = csv_header(file.path)
        if not columns:
            columns, first = header, file
        elif header:
            _note_names(differences, first, columns, file, header)
    if not columns:
        raise InputError(f"{first.path} is empty: wanted a header")
    return replace(data, columns=columns, differences=differences)


def csv_header(path: Path) -> list[str]:
    """Return the header of a CSV or TSV file without the spaces around its names; empty if the file is.

    Raises:
        InputError: the file cannot be read, or has two columns of the same name.
    """
    _, cells = next(table_rows(path), ("", []))
    header = [name.strip() for name in cells]
    check_header(str(path), header)
    return header


def _of_jsonl(data: InputFiles) -> InputFiles:
    names = dict.fromkeys(name for record in first_records(data) for name in record)
    return replace(data, columns=list(names) or None)


def first_records(data: InputFiles) -> list[dict[str, Any]]:
    """Return the objects among the first lines of JSONL files.

    Raises:
        InputError: a file cannot be read, or there are lines and none of them is an object.
    """
    records, problem = [], None
    for line in islice(_lines(data), SCHEMA_ROWS):
        try:
            records.append(json_object(*line))
        except InputError as error:
            problem = problem or error  # a row with an error
    if problem and not records:
        raise problem
    return records


def _lines(data: InputFiles) -> Iterator[tuple[str, str]]:
    for file in data.files:
        for number, line in enumerate(read_lines(file.path), start=1):
            if line.strip():
                yield f"{file.path}, line {number}", line


def valid_unicode(record: dict[str, Any]) -> dict[str, Any]:
    """Return an object with U+FFFD in the place of unpaired surrogates, which a table cannot hold."""
    text = json.dumps(record, ensure_ascii=False)
    return json.loads(SURROGATE.sub("\ufffd", text)) if not text.isascii() else record
