"""measure_openings(): ours and its reference in fresh processes, again and again → what two runs are compared by.

Two processes of one engine differ: pages, heap and stack lie elsewhere. Within a process this never shows, so that
no number of rounds averages it out. Time is repeated at the level that varies most (Kalibera and Jones 2013,
"Rigorous benchmarking in reasonable time"): a process is opened, warmed, timed over few rounds and ended; each
opening gives one speed-up, and the interval comes from how openings differ, which holds what rounds and texts add.
Layouts are left to chance, as in serving: to fix one would measure that one (Mytkowicz et al. 2009).
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from bench.cores import choose_cores
from bench.engines import EngineSpec
from bench.measure import Cell, open_fleet, time_cell
from bench.quiet import CpuWatch, Quiet, mean_noise
from bench.records import Openings
from bench.timing import Seconds, rotated
from bench.worker import WorkerError
from models.tokens import Row

ROUNDS = 3  # of one opening: the median leaves out one that was disturbed


class OpeningError(WorkerError):
    """An engine that had run could not be opened again, or failed then."""

    def __init__(self, engine: str, problem: str) -> None:
        super().__init__(f"opened once more: {problem}")
        self.engine = engine


def measure_openings(
    reference: EngineSpec, ours: EngineSpec, rows: Sequence[Row], count: int, show: bool = True
) -> Openings:
    """Open both `count` times and time `rows` one by one; `show` a bar.

    Raises:
        OpeningError: an engine failed.
    """
    noise: list[Quiet] = []
    specs = {reference.name: reference, ours.name: ours}
    milliseconds: dict[str, list[float]] = {name: [] for name in specs}
    for turn in tqdm(range(count), desc="open anew", unit="opening", file=sys.stderr, disable=not show):
        cores = choose_cores(ours.threads, turn)
        fresh = [replace(specs[name], cores=cores) for name in rotated(list(specs), turn)]
        watch = CpuWatch(cores)
        for name, seconds in _one_opening(fresh, rows).items():
            milliseconds[name].append(typical_milliseconds(seconds))
        noise.append(watch.read())
    speedups = [a / b for a, b in zip(milliseconds[reference.name], milliseconds[ours.name], strict=True)]
    middle, interval = combine(speedups)
    return Openings(
        texts=len(rows), threads=ours.threads, rounds=ROUNDS,
        reference_ms=tuple(milliseconds[reference.name]), ours_ms=tuple(milliseconds[ours.name]),
        speedups=tuple(speedups), speedup=middle, interval=interval, quiet=mean_noise(noise),
    )  # fmt: skip


def typical_milliseconds(seconds: Seconds) -> float:
    """Return the geometric mean over texts of the median over rounds; of two such, lengths cancel text by text."""
    return float(np.exp(np.log(np.median(seconds, axis=0)).mean()) * 1e3)


def combine(speedups: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the geometric mean of at least two openings and its 95 % interval (Student's t on the logs)."""
    from scipy.stats import t

    logs = np.log(speedups)
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    low, middle, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    return float(middle), (float(low), float(high))


def _one_opening(specs: Sequence[EngineSpec], rows: Sequence[Row]) -> dict[str, Seconds]:
    with open_fleet(specs, show=False) as fleet:
        seconds = time_cell(fleet, [[[r]] for r in rows], Cell(1, None, specs[0].threads), ROUNDS, show=False).seconds
    for name, problem in fleet.problems.items():
        raise OpeningError(name, problem)
    return seconds
