"""Workers: one thread for each worker of an engine. A chunk whose worker ends is given to a new worker."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

from models.errors import CheckError
from models.messages import WARNING, say
from prunella.bulk.job import Chunk, Part

ATTEMPTS = 3  # for a chunk


class WorkerDied(Exception):
    """A worker ended before it had answered."""


class Worker(Protocol):
    """What makes parts, one after the other."""

    def __call__(self, chunk: Chunk) -> Part:
        """Return the part of a chunk; raises WorkerDied, or why the part cannot be made."""

    def close(self) -> None:
        """End the worker."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where the workers run."""

    workers: int
    open_worker: Callable[[], Worker]
    close: Callable[[], None] = lambda: None


class Workers:
    """The open workers of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.count, self.deaths = engine.workers, 0
        self._engine, self._closed = engine, False
        self._pool = ThreadPoolExecutor(engine.workers, thread_name_prefix="chunk-worker")
        self._own = threading.local()  # the worker of each thread
        self._open: set[Worker] = set()
        self._lock = threading.Lock()  # guards `_open`, `_closed` and `deaths`

    def submit(self, chunk: Chunk) -> "Future[Part]":
        """Give a chunk to the next free worker.

        The future's exception is a CheckError when the chunk's workers ended, or why the part cannot be made.
        """
        return self._pool.submit(self._make, chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            workers = list(self._open)
        for worker in workers:
            worker.close()
        self._pool.shutdown(cancel_futures=True)
        self._engine.close()

    def _make(self, chunk: Chunk) -> Part:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._worker()(chunk)
            except WorkerDied as death:
                self._drop(death, chunk, attempt)
        raise CheckError(
            f"{chunk.where}: {ATTEMPTS} workers ended while they scored these rows; the finished rows are kept: give "
            "each worker more memory, or use fewer with --processes, and run the same command again"
        )

    def _worker(self) -> Worker:
        worker: Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._engine.open_worker()
            with self._lock:
                self._open.add(worker)
                closed = self._closed
            if closed:  # while it was being opened
                worker.close()
                raise CheckError("the run has ended")
            self._own.worker = worker
        return worker

    def _drop(self, death: WorkerDied, chunk: Chunk, attempt: int) -> None:
        """Forget the worker of this thread, which has ended."""
        worker, self._own.worker = getattr(self._own, "worker", None), None
        with self._lock:
            if self._closed:
                raise CheckError("the run has ended") from death
            self.deaths += 1
            if worker is not None:  # else it ended while it was being opened
                self._open.discard(worker)
        if worker is not None:
            worker.close()
        again = "; they are scored again" if attempt < ATTEMPTS else ""
        say(f"{WARNING}{death}, while it scored {chunk.where}{again}")
