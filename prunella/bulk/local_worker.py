"""LocalWorker: a process with a ChunkScorer. It gets chunks and returns parts, and writes nothing itself.

So a process that is killed leaves nothing behind, and one whose run was killed can do no harm: its pipe is closed.
"""

import logging
import multiprocessing
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from models.errors import PrunellaError
from prunella.bulk.chunk_scorer import ChunkScorer
from prunella.bulk.job import Chunk, Job, Part
from prunella.bulk.workers import WorkerDied

log = logging.getLogger("prunella")
READY = "ready"


class LocalWorker:
    """A process of this machine."""

    def __init__(self, bundle: Path, job: Job, schema: pa.Schema | None) -> None:
        """Start the process, and wait until it has opened the bundle.

        Raises:
            PrunellaError: it cannot open the bundle.
            WorkerDied: it ended.
        """
        context = multiprocessing.get_context("spawn")  # a fork would share the threads' locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, bundle, job, schema), daemon=True)
        self._process.start()
        theirs.close()  # or the end of the process would not close the pipe
        self._receive()

    def __call__(self, chunk: Chunk) -> Part:
        """Return the part of a chunk.

        Raises:
            PrunellaError: the part cannot be made.
            WorkerDied: the process ended.
        """
        try:
            self._connection.send(chunk)
        except OSError:
            raise self._death() from None
        return self._receive()

    def close(self) -> None:
        """End the process."""
        self._process.kill()  # which closes the pipe too: another thread may be reading from it
        self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _death(self) -> WorkerDied:
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            return WorkerDied(f"process {self._process.pid} was killed, most likely because memory ran out")
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerDied(f"process {self._process.pid} ended ({reason})")


def _serve(connection: Connection, bundle: Path, job: Job, schema: pa.Schema | None) -> None:
    """Answer chunks until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the run ends this one
    try:
        scorer = ChunkScorer(bundle, job, schema)
        connection.send(READY)
        while True:
            connection.send(_answer(scorer, connection.recv()))
    except PrunellaError as error:  # the bundle cannot be opened
        connection.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the run has ended


def _answer(scorer: ChunkScorer, chunk: Chunk) -> Part | Exception:
    try:
        return scorer(chunk)
    except PrunellaError as error:
        return error
    except Exception as error:
        log.exception("%s could not be scored", chunk.where)
        return RuntimeError(f"{chunk.where}: {type(error).__name__}: {error}")
