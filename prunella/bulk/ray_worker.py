"""Bulk scoring on Ray: the workers of `prunella score --engine ray`, and the class for `Dataset.map_batches`."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.exceptions

from models.errors import InputError, PrunellaError
from prunella.bulk.chunk_scorer import TYPES, ChunkScorer
from prunella.bulk.job import Chunk, Job, Part
from prunella.bulk.scorer import Scorer, answer_columns
from prunella.bulk.workers import Engine, WorkerDied


class Classify:
    """Classifies batches of a Ray data set: `dataset.map_batches(Classify, fn_constructor_args=("bundle",), …)`.

    Give `batch_format="pyarrow"`, `num_cpus=1`, and the number of actors as `concurrency`. Each actor opens the
    bundle once.
    """

    def __init__(  # noqa: PLR0913  # the options of `prunella score`
        self,
        bundle: str,
        text_column: str = "text",
        pair_column: str | None = None,
        prefix: str = "",
        scores: bool = False,
        truncate: bool = True,
        cascade: bool = True,
    ) -> None:
        """Open the bundle.

        Args:
            bundle: a folder that every node can read.
            text_column: column of the text, or of the first text of a pair.
            pair_column: column of the second text of a pair.
            prefix: before the names of the added columns.
            scores: whether to add the scores of all labels.
            truncate: whether a text that is too long is truncated, or gets an error.
            cascade: whether the gate of a bundle that has one answers easy texts.

        Raises:
            FolderError: there is no such bundle, or it is incomplete.
            DisagreementError: the answers on this processor differ from the stored ones.
        """
        self._scorer = Scorer(bundle, truncate, cascade)
        self._columns = (text_column, pair_column)
        self._prefix, self._scores = prefix, scores

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch with the columns label, score, error and bundle.

        Raises:
            InputError: the batch has no such column, or has one of the name of an added one.
        """
        for name in filter(None, self._columns):
            if name not in batch.schema.names:
                raise InputError(f"the batch has no column {name!r}: it has {', '.join(batch.schema.names)}")
        texts, pairs = (None if name is None else batch.column(name).to_pylist() for name in self._columns)
        answers = self._scorer(texts or [], pairs)
        added = {
            **answer_columns(answers, self._scorer.task, self._scores),
            "bundle": [self._scorer.id] * len(answers),
        }
        for name, values in added.items():
            if self._prefix + name in batch.schema.names:
                raise InputError(f"the batch has a column {self._prefix + name!r}: choose other names with prefix=")
            batch = batch.append_column(self._prefix + name, pa.array(values, TYPES[name]))
        return batch


@ray.remote(num_cpus=1, max_restarts=0)
class ScoringActor:
    """A ChunkScorer on some node."""

    def __init__(self, bundle: Path, job: Job, schema: pa.Schema | None) -> None:
        self._problem: PrunellaError | None = None
        try:
            self._scorer = ChunkScorer(bundle, job, schema)
        except PrunellaError as error:  # an exception here would be lost in Ray's own
            self._problem = error

    def process(self) -> int:
        """Return the id of the actor's process, for messages and tests."""
        return os.getpid()

    def score(self, chunk: Chunk) -> Part | PrunellaError:
        """Return the part of a chunk, or why it cannot be made."""
        if self._problem is not None:
            return self._problem
        try:
            return self._scorer(chunk)
        except PrunellaError as error:
            return error


class RayWorker:
    """An actor of a Ray cluster."""

    def __init__(self, bundle: Path, job: Job, schema: pa.Schema | None) -> None:
        self._actor = ScoringActor.remote(bundle, job, schema)  # type: ignore[attr-defined]  # ray.remote adds it

    def __call__(self, chunk: Chunk) -> Part:
        """Return the part of a chunk.

        Raises:
            PrunellaError: the part cannot be made.
            WorkerDied: the actor or its node is gone.
        """
        try:
            answer = ray.get(self._actor.score.remote(chunk))
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.ObjectLostError,
            ray.exceptions.OutOfMemoryError,
        ) as error:
            raise WorkerDied(f"a Ray actor ended ({' '.join(str(error).split())[:200]})") from None
        if isinstance(answer, PrunellaError):
            raise answer
        return answer

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor)


def ray_engine(bundle: Path, job: Job, schema: pa.Schema | None, processes: int | None) -> Engine:
    """Return the cluster of RAY_ADDRESS, or else one on this machine, as an engine.

    Args:
        bundle: a folder that every node can read.
        job: the options of the run.
        schema: of the rows of a JSONL file that become a table.
        processes: number of actors; default: the cores of the cluster.

    Raises:
        InputError: the cluster cannot be reached.
    """
    own = not ray.is_initialized()
    if own:
        options: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": processes}
        try:
            ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"Ray cannot start: {' '.join(str(error).split())[:300]}") from None
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    if processes is not None and processes > cores:
        raise InputError(f"--processes {processes}: the Ray cluster has {cores} cores")
    return Engine(
        processes or cores, partial(RayWorker, bundle.resolve(), job, schema), ray.shutdown if own else lambda: None
    )
