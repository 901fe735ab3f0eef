"""Worker: one engine in a process of its own, so that engines share no threads, heap or libraries.

The parent sends (method, arguments) and gets ("ok", result) or ("failed", one line). A worker that dies, or that does
not answer in time, is a failed engine and never a failed report: its process and all that it started are ended before
another engine has its turn. Every process starts alike (`python -m bench.worker`), and imports only its own engine.
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

from bench.cores import pinned
from bench.engines import EngineSpec, OpenEngine
from bench.processes import end_process, exit_code, start_process
from models.errors import CheckError, PrunellaError
from models.tokens import Row

PIECE = 256  # rows that are answered in one call: a pass over many rows takes long, each piece of it does not
OPENERS = {
    "ours": "bench.onnx_engines:our_engine", "pytorch": "bench.pytorch:eager_engine",
    "ort_fp32": "bench.onnx_engines:stock_engine", "stock_int8": "bench.onnx_engines:stock_engine",
    "tfidf": "bench.tfidf:tfidf_engine", "openvino": "bench.peers:openvino_engine",
    "ctranslate2": "bench.peers:ctranslate2_engine", "torch_compile": "bench.pytorch:compiled_engine",
    "graph": "bench.onnx_engines:graph_engine",
}  # fmt: skip
Request = Sequence[Sequence[Row]]  # texts that are answered together, in the runs of the model that they share


class WorkerError(CheckError):
    """The engine could not be opened, or failed at a call; the message is for the report."""


class Worker:
    """The parent's side of one engine."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        begun = time.perf_counter()
        with pinned(spec.cores):
            self._process, self._pipe = start_process("bench.worker", {"OMP_NUM_THREADS": str(spec.threads)})
        try:
            size = self._call(OPENERS[spec.name], spec)
        except BaseException:
            self.close()
            raise
        self.opened = {"cold_start_seconds": time.perf_counter() - begun, "bytes": size}

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def prepare(self, requests: Sequence[Request], tokens: int | None = None) -> tuple[int, int] | None:
        """Tokenize `requests` and keep them, every text of exactly `tokens` tokens when given.

        Returns:
            How many tokens they have, and how many with padding; None of an engine that reads no tokens.
        """
        found: tuple[int, int] | None = self._call("prepare", requests, tokens)
        return found

    def time(self, start: int, count: int) -> NDArray[np.float64]:
        """Return the seconds of each of the `count` prepared requests from `start` on."""
        return np.asarray(self._call("time", start, count))

    def answers(self, rows: Sequence[Row], core: int | None = None) -> NDArray[np.float32]:
        """Return logits or log probabilities (rows, labels) in the order of `rows`; on `core` where one will do."""
        alone = core is not None and len(self.spec.cores) == 1  # of several threads, those that wait would be left
        order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))  # like lengths: little padding
        pieces = [[rows[i] for i in order[at : at + PIECE]] for at in range(0, len(order), PIECE)]
        found = np.concatenate([self._call("answers", piece, (core,) if alone else ()) for piece in pieces])
        back = np.empty_like(found)
        back[order] = found
        return back

    def peak_bytes(self) -> int:
        """Return the largest memory that the process has held so far."""
        return int(self._call("peak_bytes"))

    def close(self) -> None:
        """End the process and all that it started."""
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


class _Desk:
    """The child's side: an open engine and the requests that it was given."""

    def __init__(self, engine: OpenEngine, handicap: float) -> None:
        self._engine, self._handicap = engine, handicap
        self._requests: list[list[Any]] = []

    def prepare(self, requests: Sequence[Request], tokens: int | None) -> tuple[int, int] | None:
        self._requests = [[self._engine.prepare(run, tokens) for run in request] for request in requests]
        gc.collect()  # here, because none runs while something is timed
        lengths = self._engine.lengths
        if lengths is None:
            return None
        runs = [lengths(run) for request in self._requests for run in request]
        return sum(map(sum, runs)), sum(max(run) * len(run) for run in runs)

    def time(self, start: int, count: int) -> list[float]:
        gc.disable()  # engines hold more and fewer objects: a collection would take them more and less time
        try:
            return [self._seconds(request) for request in self._requests[start : start + count]]
        finally:
            gc.enable()

    def _seconds(self, request: list[Any]) -> float:
        begun = time.perf_counter()
        for run in request:
            self._engine.answer(run)
        until = begun + (time.perf_counter() - begun) * (1 + self._handicap)
        while time.perf_counter() < until:
            pass
        return time.perf_counter() - begun

    def answers(self, rows: list[Row], cores: tuple[int, ...]) -> NDArray[np.float32]:
        size = 1 if self._engine.mates_matter else 16
        groups = [rows[at : at + size] for at in range(0, len(rows), size)]
        with pinned(cores):
            return np.concatenate([self._engine.answer(self._engine.prepare(group, None)) for group in groups])

    def peak_bytes(self) -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage remembers the parent's memory too
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    """Serve one engine to the process at the other end of the pipe whose descriptor is the first argument."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    pipe = Connection(descriptor)
    opener, (spec,) = pipe.recv()
    try:
        desk = _open(opener, spec, pipe)
    except Exception as error:  # whatever a foreign engine raises becomes its row in the report
        pipe.send(("failed", _one_line(error)))
        return
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("ok", getattr(desk, method)(*arguments)))
        except Exception as error:
            pipe.send(("failed", _one_line(error)))


def _open(opener: str, spec: EngineSpec, pipe: Connection) -> _Desk:
    module, _, function = opener.partition(":")
    opened: Callable[[EngineSpec], OpenEngine] = getattr(import_module(module), function)
    engine = opened(spec)
    pipe.send(("ok", engine.bytes))
    return _Desk(engine, spec.handicap)


def _one_line(error: Exception) -> str:
    told = " ".join(str(error).split())[:300]
    return told if isinstance(error, PrunellaError) else f"{type(error).__name__}: {told}"


if __name__ == "__main__":
    main()
