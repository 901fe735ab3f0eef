"""measure_openings(): ours and its reference in fresh processes, again and again → the speed-up that counts.

The search for a shape, the judgement of a bundle, the headline of a report and the comparison of two reports all rest
on it; `bench.timing` says what a speed-up is.

Two processes of one engine differ: pages, heap and stack lie elsewhere. Within a process this never shows, so that
no number of rounds averages it out. Time is repeated at the level that varies most (Kalibera and Jones 2013,
"Rigorous benchmarking in reasonable time"): a process is opened, warmed, timed over few rounds and ended; each
opening gives one speed-up, and the interval comes from how openings differ, which holds what rounds and texts add.
Layouts are left to chance, as in serving: to fix one would measure that one (Mytkowicz et al. 2009).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from tqdm import tqdm

from bench.cores import choose_cores
from bench.engines import EngineSpec
from bench.measure import Cell, open_fleet, time_cell
from bench.quiet import CpuWatch, Quiet, mean_noise
from bench.records import EngineReport, Openings
from bench.timing import Seconds, rotated, typical_seconds
from bench.worker import WorkerError
from models.tokens import Row

ROUNDS = 3  # of one opening: the median leaves out one that was disturbed
FEWEST = 2  # openings: one has no interval


class OpeningError(WorkerError):
    """An engine that had run could not be opened again, or failed then."""

    def __init__(self, engine: str, problem: str) -> None:
        super().__init__(f"opened once more: {problem}")
        self.engine = engine


@dataclass(frozen=True, slots=True)
class Conditions:
    """How texts are timed in an opening, and how long openings go on."""

    batch: int = 1  # texts that are answered at once, in the order in which they are given
    within: float = float("inf")  # seconds after which no further opening begins
    show: bool = True  # whether a bar is shown


def measure_openings(
    reference: EngineSpec, ours: EngineSpec, rows: Sequence[Row], count: int, conditions: Conditions = Conditions()
) -> Openings:
    """Open both at most `count` times, FEWEST at least, and time `rows`, a whole number of batches.

    Raises:
        OpeningError: an engine failed.
    """
    until = perf_counter() + conditions.within
    noise: list[Quiet] = []
    specs = {reference.name: reference, ours.name: ours}
    milliseconds: dict[str, list[float]] = {name: [] for name in specs}
    cell = Cell(conditions.batch, None, ours.threads)
    for turn in tqdm(range(count), desc="open anew", unit="opening", file=sys.stderr, disable=not conditions.show):
        if turn >= FEWEST and perf_counter() > until:
            break
        cores = choose_cores(ours.threads, turn)
        fresh = [replace(specs[name], cores=cores) for name in rotated(list(specs), turn)]
        watch = CpuWatch(cores)
        for name, seconds in _one_opening(fresh, rows, cell).items():
            milliseconds[name].append(typical_seconds(seconds) * 1e3)
        noise.append(watch.read())
    speedups = [a / b for a, b in zip(milliseconds[reference.name], milliseconds[ours.name], strict=True)]
    middle, interval = combine(speedups)
    return Openings(
        texts=len(rows), threads=ours.threads, rounds=ROUNDS,
        reference_ms=tuple(milliseconds[reference.name]), ours_ms=tuple(milliseconds[ours.name]),
        speedups=tuple(speedups), speedup=middle, interval=interval, quiet=mean_noise(noise),
    )  # fmt: skip


def with_headline(engine: EngineReport, openings: Openings | None, headline: Cell) -> EngineReport:
    """Return our row of a report with the speed-up of fresh processes, where they timed the headline's setting."""
    if openings is None or engine.name != "ours" or engine.speedup is None:
        return engine
    if headline != Cell(1, None, openings.threads):
        return engine
    return engine.model_copy(update={"speedup": openings.speedup, "speedup_interval": openings.interval})


def combine(speedups: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the geometric mean of at least two openings and its 95 % interval (Student's t on the logs)."""
    from scipy.stats import t

    logs = np.log(speedups)
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    low, middle, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    return float(middle), (float(low), float(high))


def _one_opening(specs: Sequence[EngineSpec], rows: Sequence[Row], cell: Cell) -> dict[str, Seconds]:
    with open_fleet(specs, show=False) as fleet:
        requests = [[rows[at : at + cell.batch]] for at in range(0, len(rows), cell.batch)]
        seconds = time_cell(fleet, requests, cell, ROUNDS, show=False).seconds
    for name, problem in fleet.problems.items():
        raise OpeningError(name, problem)
    return seconds
