"""Worker: one engine in its own process, so that engines share no threads, heap or libraries.

The parent sends (method, arguments) and receives ("ok", result) or ("failed", one line). A worker that dies or does
not answer in time fails only its own engine, not the report: its process and all descendants are killed before
another engine is timed. Every process is started with the same command
(`python -m bench.measure.latency.engine_worker`) and imports only its own engine.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure.engine_spec import EngineSpec, OpenEngine
from bench.measure.latency.child_process import end_process, exit_code, start_process
from bench.measure.latency.clock import engine_clock
from bench.measure.latency.cpu_affinity import pinned
from models.errors import CheckError, PrunellaError
from models.tokenizer import Row

PIECE = 256  # rows of one call: the timeout is for one call, not for all rows of a data set
OPENERS = {
    "ours": "bench.engines.onnx:our_engine", "cascade": "bench.engines.onnx:cascade_engine",
    "pytorch": "bench.engines.pytorch:eager_engine",
    "ort_fp32": "bench.engines.onnx:stock_engine", "stock_int8": "bench.engines.onnx:stock_engine",
    "tfidf": "bench.engines.tfidf:tfidf_engine", "openvino": "bench.engines.baselines:openvino_engine",
    "ctranslate2": "bench.engines.baselines:ctranslate2_engine",
    "torch_compile": "bench.engines.pytorch:compiled_engine", "graph": "bench.engines.onnx:graph_engine",
}  # fmt: skip
Request = Sequence[Sequence[Row]]  # the texts of one request, split into the batches that the model runs


class WorkerError(CheckError):
    """The engine could not be opened, or a call failed; the message goes into the report."""


class Worker:
    """The parent's side of one engine process."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        start = time.perf_counter()
        with pinned(spec.cores):
            self._process, self._pipe = start_process(
                "bench.measure.latency.engine_worker", {"OMP_NUM_THREADS": str(spec.threads)}
            )
        try:
            size = self._call(OPENERS[spec.name], spec)
        except BaseException:
            self.close()
            raise
        self.opened = {"cold_start_seconds": time.perf_counter() - start, "bytes": size}

    @property
    def pid(self) -> int:
        """Process id of the engine."""
        return self._process.pid

    def prepare(self, requests: Sequence[Request], tokens: int | None = None) -> tuple[int, int] | None:
        """Tokenize `requests` and store them in the engine's process.

        Args:
            requests: The requests to time later.
            tokens: Exact length of every text; None: each text keeps its own length.

        Returns:
            The number of tokens without and with padding; None for an engine that reads no tokens.
        """
        counts: tuple[int, int] | None = self._call("prepare", requests, tokens)
        return counts

    def time(self, start: int, count: int) -> NDArray[np.float64]:
        """Return the seconds of each of the `count` prepared requests from number `start` on."""
        return np.asarray(self._call("time", start, count))

    def time_preparing(self, rounds: int) -> NDArray[np.float64]:
        """Return the seconds (rounds, requests) from the texts of the prepared requests to token ids."""
        return np.asarray(self._call("time_preparing", rounds))

    def answers(self, rows: Sequence[Row], core: int | None = None) -> NDArray[np.float32]:
        """Return logits or log probabilities (rows, labels) in the order of `rows`.

        Args:
            rows: The texts.
            core: Core to run on. It is used only for an engine that is pinned to one core: with several threads, the
                waiting ones would not be moved.
        """
        movable = core is not None and len(self.spec.cores) == 1
        order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))  # similar lengths: little padding
        pieces = [[rows[i] for i in order[at : at + PIECE]] for at in range(0, len(order), PIECE)]
        by_length = np.concatenate([self._call("answers", piece, (core,) if movable else ()) for piece in pieces])
        answers = np.empty_like(by_length)
        answers[order] = by_length
        return answers

    def peak_bytes(self) -> int:
        """Return the peak memory (resident set size) of the process so far."""
        return int(self._call("peak_bytes"))

    def close(self) -> None:
        """Kill the process and all its descendants."""
        self._pipe.close()
        end_process(self._process)

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(self.spec.timeout):
                raise WorkerError(
                    f"no answer within {self.spec.timeout:g} s (--engine-timeout): the engine was ended"
                )
            kind, result = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerError(f"the process ended with exit code {exit_code(self._process)}") from None
        if kind == "failed":
            raise WorkerError(result)
        return result


class _EngineHost:
    """The child's side: an open engine and its prepared requests."""

    def __init__(self, engine: OpenEngine, spec: EngineSpec) -> None:
        self._engine, self._handicap, self._clock = engine, spec.handicap, engine_clock(spec.threads)
        self._requests: list[list[Any]] = []
        self._texts: tuple[Sequence[Request], int | None] = ((), None)

    def prepare(self, requests: Sequence[Request], tokens: int | None) -> tuple[int, int] | None:
        self._texts = requests, tokens
        self._requests = [[self._engine.prepare(batch, tokens) for batch in request] for request in requests]
        gc.collect()  # collect now, because the collector is disabled while requests are timed
        lengths = self._engine.lengths
        if lengths is None:
            return None
        batches = [lengths(batch) for request in self._requests for batch in request]
        return sum(map(sum, batches)), sum(max(batch) * len(batch) for batch in batches)

    def time(self, start: int, count: int) -> list[float]:
        gc.disable()  # the cost of a collection depends on the number of objects, which differs between engines
        try:
            return [self._seconds(request) for request in self._requests[start : start + count]]
        finally:
            gc.enable()

    def time_preparing(self, rounds: int) -> list[list[float]]:
        requests, tokens = self._texts
        gc.disable()
        try:
            return [[self._preparing_seconds(request, tokens) for request in requests] for _ in range(rounds)]
        finally:
            gc.enable()

    def _preparing_seconds(self, request: Request, tokens: int | None) -> float:
        start = self._clock()
        for batch in request:
            self._engine.prepare(batch, tokens)
        return self._clock() - start

    def _seconds(self, request: list[Any]) -> float:
        start = self._clock()
        for batch in request:
            self._engine.answer(batch)
        end = start + (self._clock() - start) * (1 + self._handicap)
        while self._clock() < end:
            pass
        return self._clock() - start

    def answers(self, rows: list[Row], cores: tuple[int, ...]) -> NDArray[np.float32]:
        size = 1 if self._engine.batch_dependent else 16
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]
        with pinned(cores):
            return np.concatenate([self._engine.answer(self._engine.prepare(batch, None)) for batch in batches])

    def peak_bytes(self) -> int:
        # not getrusage, whose maximum includes the parent's memory
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    """Serve one engine to the parent process, over the pipe whose file descriptor is the first argument."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    pipe = Connection(descriptor)
    opener, (spec,) = pipe.recv()
    try:
        host = _open(opener, spec, pipe)
    except Exception as error:  # third-party engines raise anything: reported in the engine's row
        pipe.send(("failed", _one_line(error)))
        return
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("ok", getattr(host, method)(*arguments)))
        except Exception as error:
            pipe.send(("failed", _one_line(error)))


def _open(opener: str, spec: EngineSpec, pipe: Connection) -> _EngineHost:
    module, _, function = opener.partition(":")
    open_engine: Callable[[EngineSpec], OpenEngine] = getattr(import_module(module), function)
    engine = open_engine(spec)
    pipe.send(("ok", engine.bytes))
    return _EngineHost(engine, spec)


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split())[:300]
    return message if isinstance(error, PrunellaError) else f"{type(error).__name__}: {message}"


if __name__ == "__main__":
    main()
