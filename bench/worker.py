"""Worker: one engine in a process of its own, so that engines share no threads, heap or libraries.

The parent sends (method, arguments) and gets ("ok", result) or ("failed", one line). A worker that dies is a failed
engine, never a failed report.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cores import pinned
from bench.engines import EngineSpec, OpenEngine
from bench.onnx_engines import our_engine, stock_engine
from bench.peers import ctranslate2_engine, openvino_engine
from bench.pytorch import compiled_engine, eager_engine
from bench.tfidf import tfidf_engine
from models.errors import CheckError, PrunellaError
from models.tokens import Row

START_SECONDS = 180  # importing torch and transformers from a cold disk takes most of a minute
CALL_SECONDS = 3600
OPENERS: dict[str, Callable[[EngineSpec], OpenEngine]] = {
    "ours": our_engine, "pytorch": eager_engine, "ort_fp32": stock_engine, "stock_int8": stock_engine,
    "tfidf": tfidf_engine, "openvino": openvino_engine, "ctranslate2": ctranslate2_engine,
    "torch_compile": compiled_engine, "graph": stock_engine,  # graph: one that a search has made
}  # fmt: skip


class WorkerError(CheckError):
    """The engine could not be opened, or failed at a call; the message is for the report."""


class Worker:
    """The parent's side of one engine."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        context = multiprocessing.get_context("spawn")  # a fork would carry this process's threads and memory along
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec), daemon=True)
        begun = time.perf_counter()
        with pinned(spec.cores):
            self._process.start()
        theirs.close()
        size = self._receive(START_SECONDS)
        self.opened = {"cold_start_seconds": time.perf_counter() - begun, "bytes": size}

    def prepare(self, rows: Sequence[Row], batch: int = 1, tokens: int | None = None) -> None:
        """Tokenize `rows` and keep them in batches of `batch`, of exactly `tokens` tokens when given."""
        self._call("prepare", list(rows), batch, tokens)

    def time(self, start: int, count: int) -> NDArray[np.float64]:
        """Return the seconds of each of the `count` prepared batches from `start` on."""
        return np.asarray(self._call("time", start, count))

    def answers(self, rows: Sequence[Row], core: int | None = None) -> NDArray[np.float32]:
        """Return logits or log probabilities (rows, labels) in the order of `rows`; on `core` where one will do."""
        alone = core is not None and len(self.spec.cores) == 1  # of several threads, those that wait would be left
        return np.asarray(self._call("answers", list(rows), (core,) if alone else ()))

    def peak_bytes(self) -> int:
        """Return the largest memory that the process has held so far."""
        return int(self._call("peak_bytes"))

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.terminate()
        self._process.join()

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            self._pipe.send((method, arguments))
        except OSError as error:
            raise WorkerError(f"the process has ended ({error})") from None
        return self._receive(CALL_SECONDS)

    def _receive(self, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                raise WorkerError(f"no answer within {seconds:.0f} s")
            kind, result = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise WorkerError(f"the process ended with exit code {self._process.exitcode}") from None
        if kind == "failed":
            raise WorkerError(result)
        return result


class _Desk:
    """The child's side: an open engine and the batches that it was given."""

    def __init__(self, engine: OpenEngine, handicap: float) -> None:
        self._engine, self._handicap = engine, handicap
        self._batches: list[Any] = []

    def prepare(self, rows: list[Row], batch: int, tokens: int | None) -> None:
        groups = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        self._batches = [self._engine.prepare(group, tokens) for group in groups]

    def time(self, start: int, count: int) -> list[float]:
        seconds = []
        for prepared in self._batches[start : start + count]:
            begun = time.perf_counter()
            self._engine.answer(prepared)
            until = begun + (time.perf_counter() - begun) * (1 + self._handicap)
            while time.perf_counter() < until:
                pass
            seconds.append(time.perf_counter() - begun)
        return seconds

    def answers(self, rows: list[Row], cores: tuple[int, ...]) -> NDArray[np.float32]:
        with pinned(cores):
            return self._answers(rows)

    def _answers(self, rows: list[Row]) -> NDArray[np.float32]:
        size = 1 if self._engine.mates_matter else 16
        order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))  # like lengths: little padding
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        parts = [self._engine.answer(self._engine.prepare([rows[i] for i in group], None)) for group in groups]
        found = np.concatenate(parts)
        back = np.empty_like(found)
        back[order] = found
        return back

    def peak_bytes(self) -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage remembers the parent's memory too
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _serve(pipe: Connection, spec: EngineSpec) -> None:
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    try:
        engine = OPENERS[spec.name](spec)
        desk = _Desk(engine, spec.handicap)
        pipe.send(("ok", engine.bytes))
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


def _one_line(error: Exception) -> str:
    told = " ".join(str(error).split())[:300]
    return told if isinstance(error, PrunellaError) else f"{type(error).__name__}: {told}"
