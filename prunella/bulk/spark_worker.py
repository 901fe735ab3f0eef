"""Bulk scoring on Spark: the workers of `prunella score --engine spark`, and the pandas UDF.

The bundle travels to the executors with `SparkContext.addFile`. A Python worker of an executor opens it once.
"""

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark import SparkContext, SparkFiles
from pyspark.sql import Column, SparkSession
from pyspark.sql.functions import pandas_udf
from pyspark.sql.types import ArrayType, DoubleType, StringType, StructField, StructType

from models.errors import CheckError, InputError, PrunellaError
from models.task import Task
from prunella.bulk.chunk_scorer import ChunkScorer
from prunella.bulk.job import Chunk, Job, Part
from prunella.bulk.scorer import Scorer, answer_columns
from prunella.bulk.workers import ATTEMPTS, Engine
from service.model.bundle import Bundle
from service.process.publish import resolve

LABEL_SCORE = StructType([StructField("label", StringType()), StructField("score", DoubleType())])
TYPES = {
    "label": StringType(), "score": DoubleType(), "labels": ArrayType(StringType()),
    "scores": ArrayType(LABEL_SCORE), "error": StringType(), "bundle": StringType(),
}  # fmt: skip


def classify(
    bundle: str | Path, scores: bool = False, truncate: bool = True, cascade: bool = True
) -> Callable[..., Column]:
    """Return a function from a column of texts, or from two for a model of pairs, to a column of answers.

    An answer is a struct: label, score, error and bundle; `labels` for a multi-label model, `scores` if wanted. The
    texts of an Arrow batch (spark.sql.execution.arrow.maxRecordsPerBatch) are sorted by length. Prunella must be
    installed on the executors; the bundle travels with `SparkContext.addFile`.

    Args:
        bundle: a bundle folder of the driver, or a tag of BentoML's model store there.
        scores: whether the scores of all labels are in the struct.
        truncate: whether a text that is too long is truncated, or gets an error.
        cascade: whether the gate of a bundle that has one answers easy texts.

    Raises:
        FolderError: there is no such bundle, or it is incomplete.
        InputError: there is no active Spark session, or it is one of Spark Connect.
    """
    opened = Bundle.open(resolve(str(bundle)))
    session = SparkSession.getActiveSession()
    if session is None:
        raise InputError("there is no active Spark session: start one first")
    name, takes_pairs = _send(session, opened), opened.task.pair

    def answer(texts: "pd.Series", pairs: "pd.Series | None") -> "pd.DataFrame":
        scorer = _scorer(name, truncate, cascade)
        rows = scorer(_values(texts), None if pairs is None else _values(pairs))
        return pd.DataFrame(answer_columns(rows, scorer.task, scores) | {"bundle": [scorer.id] * len(rows)})

    def of_texts(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        return (answer(texts, None) for texts in batches)

    def of_pairs(batches: Iterator[tuple[pd.Series, pd.Series]]) -> Iterator[pd.DataFrame]:
        return (answer(texts, pairs) for texts, pairs in batches)

    return pandas_udf(of_pairs if takes_pairs else of_texts, _struct(opened.task, scores))


def spark_engine(bundle: Path, job: Job, schema: pa.Schema | None, processes: int | None) -> Engine:
    """Return a Spark cluster as an engine: that of spark-submit or the active session, else one on this machine.

    Args:
        bundle: the bundle's folder on the driver.
        job: the options of the run.
        schema: of the rows of a JSONL file that become a table.
        processes: chunks at once; default: the cores of the cluster.

    Raises:
        InputError: Spark cannot start.
    """
    own = SparkSession.getActiveSession() is None
    builder = SparkSession.builder.appName("prunella score").config("spark.ui.showConsoleProgress", "false")
    here = own and "MASTER" not in os.environ and "PYSPARK_GATEWAY_PORT" not in os.environ
    if here:
        builder = builder.master(f"local[{processes or '*'},{ATTEMPTS}]").config("spark.ui.enabled", "false")
    try:
        session = builder.getOrCreate()
    except Exception as error:  # py4j's errors and PySpark's own have no common base class
        raise InputError(f"Spark cannot start: {' '.join(str(error).split())[:300]}") from None
    if here and "PYSPARK_PYTHON" not in os.environ:
        session.sparkContext.pythonExec = sys.executable  # else the first python3 of PATH, which may lack Prunella
    opened = Bundle.open(bundle)
    worker = SparkWorker(session, _send(session, opened), job, schema)
    count = processes or session.sparkContext.defaultParallelism
    return Engine(count, lambda: worker, session.stop if own else lambda: None)


class SparkWorker:
    """Runs one Spark job for a chunk. Spark itself repeats tasks whose executor ends. Thread-safe."""

    def __init__(self, session: SparkSession, name: str, job: Job, schema: pa.Schema | None) -> None:
        self._context = session.sparkContext
        self._task = partial(_score, name, job, schema)

    def __call__(self, chunk: Chunk) -> Part:
        """Return the part of a chunk.

        Raises:
            PrunellaError: the part cannot be made.
        """
        try:
            (answer,) = self._context.parallelize([chunk], 1).map(self._task).collect()
        except Exception as error:  # see above
            raise CheckError(f"{chunk.where}: the Spark job failed: {_cause(str(error))}") from None
        if isinstance(answer, PrunellaError):
            raise answer
        return answer

    def close(self) -> None:
        """Do nothing: the session is the engine's."""


def _cause(text: str) -> str:
    """Return why a Spark job failed: the last error of Python in its message, else the beginning."""
    errors = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception): .*$", text, re.MULTILINE)
    cause = " ".join((errors[-1] if errors else text).split())[:500]
    if "ModuleNotFoundError" in cause or "ImportError" in cause:
        cause += "; the Python of the executors needs Prunella with the extra spark: PYSPARK_PYTHON names it"
    return cause


