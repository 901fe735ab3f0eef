"""Drive the workers: open them, ask them the rows, time them in turn."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
from tqdm import tqdm

from bench.cores import usable_cores
from bench.engines import EngineSpec
from bench.requests import Grouping
from bench.timing import Seconds, rotated
from bench.worker import Request, Worker, WorkerError
from models.tokens import Row

BLOCK = 8  # requests that one engine answers in a row before the next has its turn: warm caches, as in serving
WARM_SECONDS = 1.0  # at most, before a cell is timed: one pass over all requests, or as many as fit
PAUSE_SECONDS = 0.005  # lets threads of the engine before stop spinning


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting: texts at once, their exact length or their own (None), threads, and how a request is split."""

    batch: int
    tokens: int | None
    threads: int
    grouping: Grouping = "as received"

    def __str__(self) -> str:
        length = f"{self.tokens} tokens" if self.tokens else "own lengths"
        split = f" {self.grouping}" if self.batch > 1 else ""
        return f"batch {self.batch}{split}, {length}, threads {self.threads}"


@dataclass(frozen=True, slots=True)
class Times:
    """What a cell gave: seconds (rounds, requests), and tokens (real, with padding) of all requests, by engine."""

    seconds: dict[str, Seconds]
    tokens: dict[str, tuple[int, int]]


@dataclass
class Fleet:
    """Engines that run, and what became of those that do not."""

    running: dict[str, Worker] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, error: WorkerError) -> None:
        """Take an engine out; the others go on."""
        self.problems[name] = str(error)
        self.running.pop(name).close()


@contextmanager
def open_fleet(specs: Sequence[EngineSpec], show: bool = True) -> Iterator[Fleet]:
    """Open a process for each engine, one after the other, and end them all afterwards; `show` a bar."""
    fleet = Fleet()
    try:
        for spec in tqdm(specs, desc="open engines", unit="engine", file=sys.stderr, disable=not show):
            try:
                fleet.running[spec.name] = Worker(spec)
            except WorkerError as error:
                fleet.problems[spec.name] = str(error)
        yield fleet
    finally:
        for worker in fleet.running.values():
            worker.close()


def ask(fleet: Fleet, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Return each engine's answers to `rows`, (rows, labels); nothing is timed, so every core is at work."""
    answers: dict[str, np.ndarray] = {}
    free: SimpleQueue[int] = SimpleQueue()
    for core in usable_cores():
        free.put(core)

    def one(name: str) -> np.ndarray:
        core = free.get()
        try:
            return fleet.running[name].answers(rows, core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(max_workers=len(usable_cores())) as pool:
        asked = {pool.submit(one, name): name for name in fleet.running}
        done = as_completed(asked)
        for future in tqdm(done, desc="answer texts", unit="engine", total=len(asked), file=sys.stderr):
            try:
                answers[asked[future]] = future.result()
            except WorkerError as error:
                fleet.fail(asked[future], error)
    return answers


def time_cell(fleet: Fleet, requests: Sequence[Request], cell: Cell, rounds: int, show: bool = True) -> Times:
    """Time requests that make_requests() made for `cell`: warm, in blocks, engines in turn, another first each round.

    An engine that fails, or takes longer than its timeout, is ended and has no times; the others go on.
    """
    tokens: dict[str, tuple[int, int]] = {}
    for name in list(fleet.running):
        try:
            counted = fleet.running[name].prepare(requests, cell.tokens)
            _warm(fleet.running[name], len(requests))
        except WorkerError as error:
            fleet.fail(name, error)
            continue
        if counted is not None:
            tokens[name] = counted
    seconds = {name: np.zeros((rounds, len(requests))) for name in fleet.running}
    for turn in tqdm(range(rounds), desc=f"time {cell}", unit="round", file=sys.stderr, disable=not show):
        for start in range(0, len(requests), BLOCK):
            _one_block(fleet, seconds, turn, start, min(BLOCK, len(requests) - start))
    return Times({name: found for name, found in seconds.items() if name in fleet.running}, tokens)


def _warm(worker: Worker, requests: int) -> None:
    """Let the engine meet every shape: memory is laid out, and kernels are chosen, at the first of each."""
    spent = 0.0
    for start in range(requests):
        spent += float(worker.time(start, 1)[0])
        if spent > WARM_SECONDS:
            return


def _one_block(fleet: Fleet, seconds: Mapping[str, Seconds], turn: int, start: int, count: int) -> None:
    for name in rotated(list(seconds), turn):
        if name not in fleet.running:
            continue
        time.sleep(PAUSE_SECONDS)
        try:
            seconds[name][turn, start : start + count] = fleet.running[name].time(start, count)
        except WorkerError as error:
            fleet.fail(name, error)
