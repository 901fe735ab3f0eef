"""count_rows(): the number of rows of an input, from which the time that is left is predicted."""

import pyarrow as pa
import pyarrow.parquet

from prunella.bulk.input_files import InputFile, InputFiles
from prunella.bulk.job import Job

BLOCK = 2**20  # bytes


def count_rows(data: InputFiles, job: Job) -> int | None:
    """Return the number of rows that a run will read: line ends of CSV and JSONL files; None if a file is damaged."""
    count = _parquet_rows if data.format == "parquet" else _lines
    header = data.format == "csv"
    try:
        total = sum(max(0, count(file) - header) for file in data.files)
    except (pa.ArrowException, OSError):
        return None  # the reader says why when it comes to the file
    return total if job.limit is None else min(total, job.limit)


def _parquet_rows(file: InputFile) -> int:
    return int(pyarrow.parquet.read_metadata(file.path).num_rows)


def _lines(file: InputFile) -> int:
    with file.path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(BLOCK), b""))
