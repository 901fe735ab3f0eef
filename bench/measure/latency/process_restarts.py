"""measure_openings(): the speed-up of our model over its reference, measured in several fresh processes.

An opening is one start of fresh processes for both models. The search for a shape, the final check of a bundle, the
headline of a report and the comparison of two reports all use the speed-up over several openings;
`bench.measure.latency.timing` defines a speed-up.

Two processes of one engine differ in the memory addresses of pages, heap and stack. This is constant within a
process, so that no number of rounds averages it out. Measurements are repeated at the level that varies most
(Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time"): a process is opened, warmed up, timed over few
rounds and ended. Each opening gives one speed-up. The interval comes from the variation between openings, which
includes the variation between rounds and texts. Memory layouts are left to chance, as in serving: a fixed layout
would give the result of that layout only (Mytkowicz et al. 2009).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from bench.measure.engine_spec import EngineSpec
from bench.measure.latency.cpu_affinity import choose_cores
from bench.measure.latency.engine_worker import WorkerError
from bench.measure.latency.interference import Interference, InterferenceMonitor, mean_noise
from bench.measure.latency.timing import Seconds, rotated, typical_seconds
from bench.measure.latency.worker_pool import Cell, open_fleet, time_cell, time_preparing
from bench.report.report_schema import EngineReport, Openings
from bench.report.report_schema import TextTimes as TextTimes  # re-exported: part of a measurement
from models.messages import progress
from models.tokenizer import Row

ROUNDS = 3  # rounds of one opening: the median ignores one disturbed round
FEWEST = 2  # openings: a single one has no interval


class OpeningError(WorkerError):
    """An engine that ran before could not be opened again, or failed afterwards."""

    def __init__(self, engine: str, problem: str) -> None:
        super().__init__(f"opened once more: {problem}")
        self.engine = engine


@dataclass(frozen=True, slots=True)
class Conditions:
    """How texts are timed in an opening, and when to stop."""

    batch: int = 1  # texts of one batch, in the given order
    within: float = float("inf")  # seconds after which no further opening begins
    show: bool = True  # show a progress bar


def measure_openings(
    reference: EngineSpec, ours: EngineSpec, rows: Sequence[Row], count: int, conditions: Conditions = Conditions()
) -> Openings:
    """Open both engines in fresh processes several times, and time `rows` in each opening.

    Args:
        reference: The engine of the unpruned model.
        ours: The engine of the compressed model.
        rows: Texts, a whole number of batches.
        count: Largest number of openings; the time limit does not apply to the first FEWEST of them.
        conditions: Batch size, time limit and progress bar.

    Raises:
        OpeningError: An engine failed.
    """
    deadline = perf_counter() + conditions.within
    noise: list[Interference] = []
    specs = {reference.name: reference, ours.name: ours}
    milliseconds: dict[str, list[float]] = {name: [] for name in specs}
    from_text: dict[str, list[float]] = {name: [] for name in specs}
    cell = Cell(conditions.batch, None, ours.threads)
    for opening in progress(range(count), desc="restart engines", unit="opening", disable=not conditions.show):
        if opening >= FEWEST and perf_counter() > deadline:
            break
        cores = choose_cores(ours.threads, opening)
        fresh = [replace(specs[name], cores=cores) for name in rotated(list(specs), opening)]
        monitor = InterferenceMonitor(cores)
        for name, (seconds, preparing) in _one_opening(fresh, rows, cell).items():
            milliseconds[name].append(typical_seconds(seconds) * 1e3)
            from_text[name].append(typical_seconds(seconds + np.median(preparing, axis=0)) * 1e3)
        noise.append(monitor.read())
    speedups = [a / b for a, b in zip(milliseconds[reference.name], milliseconds[ours.name], strict=True)]
    speedup, interval = combine(speedups)
    return Openings(
        texts=len(rows), threads=ours.threads, rounds=ROUNDS,
        reference_ms=tuple(milliseconds[reference.name]), ours_ms=tuple(milliseconds[ours.name]),
        speedups=tuple(speedups), speedup=speedup, interval=interval, quiet=mean_noise(noise),
        text=_text_times(from_text[reference.name], from_text[ours.name]),
    )  # fmt: skip


def with_headline(engine: EngineReport, openings: Openings | None, headline: Cell) -> EngineReport:
    """Return our row of a report with the speed-up of the openings, if these timed the headline's setting."""
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
    low, mean, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    return float(mean), (float(low), float(high))


def _text_times(reference_ms: Sequence[float], ours_ms: Sequence[float]) -> TextTimes:
    speedup, interval = combine([a / b for a, b in zip(reference_ms, ours_ms, strict=True)])
    ours, reference = (float(np.exp(np.log(ms).mean())) for ms in (ours_ms, reference_ms))
    return TextTimes(ours_ms=ours, reference_ms=reference, speedup=speedup, interval=interval)


def _one_opening(specs: Sequence[EngineSpec], rows: Sequence[Row], cell: Cell) -> dict[str, tuple[Seconds, Seconds]]:
    """Return, for each engine, the seconds (rounds, requests) of the model, and of splitting texts into tokens."""
    with open_fleet(specs, show=False) as fleet:
        requests = [[rows[at : at + cell.batch]] for at in range(0, len(rows), cell.batch)]
        seconds = time_cell(fleet, requests, cell, ROUNDS, show=False).seconds
        preparing = time_preparing(fleet, ROUNDS)
    for name, problem in fleet.problems.items():
        raise OpeningError(name, problem)
    return {name: (seconds[name], preparing[name]) for name in seconds}
