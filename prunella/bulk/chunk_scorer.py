"""ChunkScorer: makes the content of a part file out of a chunk of the input. Every engine runs this code."""

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from models.data.csv_jsonl import json_object
from models.errors import InputError
from models.task import Task
from prunella.bulk.input_columns import valid_unicode
from prunella.bulk.input_files import one_line
from prunella.bulk.job import Chunk, Job, Part
from prunella.bulk.scorer import Scored, Scorer, answer_columns

BUNDLE = "bundle"  # the added column with the id of the bundle
SEPARATOR = "|"  # of the labels of a row in CSV
SCORES = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))
TYPES = {
    "label": pa.string(), "score": pa.float64(), "labels": pa.list_(pa.string()), "scores": SCORES,
    "windows": pa.int64(), "error": pa.string(), BUNDLE: pa.string(),
}  # fmt: skip
Record = dict[str, Any]


def added_columns(job: Job, task: Task) -> list[str]:
    """Return the names of the columns that a job adds."""
    return [job.prefix + name for name in (*answer_columns([], task, job.scores, job.has_windows(task)), BUNDLE)]


class ChunkScorer:
    """Opens the bundle once, and scores chunks on one core."""

    def __init__(self, bundle: Path, job: Job, schema: pa.Schema | None = None) -> None:
        """Open the bundle.

        Args:
            bundle: the bundle's folder on this machine.
            job: the options of the run.
            schema: of the rows of a JSONL file that are to be written as a table.

        Raises:
            FolderError: there is no such bundle, it is incomplete, or its id is not the job's.
            DisagreementError: the answers on this processor differ from the stored ones.
        """
        self._job, self._schema = job, schema
        self._scorer = Scorer(bundle, job.truncate, job.cascade, job.windows, job.windows_combine)
        if self._scorer.id != job.bundle:
            raise InputError(f"{bundle} is bundle {self._scorer.id} here, and the run began with {job.bundle}")

    def __call__(self, chunk: Chunk) -> Part:
        """Return the part of a chunk.

        Raises:
            InputError: a row has a column of the name of an added one, or cannot be written in the format.
            CheckError: the model fails on every text.
        """
        problems = dict(chunk.problems)
        data = _lines(chunk, problems) if chunk.kind == "lines" else _table(chunk)
        values = [self._texts(data, column, problems) for column in (self._job.text_column, self._job.pair_column)]
        answers = self._scorer(values[0] or [], values[1])
        rows = [replace(Scored(), error=problems[i]) if i in problems else row for i, row in enumerate(answers)]
        content = self._write(chunk, data, rows)
        errors, gated = sum(row.error is not None for row in rows), sum(row.by_gate for row in rows)
        return Part(content, len(rows), errors, gated)

    def _texts(self, data: pa.Table | list[Record], column: str | None, problems: dict[int, str]) -> list[Any] | None:
        if column is None:
            return None
        if isinstance(data, list):
            for i, record in enumerate(data):
                if column not in record:
                    problems.setdefault(i, f"the row has no {column!r}")
            return [record.get(column) for record in data]
        try:
            return data.column(column).to_pylist()
        except UnicodeDecodeError:
            return [_decoded(i, value, problems) for i, value in enumerate(data.column(column))]

    def _write(self, chunk: Chunk, data: pa.Table | list[Record], rows: list[Scored]) -> bytes:
        task = self._scorer.task
        columns = answer_columns(rows, task, self._job.scores, self._job.has_windows(task))
        added = {**columns, BUNDLE: [self._job.bundle] * len(rows)}
        if self._job.format == "parquet":
            return _parquet(self._kept(self._as_table(chunk, data)), added, self._job.prefix)
        if isinstance(data, list) and self._job.format == "csv":
            data = self._as_table(chunk, data)
        names = [self._job.prefix + name for name in added]
        if self._job.format == "csv" and "labels" in added:
            added["labels"] = [None if labels is None else SEPARATOR.join(labels) for labels in added["labels"]]
        answers = (dict(zip(names, values, strict=True)) for values in zip(*added.values(), strict=True))
        kept = self._kept(data)
        if self._job.format == "csv":
            records = (record | answer for record, answer in zip(_records(chunk, kept), answers, strict=True))
            return _csv([*kept.schema.names, *names], records)
        return _jsonl(chunk, _records(chunk, kept), answers)

    def _kept(self, data: Any) -> Any:
        """Return the rows with the columns that are to be kept."""
        columns = self._job.columns
        if columns is None:
            return data
        if isinstance(data, list):
            return [{key: record[key] for key in columns if key in record} for record in data]
        return data.select(list(columns))

    def _as_table(self, chunk: Chunk, data: pa.Table | list[Record]) -> pa.Table:
        if not isinstance(data, list):
            return data
        assert self._schema is not None, "the run reads the schema of a JSONL file that becomes a table"
        if b"\\ud" in chunk.body.lower():  # an escape that may be an unpaired surrogate
            data = [valid_unicode(record) for record in data]
        known = set(self._schema.names)
        if other := next((key for record in data for key in record if key not in known), None):
            raise InputError(f"{chunk.where}: a row has {other!r}, the first rows have not; use --format jsonl")
        try:
            return pa.Table.from_pylist(data, schema=self._schema)
        except pa.ArrowException as error:
            raise InputError(
                f"{chunk.where}: a value is of another type than in the first rows ({error}); use --format jsonl"
            ) from None


