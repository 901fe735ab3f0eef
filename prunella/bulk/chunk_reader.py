"""read_chunks(): cut the input into chunks, in order, without ever holding more than a few of them in memory."""

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from models.data.csv_jsonl import read_lines, table_rows
from models.errors import InputError
from prunella.bulk.input_columns import csv_header
from prunella.bulk.input_files import InputFile, InputFiles, one_line
from prunella.bulk.job import Body, Chunk, Job

Item = TypeVar("Item")
Content = tuple[int, bytes, dict[int, str]]  # rows, body, problems by position


class NotedPart(Protocol):
    """The attributes of a finished part that the reader needs."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def last(self) -> bool:
        """Whether its file ends there."""


def read_chunks(data: InputFiles, job: Job, parts: Mapping[tuple[int, int], NotedPart]) -> Iterator[Chunk]:
    """Yield the chunks that have no part yet.

    Args:
        data: the input.
        job: the options of the run.
        parts: finished parts, by the positions of their files and their numbers.

    Raises:
        InputError: a file cannot be read any further; the message names it, and the rows.
    """
    total = 0
    for position, file in enumerate(data.files):
        finished = _beginning(position, parts)
        total += sum(part.rows for part in finished)
        if job.limit is not None and total >= job.limit:
            return
        if finished and finished[-1].last:
            continue
        contents = _with_last(READERS[data.format](file, data, job, len(finished) * job.chunk_rows))
        for number, ((rows, body, problems), last) in enumerate(contents, start=len(finished)):
            start = number * job.chunk_rows
            over = 0 if job.limit is None else max(0, total + rows - job.limit)
            if over:
                rows, last, body = rows - over, True, CUTTERS[KINDS[data.format]](body, rows - over)
                problems = {i: problem for i, problem in problems.items() if i < rows}
            total += rows
            if (position, number) not in parts:
                where = f"{file.name}, rows {start + 1} to {start + rows}"
                yield Chunk(position, number, rows, last, where, KINDS[data.format], body, problems)
            if job.limit is not None and total >= job.limit:
                return


def is_finished(data: InputFiles, job: Job, parts: Mapping[tuple[int, int], NotedPart]) -> bool:
    """Whether `read_chunks` would yield nothing; the files are not read."""
    total = 0
    for position in range(len(data.files)):
        finished = _beginning(position, parts)
        total += sum(part.rows for part in finished)
        if job.limit is not None and total >= job.limit:
            return True
        if not finished or not finished[-1].last:
            return False
    return True


def _beginning(position: int, parts: Mapping[tuple[int, int], NotedPart]) -> list[NotedPart]:
    """Return the finished parts of a file before the first one that is missing."""
    finished: list[NotedPart] = []
    while (part := parts.get((position, len(finished)))) is not None:
        finished.append(part)
    return finished


def _with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Yield each item, and whether it is the last one."""
    iterator = iter(items)
    waiting = list(islice(iterator, 1))
    for following in iterator:
        yield waiting.pop(), False
        waiting.append(following)
    yield from ((item, True) for item in waiting)


def _parquet_contents(file: InputFile, data: InputFiles, job: Job, start: int) -> Iterator[Content]:
    schema = data.schema
    assert schema is not None, "Parquet files have a schema"
    wanted = [name for name in schema.names if _is_read(name, job)]
    target = pa.schema([schema.field(name) for name in wanted], schema.metadata)
    row = start
    try:
        with pyarrow.parquet.ParquetFile(file.path, page_checksum_verification=True) as source:
            own = [name for name in wanted if name not in file.partition]
            if missing := sorted(set(own) - set(source.schema_arrow.names)):
                raise InputError(f"{file.path} has no column {missing[0]!r}, the first file has it")
            group, before = _group_at(source, start)
            batches = source.iter_batches(
                min(job.chunk_rows, 65_536), list(range(group, source.num_row_groups)), own, use_threads=False
            )
            for table in _of_size(batches, job.chunk_rows, start - before, source.schema_arrow, own):
                for name, value in file.partition.items():
                    if name in wanted:
                        value = pa.scalar(value, schema.field(name).type)
                        table = table.append_column(name, pa.repeat(value, table.num_rows))
                yield table.num_rows, _stream(_cast(table.select(wanted), target, file, row)), {}
                row += table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.path} cannot be read after row {row} ({one_line(error)}); the rows before it are kept: replace "
            "the file and run the same command again"
        ) from None


