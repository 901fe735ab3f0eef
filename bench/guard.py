"""judge(): an older report and a newer one → better, worse or noise, for speed and for accuracy.

Speed is judged by our speed-up over the reference of the same run, so that a slower day of the machine cancels out.
Runs differ by more than the interval inside one run says (memory layout, neighbours), hence a floor.
"""

from typing import Literal

import numpy as np

from bench.accuracy import Difference, compare
from bench.records import EngineReport, Report
from models.errors import InputError
from models.record import Record

FLOOR = 0.04  # relative change of a speed-up that two runs of one bundle may show
Call = Literal["better", "worse", "noise"]


class Verdict(Record):
    """What changed between two reports of the same data."""

    speed: Call
    speed_ratio: float  # newer speed-up over older: below 1 is slower
    speed_interval: tuple[float, float]
    accuracy: Call | None  # None: no labels
    accuracy_change: Difference | None  # older minus newer, on the same rows

    @property
    def is_worse(self) -> bool:
        """Whether anything got worse."""
        return "worse" in (self.speed, self.accuracy)

    def sentence(self) -> str:
        """Say both calls with their numbers."""
        low, high = self.speed_interval
        told = f"speed {self.speed} ({self.speed_ratio:.3f} of before, 95 % interval {low:.3f} to {high:.3f})"
        if self.accuracy and self.accuracy_change:
            told += f", accuracy {self.accuracy} ({-self.accuracy_change.loss_points:+.2f} points)"
        return told


def judge(older: Report, newer: Report) -> Verdict:
    """Compare two reports.

    Raises:
        InputError: they are about different data or settings, or one lacks our engine or its reference.
    """
    if older.data_sha256 != newer.data_sha256:
        raise InputError(f"the older report is about {older.data}, the newer about other rows: nothing to compare")
    if older.reference != newer.reference:
        raise InputError(f"the reports have different references: {older.reference} and {newer.reference}")
    before, after = _ours(older), _ours(newer)
    change, width = _log_change(before, after)
    low, high = change - width, change + width
    difference = None
    if older.truth and newer.truth and before.answers and after.answers:
        difference = compare(np.array(newer.truth), np.array(before.answers), np.array(after.answers))
    return Verdict(
        speed=_call(low, high),
        speed_ratio=float(np.exp(change)),
        speed_interval=(float(np.exp(low)), float(np.exp(high))),
        accuracy=_call(-difference.loss_interval[1], -difference.loss_interval[0]) if difference else None,
        accuracy_change=difference,
    )


def _ours(report: Report) -> EngineReport:
    found = report.engine("ours")
    if found is None or found.paired_interval is None:
        raise InputError(f"the report of {report.started} has no speed-up of ours: it needs a reference that ran")
    return found


def _log_change(before: EngineReport, after: EngineReport) -> tuple[float, float]:
    """Return the change of the log speed-up and half the width of its 95 % interval."""
    intervals = np.log(np.array([before.paired_interval, after.paired_interval], dtype=float))
    change = np.log(np.array([before.paired_speedup, after.paired_speedup], dtype=float))
    halves = np.diff(intervals, axis=1)[:, 0] / 2
    return float(change[1] - change[0]), float(np.sqrt((halves**2).sum() + FLOOR**2))


def _call(low: float, high: float) -> Call:
    if low > 0:
        return "better"
    return "worse" if high < 0 else "noise"