def _score(name: str, job: Job, schema: pa.Schema | None, chunk: Chunk) -> Part | PrunellaError:
    """Run on an executor."""
    try:
        return _chunk_scorer(name, job, schema)(chunk)
    except PrunellaError as error:
        return error


def _values(series: "pd.Series") -> list[Any]:
    """Return the values of a series; a missing one, which is NaN or None in pandas, as None."""
    return [None if missing else value for value, missing in zip(series, series.isna(), strict=True)]


@cache
def _chunk_scorer(name: str, job: Job, schema: pa.Schema | None) -> ChunkScorer:
    return ChunkScorer(Path(SparkFiles.get(name)), job, schema)


@cache
def _scorer(name: str, truncate: bool, cascade: bool) -> Scorer:
    return Scorer(SparkFiles.get(name), truncate, cascade)


def _send(session: SparkSession, bundle: Bundle) -> str:
    """Send a bundle to the executors; return the name of its folder there.

    Raises:
        InputError: the session is one of Spark Connect.
    """
    try:
        context = session.sparkContext
    except Exception:  # PySparkAttributeError, which Spark 3.5 does not have in this place
        raise InputError("a session of Spark Connect cannot send a folder: wanted a classic session") from None
    return _send_once(context.applicationId, bundle.folder.path.resolve(), bundle.id)


@cache
def _send_once(application: str, folder: Path, bundle_id: str) -> str:  # noqa: ARG001  # a part of the cache's key
    name = f"prunella-{bundle_id}"  # Spark refuses a second folder of the same name
    copies = tempfile.mkdtemp(prefix="prunella-spark-")
    atexit.register(shutil.rmtree, copies, ignore_errors=True)
    copy = shutil.copytree(folder, Path(copies) / name)
    SparkContext.getOrCreate().addFile(str(copy), recursive=True)
    return name


def _struct(task: Task, scores: bool) -> StructType:
    names: list[Any] = [*answer_columns([], task, scores), "bundle"]
    return StructType([StructField(name, TYPES[name]) for name in names])
