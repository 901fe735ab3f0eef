"""Controls the engine processes: opens them, collects their answers, and times them in turn."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from bench.measure.engine_spec import EngineSpec
from bench.measure.latency.cpu_affinity import usable_core_numbers
from bench.measure.latency.engine_worker import Request, Worker, WorkerError
from bench.measure.latency.request_batches import Grouping
from bench.measure.latency.timing import Seconds, rotated
from models.messages import progress
from models.tokenizer import Row

BLOCK = 8  # consecutive requests of one engine before the next engine is timed: warm caches, as in serving
WARM_SECONDS = 1.0  # longest warm-up of a setting: one pass over all requests, or as many as fit
PAUSE_SECONDS = 0.005  # until the threads of the previous engine stop spinning


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting that is timed: a cell of the grid of batch sizes, lengths, threads and groupings."""

    batch: int  # texts of one request
    tokens: int | None  # exact length of every text; None: each text at its own length
    threads: int
    grouping: Grouping = "as received"  # how a request is split into batches of the model

    def __str__(self) -> str:
        length = f"{self.tokens} tokens" if self.tokens else "own lengths"
        split = f" {self.grouping}" if self.batch > 1 else ""
        return f"batch {self.batch}{split}, {length}, threads {self.threads}"


@dataclass(frozen=True, slots=True)
class Times:
    """Result of a cell by engine: seconds (rounds, requests), and tokens of all requests without and with padding."""

    seconds: dict[str, Seconds]
    tokens: dict[str, tuple[int, int]]


@dataclass
class Fleet:
    """The engines that run, and the error messages of those that failed."""

    running: dict[str, Worker] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, error: WorkerError) -> None:
        """Close an engine and note its error; the others continue."""
        self.problems[name] = str(error)
        self.running.pop(name).close()


@contextmanager
def open_fleet(specs: Sequence[EngineSpec], show: bool = True) -> Iterator[Fleet]:
    """Open a process for each engine, one after the other, and end them all afterwards; `show`: a progress bar."""
    fleet = Fleet()
    try:
        for spec in progress(specs, desc="open engines", unit="engine", disable=not show):
            try:
                fleet.running[spec.name] = Worker(spec)
            except WorkerError as error:
                fleet.problems[spec.name] = str(error)
        yield fleet
    finally:
        for worker in fleet.running.values():
            worker.close()


def collect_answers(fleet: Fleet, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Return each engine's answers to `rows`, (rows, labels). Engines run in parallel, because nothing is timed."""
    answers: dict[str, np.ndarray] = {}
    cores = usable_core_numbers()
    free_cores: SimpleQueue[int] = SimpleQueue()
    for core in cores:
        free_cores.put(core)

    def answer(name: str) -> np.ndarray:
        core = free_cores.get()
        try:
            return fleet.running[name].answers(rows, core)
        finally:
            free_cores.put(core)

    with ThreadPoolExecutor(max_workers=len(cores)) as pool:
        names = {pool.submit(answer, name): name for name in fleet.running}
        done = as_completed(names)
        for future in progress(done, desc="answer texts", unit="engine", total=len(names)):
            try:
                answers[names[future]] = future.result()
            except WorkerError as error:
                fleet.fail(names[future], error)
    return answers


def time_cell(fleet: Fleet, requests: Sequence[Request], cell: Cell, rounds: int, show: bool = True) -> Times:
    """Time the requests of make_requests() for `cell`: after warm-up, in blocks, engines in rotating order.

    An engine that fails or exceeds its timeout is ended and has no times; the others continue.
    """
    tokens: dict[str, tuple[int, int]] = {}
    for name in list(fleet.running):
        try:
            counts = fleet.running[name].prepare(requests, cell.tokens)
            _warm(fleet.running[name], len(requests))
        except WorkerError as error:
            fleet.fail(name, error)
            continue
        if counts is not None:
            tokens[name] = counts
    seconds = {name: np.zeros((rounds, len(requests))) for name in fleet.running}
    for round_number in progress(range(rounds), desc=f"time {cell}", unit="round", disable=not show):
        for start in range(0, len(requests), BLOCK):
            _one_block(fleet, seconds, round_number, start, min(BLOCK, len(requests) - start))
    return Times({name: times for name, times in seconds.items() if name in fleet.running}, tokens)


def time_preparing(fleet: Fleet, rounds: int) -> dict[str, Seconds]:
    """Return the seconds (rounds, requests) in which each engine splits the requests of `time_cell` into tokens."""
    seconds = {}
    for name in list(fleet.running):
        try:
            seconds[name] = fleet.running[name].time_preparing(rounds)
        except WorkerError as error:
            fleet.fail(name, error)
    return seconds


def _warm(worker: Worker, requests: int) -> None:
    """Run each request once, for about WARM_SECONDS: the first run of a shape allocates memory, selects kernels."""
    elapsed = 0.0
    for start in range(requests):
        elapsed += float(worker.time(start, 1)[0])
        if elapsed > WARM_SECONDS:
            return


def _one_block(fleet: Fleet, seconds: Mapping[str, Seconds], round_number: int, start: int, count: int) -> None:
    for name in rotated(list(seconds), round_number):
        if name not in fleet.running:
            continue
        time.sleep(PAUSE_SECONDS)
        try:
            seconds[name][round_number, start : start + count] = fleet.running[name].time(start, count)
        except WorkerError as error:
            fleet.fail(name, error)
