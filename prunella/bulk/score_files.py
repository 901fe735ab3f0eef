"""score(): classify the rows of files into a folder of part files; a killed run goes on where it was."""

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet

from models.data.other_formats import missing_column
from models.errors import FolderError, InputError, MissingExtraError
from models.messages import progress, say
from models.schema import Record, wrong_values
from models.store.lock import Lock
from models.task import Combine, Task
from prunella.bulk.chunk_reader import is_finished, read_chunks
from prunella.bulk.chunk_scorer import added_columns
from prunella.bulk.input_columns import first_records, read_columns, valid_unicode
from prunella.bulk.input_files import InputFiles, one_line, open_input
from prunella.bulk.job import CHUNK_ROWS, Chunk, Format, Job, Part
from prunella.bulk.output_folder import LOCK, OutputFolder
from prunella.bulk.row_count import count_rows
from prunella.bulk.workers import Engine, Workers
from service.model.bundle import Bundle
from service.process.cores import usable_cores
from service.process.publish import resolve

EngineName = Literal["local", "ray", "spark"]
PAIR_COLUMN = "text_pair"


class ScoreOptions(Record):
    """What the user chooses; see the options of `prunella score`."""

    engine: EngineName = "local"
    text_column: str = "text"
    pair_column: str | None = None
    columns: tuple[str, ...] | None = None
    prefix: str = ""
    scores: bool = False
    truncate: bool = True
    cascade: bool = True
    windows: int | None = None
    windows_combine: Combine | None = None
    limit: int | None = None
    format: Format | None = None
    chunk_rows: int = CHUNK_ROWS
    processes: int | None = None


def score(bundle: str, source: Path, output: Path, options: ScoreOptions) -> dict[str, Any]:
    """Classify all rows of `source` into the folder `output`, and return a summary.

    Args:
        bundle: a bundle folder, or a tag of BentoML's model store.
        source: a Parquet, CSV, TSV or JSONL file, or a folder of such files.
        output: the folder of the parts; if a run with the same options was killed there, this one goes on.
        options: columns, format and engine.

    Raises:
        InputError: bundle, input, output or options are not usable; the message says why.
        CheckError: the disk is full, workers ended, or the model fails on every text. What is finished is kept.
    """
    start = time.perf_counter()
    _check_engine(options.engine)
    opened = Bundle.open(resolve(bundle))
    data = read_columns(open_input(source))
    job = _job(opened, source, data, options)
    schema = _schema(data, job)
    _check_output(source, output)
    with _only_writer(output):
        folder = OutputFolder(output, job, data)
        before = sum(part.rows for part in folder.parts.values())
        if before:
            say(f"{output}: {before} rows are finished, the run goes on")
        count = deaths = 0
        if not is_finished(data, job, folder.parts):  # else no cluster need start
            engine = open_engine(options.engine, opened.folder.path, job, schema, options.processes)
            try:
                with Workers(engine) as workers:
                    _score_chunks(data, folder, job, workers)
            except KeyboardInterrupt:
                finished = sum(part.rows for part in folder.parts.values())
                say(f"stopped: the same command goes on, {finished} rows are finished")
                raise
            count, deaths = workers.count, workers.deaths
        summary = _summary(folder, before, time.perf_counter() - start)
        summary |= {"bundle": job.bundle, "engine": options.engine, "workers": count, "deaths": deaths}
        folder.finish(summary)
    return {"folder": str(output), **summary}


def open_engine(
    name: EngineName, bundle: Path, job: Job, schema: pa.Schema | None = None, processes: int | None = None
) -> Engine:
    """Return an engine; `processes` is the number of its workers, by default one for each core that it may use.

    Raises:
        InputError: it cannot start.
    """
    if name == "ray":
        from prunella.bulk.ray_worker import ray_engine

        return ray_engine(bundle, job, schema, processes)
    if name == "spark":
        from prunella.bulk.spark_worker import spark_engine

        return spark_engine(bundle, job, schema, processes)
    from prunella.bulk.local_worker import LocalWorker

    return Engine(processes or usable_cores(), lambda: LocalWorker(bundle, job, schema))


@contextmanager
def _only_writer(output: Path) -> Iterator[None]:
    """Have the lock of the output.

    Raises:
        InputError: another process has it, or it is no folder that can be written.
    """
    if output.exists() and not output.is_dir():
        raise FolderError(f"{output} is a file: wanted a folder for the output, or no such path")
    lock = Lock(output.resolve() / LOCK)  # in it: what contains it need not be writable
    if not lock.try_acquire():
        holder = lock.holder()
        raise InputError(
            f"{holder.describe() if holder else 'another process'} writes {output}: wait for it, or end it"
        )
    try:
        yield
    finally:
        lock.release()


def _check_engine(name: EngineName) -> None:
    """Check that an engine is installed.

    Raises:
        MissingExtraError: its package is missing.
        InputError: Spark's Java is missing.
    """
    module = {"local": None, "ray": "ray", "spark": "pyspark"}[name]
    if module and importlib.util.find_spec(module) is None:
        raise MissingExtraError(f"--engine {name} needs {module}: pip install 'prunella[{name}]'")
    if name == "spark" and not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise InputError("--engine spark needs Java 17 or later: install openjdk-17-jre-headless, or set JAVA_HOME")