def _cast(table: pa.Table, target: pa.Schema, file: InputFile, row: int) -> pa.Table:
    """Return rows with the types of the first file."""
    columns = []
    for field in target:
        column = table.column(field.name)
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except (pa.ArrowException, ValueError) as error:
            raise InputError(
                f"{file.path}, rows {row + 1} to {row + table.num_rows}: the column {field.name!r} is {column.type}, "
                f"in the first file {field.type}, and a value cannot be converted ({one_line(error)}); leave the "
                "column out with --columns, or write the files with one type"
            ) from None
    return pa.table(columns, schema=target)


def _group_at(source: Any, row: int) -> tuple[int, int]:
    """Return the row group of a row, and the number of rows before that group."""
    before = 0
    for group in range(source.num_row_groups):
        rows = source.metadata.row_group(group).num_rows
        if before + rows > row:
            return group, before
        before += rows
    return source.num_row_groups, before


def _of_size(batches: Iterable[Any], rows: int, skip: int, schema: pa.Schema, names: list[str]) -> Iterator[pa.Table]:
    """Yield tables of `rows` rows, without the first `skip` rows; the last is shorter. One at least."""
    empty = pa.schema([schema.field(name) for name in names], schema.metadata).empty_table()
    waiting, yielded = empty, False
    for batch in batches:
        skipped = min(skip, batch.num_rows)
        skip -= skipped
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch.slice(skipped)])])
        while waiting.num_rows >= rows:
            yield waiting.slice(0, rows)
            waiting, yielded = waiting.slice(rows), True
    if waiting.num_rows or not yielded:
        yield waiting


def _csv_contents(file: InputFile, data: InputFiles, job: Job, start: int) -> Iterator[Content]:
    header = csv_header(file.path)
    columns = [name for name in data.columns or () if _is_read(name, job)]
    if header and (missing := [name for name in columns if name not in header]):
        raise InputError(f"{file.path} has no column {missing[0]!r}, the first file has it")
    rows = (cells for _, cells in table_rows(file.path))
    next(rows, None)  # the header
    yield from (_csv_content(header or columns, piece, columns) for piece in _pieces(rows, start, job.chunk_rows))


def _csv_content(header: list[str], rows: list[list[str]], kept: list[str]) -> Content:
    problems = {}
    for i, cells in enumerate(rows):
        if len(cells) != len(header):
            problems[i] = f"the row has {len(cells)} cells, the header {len(header)}"
            rows[i] = [*cells, *[""] * len(header)][: len(header)]
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    named = {name: pa.array(cells, pa.string()) for name, cells in zip(header, columns, strict=True)}
    table = pa.table({name: named[name] for name in kept})
    return len(rows), _stream(table), problems


def _jsonl_contents(file: InputFile, _: InputFiles, job: Job, start: int) -> Iterator[Content]:
    lines = (line for line in read_lines(file.path) if line.strip())
    for piece in _pieces(lines, start, job.chunk_rows):
        yield len(piece), "".join(line.rstrip("\r\n") + "\n" for line in piece).encode(), {}


def _pieces(items: Iterator[Item], start: int, size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items from the item `start` on; the last is shorter. One at least."""
    next(islice(items, start, start), None)  # skips
    piece = list(islice(items, size))
    yield piece
    while len(piece) == size and (piece := list(islice(items, size))):
        yield piece


def _is_read(name: str, job: Job) -> bool:
    return job.columns is None or name in {*job.columns, job.text_column, job.pair_column}


def _stream(table: pa.Table) -> bytes:
    target = io.BytesIO()
    with pyarrow.ipc.new_stream(target, table.schema) as stream:
        stream.write_table(table)
    return target.getvalue()


def _cut_arrow(body: bytes, rows: int) -> bytes:
    with pyarrow.ipc.open_stream(body) as stream:
        return _stream(stream.read_all().slice(0, rows))


def _cut_lines(body: bytes, rows: int) -> bytes:
    return b"".join(line + b"\n" for line in body.split(b"\n")[:rows])


KINDS: dict[str, Body] = {"parquet": "arrow", "csv": "arrow", "jsonl": "lines"}
READERS = {"parquet": _parquet_contents, "csv": _csv_contents, "jsonl": _jsonl_contents}
CUTTERS = {"arrow": _cut_arrow, "lines": _cut_lines}