def _table(chunk: Chunk) -> pa.Table:
    with pyarrow.ipc.open_stream(chunk.body) as stream:
        return stream.read_all()


def _lines(chunk: Chunk, problems: dict[int, str]) -> list[Record]:
    """Return the objects of the lines; one that is not an object becomes an empty row with a problem."""
    records: list[Record] = []
    for i, line in enumerate(chunk.body.decode().split("\n")[:-1]):
        try:
            records.append(json_object("the line", line))
        except InputError as error:
            problems[i] = str(error)
            records.append({})
    return records


def _decoded(position: int, value: pa.Scalar, problems: dict[int, str]) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        problems[position] = "the text is not UTF-8"
        return None


def _parquet(table: pa.Table, added: dict[str, list[Any]], prefix: str) -> bytes:
    for name, values in added.items():
        table = table.append_column(prefix + name, pa.array(values, TYPES[name]))
    target = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, target)
    return bytes(target.getvalue())


def _records(chunk: Chunk, data: pa.Table | list[Record]) -> list[Record]:
    """Return the rows for CSV and JSONL: times as text, durations as their number."""
    if isinstance(data, list):
        return data
    try:
        columns = [_plain(_plain(column, _in_utc), _as_text) for column in data.columns]
        return pa.table(columns, names=data.schema.names).to_pylist() if columns else [{}] * data.num_rows
    except UnicodeDecodeError as error:
        raise InputError(f"{chunk.where}: a column is not UTF-8 ({error}); use --format parquet") from None
    except pa.ArrowException as error:
        raise InputError(f"{chunk.where}: {one_line(error)}; use --format parquet") from None


def _plain(column: pa.ChunkedArray, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.ChunkedArray:
    wanted = _with_leaves(column.type, leaf)
    return column if wanted == column.type else column.cast(wanted)


def _with_leaves(kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a type in which the innermost types are replaced."""
    if pa.types.is_dictionary(kind):
        return _with_leaves(kind.value_type, leaf)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_leaves(field.type, leaf)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_with_leaves(kind.key_type, leaf), _with_leaves(kind.item_type, leaf))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_with_leaves(kind.value_type, leaf)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_with_leaves(kind.value_type, leaf)))
    return leaf(kind)


def _in_utc(kind: pa.DataType) -> pa.DataType:
    """A time with a zone is then written with Z, and no data base of zones is needed."""
    return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz else kind


def _as_text(kind: pa.DataType) -> pa.DataType:
    """Python has no nanoseconds, and no years behind 9999."""
    if pa.types.is_duration(kind):
        return pa.int64()
    return pa.string() if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind) else kind


def _csv(names: list[str], records: Iterator[Record]) -> bytes:
    target = io.StringIO(newline="")
    plain = csv.writer(target, lineterminator="\n")
    quoting = csv.writer(target, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(names)
    for record in records:
        cells = [_cell(record[name]) for name in names]
        with_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)  # which `plain` would not quote
        (quoting if with_return else plain).writerow(cells)
    return target.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return _as_json(value)
    return json.dumps(value, ensure_ascii=False, default=_as_json) if isinstance(value, list | dict | bool) else value


def _as_json(value: Any) -> str:
    """Return a value that JSON does not have, as text: bytes in base64, a decimal number with its digits."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _jsonl(chunk: Chunk, records: list[Record], answers: Iterator[Record]) -> bytes:
    lines = []
    for record, answer in zip(records, answers, strict=True):
        if clash := record.keys() & answer.keys():
            raise InputError(
                f"{chunk.where}: a row has a key {min(clash)!r} already; choose other names with --prefix"
            )
        text = _json(record | answer, ensure_ascii=False)
        try:
            lines.append(text.encode())
        except UnicodeEncodeError:  # an unpaired surrogate, which only an escape can write
            lines.append(_json(record | answer, ensure_ascii=True).encode())
    return b"".join(line + b"\n" for line in lines)


def _json(row: Record, ensure_ascii: bool) -> str:
    try:
        return json.dumps(row, ensure_ascii=ensure_ascii, default=_as_json, allow_nan=False)
    except ValueError:  # a number that JSON does not have
        finite = json.loads(json.dumps(row, default=_as_json), parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=ensure_ascii)