def _score_chunks(data: InputFiles, folder: OutputFolder, job: Job, workers: Workers) -> None:
    """Score the chunks that have no part. If the input cannot be read to its end, those before are finished first."""
    chunks = read_chunks(data, job, folder.parts)
    running: dict[Future[Part], Chunk] = {}
    unreadable: InputError | None = None
    exhausted = False
    total, before = count_rows(data, job), sum(part.rows for part in folder.parts.values())
    with progress(total=total, initial=before, desc="score", unit="row", unit_scale=True) as bar:
        while True:
            while not exhausted and len(running) < 2 * workers.count:  # one more waits for each worker
                try:
                    chunk = next(chunks, None)
                except InputError as error:
                    chunk, unreadable = None, error
                if chunk is None:
                    exhausted = True
                else:
                    running[workers.submit(chunk)] = chunk
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                part = future.result()
                folder.add(running.pop(future), part)
                bar.update(part.rows)
    if unreadable is not None:
        raise unreadable


def _summary(folder: OutputFolder, before: int, seconds: float) -> dict[str, Any]:
    parts = folder.parts.values()
    rows = sum(part.rows for part in parts)
    return {
        "rows": rows, "errors": sum(part.errors for part in parts),
        "gated_rows": sum(part.gated for part in parts), "resumed_rows": before, "parts": len(parts),
        "seconds": round(seconds, 1), "rows_per_second": round((rows - before) / seconds, 1),
    }  # fmt: skip


def _job(bundle: Bundle, source: Path, data: InputFiles, options: ScoreOptions) -> Job:
    """Return the options of the run, checked against the bundle and the columns of the input.

    Raises:
        InputError: a column is missing, or has the name of one that is added; or the model takes pairs and there are
            none, or the reverse.
    """
    pair = options.pair_column or (PAIR_COLUMN if bundle.task.pair else None)
    if pair and not bundle.task.pair:
        raise InputError(f"the model takes single texts: leave out --pair-column {pair}")
    with wrong_values():
        job = Job(
            bundle=bundle.id, source=str(source.resolve()), text_column=options.text_column, pair_column=pair,
            columns=options.columns, prefix=options.prefix, scores=options.scores, truncate=options.truncate,
            cascade=options.cascade, windows=options.windows, windows_combine=options.windows_combine,
            limit=options.limit, format=options.format or data.format, chunk_rows=options.chunk_rows,
        )  # fmt: skip
    if job.columns and len(set(job.columns)) < len(job.columns):
        raise InputError(f"--columns names a column twice: {', '.join(job.columns)}")
    if data.columns is not None:
        _check_columns(job, data, data.columns)
        _check_names(job, bundle.task, data.columns)
    return job


def _check_columns(job: Job, data: InputFiles, names: list[str]) -> None:
    flags = dict.fromkeys(job.columns or (), "--columns") | {job.pair_column: "--pair-column"}
    for name, flag in (flags | {job.text_column: "--text-column"}).items():
        if name is not None and name not in names:
            raise InputError(f"{data.files[0].path} has {missing_column(name, flag, names)}")
    read = {*names, *data.differences} if job.columns is None else flags.keys() | {job.text_column}
    if difference := next((text for name, text in data.differences.items() if name in read), None):
        raise InputError(
            f"{difference}: write the files with the same columns, or choose those to keep with --columns id,date"
        )


def _check_names(job: Job, task: Task, names: list[str]) -> None:
    added = added_columns(job, task)
    if clash := [name for name in (names if job.columns is None else job.columns) if name in added]:
        raise InputError(
            f"the input has a column {clash[0]!r}, and one of this name is added: choose other names for the added "
            "ones, such as with --prefix model_, or leave the input's out with --columns"
        )


def _schema(data: InputFiles, job: Job) -> pa.Schema | None:
    """Return the schema for the rows of a JSONL file that become a table, from its first rows; else None.

    Raises:
        InputError: a column has values of several types, or is nested too deeply.
    """
    if data.format != "jsonl" or job.format == "jsonl":
        return None
    records = [valid_unicode(record) for record in first_records(data)]
    names = dict.fromkeys(name for record in records for name in record)
    if not records:
        names = dict.fromkeys([*(job.columns or ()), job.text_column, *filter(None, [job.pair_column])])
    try:
        schema = pa.table({name: pa.array([record.get(name) for record in records]) for name in names}).schema
        schema = pa.schema([pa.field(one.name, pa.string()) if pa.types.is_null(one.type) else one for one in schema])
        content = pa.BufferOutputStream()
        pyarrow.parquet.write_table(schema.empty_table(), content)
        pyarrow.parquet.read_schema(pa.BufferReader(content.getvalue()))  # it refuses a hundred levels
    except (pa.ArrowException, OSError) as error:
        problem = f"{data.files[0].path}: the rows do not fit a table ({one_line(error)})"
        raise InputError(f"{problem}; use --format jsonl") from None
    return schema


def _check_output(source: Path, output: Path) -> None:
    here, there = source.resolve(), output.resolve()
    if here.is_dir() and (there == here or here in there.parents):
        raise InputError(
            f"{output} is inside of the input {source}: its parts would be read as input; choose another"
        )
