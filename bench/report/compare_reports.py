"""compare_reports(): compares an older and a newer report: better, worse, noise, or too noisy; speed and accuracy.

Speed is the speed-up over the reference of the same run, so that a slower day of the machine cancels out. A run has
K openings, that is, starts of fresh processes (bench.measure.latency.process_restarts), each with one log speed-up.
d is the newer mean minus the older one, and its 90 % interval is Student's t with the pooled variance of the openings
of both runs. Then, as in a test of equivalence (Schuirmann 1987, two one-sided tests at 5 % each):

    worse, better   |d| ≥ log 1.05, and the interval excludes "no change"
    noise           else, if the interval excludes a change of 10 % in both directions (±log 1.1)
    too noisy       else: neither a change nor its absence is shown; and always if others used the machine

Accuracy (or the metric of the kind of task) is compared on the rows that both runs answered, by the 95 % interval of
the paired loss (bench.measure.accuracy.difference). A missed gain does no harm, so that only a loss has to be
excluded:

    worse, better   the interval excludes "no change"
    noise           else, if the interval excludes a loss of MISSED = 1 point (one test at 2.5 %)
    too noisy       else: there are too few rows to tell such a loss from none

If no row differs, 381 rows exclude a loss of 1 point, and 73 rows a loss of 5
(bench.measure.accuracy.paired_interval.rows_needed). If d rows differ, half of them lost and half won, the interval
ends near 1.96·√d/n.

Why 5 %, 10 % and K = 8: the observed standard deviation of the speed-up of one opening is s = 3 % between processes
of one bundle. Then d has the standard error s·√(2/K) = 1.5 %. Equal bundles (d = 0) must stay within 4.9 %, which is
3.3 standard errors: 99.9 %. A slow-down by 10 % (d = -9.5 %) must be below -4.9 %, 3.1 standard errors away: 99.9 %.
If s were 4.2 % (3 % for each engine by itself), it would be 2.1 %, 2.3 and 2.2 standard errors: 97.9 % and 98.6 %,
less the share that is "too noisy": 97.7 % and 98.6 % (a test simulates this). The half width of the interval,
t·1.5 % = 2.6 % (or 3.7 %), is below 4.9 % in each case, so that the two conditions seldom disagree. With K = 4 and
s = 4.2 %, only 74 % and 87 % would be right.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from bench.measure.accuracy.difference import Difference
from bench.measure.accuracy.task_metric import NAMES, paired_loss
from bench.report.report_schema import Openings, Report
from models.errors import InputError
from models.schema import Record

THRESHOLD = float(np.log(1.05))  # a smaller change of the speed-up is ignored
LARGE = float(np.log(1.1))  # a change that must not be missed
CONFIDENCE = 0.9
MISSED = 1.0  # points: a loss that must not be missed
BUSY = 0.2  # share of CPU time used by other processes above which timings are meaningless
STOLEN = 0.05  # the same for other virtual machines on the host, whose load changes unseen
Call = Literal["better", "worse", "noise", "too noisy"]


class Verdict(Record):
    """The comparison of two reports on the same data."""

    speed: Call
    speed_ratio: float  # newer speed-up divided by the older: below 1 is slower
    speed_interval: tuple[float, float]  # 90 %
    disturbed: str | None = None  # description of the interference that made the speed too noisy
    accuracy: Call | None  # or the correlation of a regression; None: no labels
    accuracy_change: Difference | None  # older minus newer, on the same rows

    @property
    def is_worse(self) -> bool:
        """Whether speed or accuracy got worse."""
        return "worse" in (self.speed, self.accuracy)

    def sentence(self) -> str:
        """Return both results with their numbers as a sentence."""
        low, high = self.speed_interval
        text = f"speed {self.speed} ({self.speed_ratio:.3f} of before, 90 % interval {low:.3f} to {high:.3f})"
        if self.disturbed:
            text += f", because {self.disturbed}"
        if self.accuracy and self.accuracy_change:
            name = NAMES[self.accuracy_change.metric]
            low, high = self.accuracy_change.loss_interval
            text += f", {name} {self.accuracy} ({0.0 - self.accuracy_change.loss_points:+.2f} points, "
            text += f"95 % interval {0.0 - high:+.2f} to {0.0 - low:+.2f}, on {self.accuracy_change.rows} rows)"
        return text


def read_older(path: Path) -> Report:
    """Read and check the report to compare with, before a measurement that takes minutes.

    Raises:
        InputError: There is no report, or it has no openings to compare speed by.
    """
    if not path.is_file():
        raise InputError(
            f"there is no file {path} to compare with: wanted the report.json of an earlier `prunella bench`"
        )
    report = Report.read(path)
    openings_of(report)
    return report


def compare_reports(older: Report, newer: Report, missed: float = MISSED) -> Verdict:
    """Compare two reports.

    Args:
        older: Report of an earlier run.
        newer: Report on the same data and the same kind of processor.
        missed: Loss in points of the metric that must not be missed.

    Raises:
        InputError: They are about different data, machines or settings, or one has no openings to compare speed by.
    """
    _same_subject(older, newer)
    before, after = openings_of(older), openings_of(newer)
    call, ratio, interval = call_speed(before, after)
    disturbed = disturbance(before) or disturbance(after)
    accuracy, difference = _accuracy(older, newer, missed)
    return Verdict(
        speed="too noisy" if disturbed else call, speed_ratio=ratio, speed_interval=interval, disturbed=disturbed,
        accuracy=accuracy, accuracy_change=difference,
    )  # fmt: skip


def call_speed(older: Openings, newer: Openings) -> tuple[Call, float, tuple[float, float]]:
    """Return the result, the ratio of the newer to the older speed-up, and its 90 % interval."""
    change, half = log_change(older.speedups, newer.speedups)
    low, high = change - half, change + half
    call: Call = "too noisy"
    if change <= -THRESHOLD and high < 0:
        call = "worse"
    elif change >= THRESHOLD and low > 0:
        call = "better"
    elif low > -LARGE and high < LARGE:
        call = "noise"
    return call, float(np.exp(change)), (float(np.exp(low)), float(np.exp(high)))


def log_change(older: tuple[float, ...], newer: tuple[float, ...]) -> tuple[float, float]:
    """Return the change of the mean log speed-up, and half the width of its interval (pooled variance)."""
    from scipy.stats import t

    before, after = np.log(older), np.log(newer)
    freedom = len(before) + len(after) - 2
    pooled = (((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum()) / freedom
    error = (pooled * (1 / len(before) + 1 / len(after))) ** 0.5
    return float(after.mean() - before.mean()), float(t.ppf(0.5 + CONFIDENCE / 2, freedom) * error)


def disturbance(openings: Openings) -> str | None:
    """Describe the interference during the openings if it was too much for any timing, else return None."""
    interference = openings.quiet
    if (interference.others or 0) > BUSY or (interference.stolen or 0) > STOLEN:
        return interference.sentence()
    return None


def _same_subject(older: Report, newer: Report) -> None:
    if older.data_sha256 != newer.data_sha256:
        raise InputError(
            f"the reports are not comparable: the older is about {older.data}, the newer about other rows"
        )
    if older.labels != newer.labels:  # answers are stored as numbers of labels
        raise InputError(
            f"the older report's model has the labels {', '.join(older.labels)}, the newer's "
            f"{', '.join(newer.labels)}: their answers cannot be compared row by row"
        )
    if older.reference != newer.reference:
        raise InputError(f"the reports have different references: {older.reference} and {newer.reference}")
    machines = [f"{r.machine['processor']} ({' '.join(r.machine['flags'])})" for r in (older, newer)]
    if machines[0] != machines[1]:
        raise InputError(
            f"the older report was measured on {machines[0]}, the newer on {machines[1]}: measure both on the "
            "same kind of processor"
        )
    settings = [(o.texts, o.threads) for o in map(openings_of, (older, newer))]
    if settings[0] != settings[1]:
        raise InputError(
            "the reports timed (texts, threads) {} and {}: measure with the same settings".format(*settings)
        )


def openings_of(report: Report) -> Openings:
    """Return the openings of a report, by which the speeds of two reports are compared.

    Raises:
        InputError: The report has none.
    """
    if report.openings is None:
        raise InputError(
            f"the report of {report.started} (schema {report.schema_version}) has no openings, that is, no "
            "speed-ups of fresh processes to compare: measure that bundle again, with a reference that runs"
        )
    return report.openings


def check_missed(points: float) -> None:
    """Check --compare-loss: no number of rows can exclude a loss of 0 points.

    Raises:
        InputError: It is not above 0.
    """
    if not points > 0:
        raise InputError(f"--compare-loss is {points:g}: wanted points above 0, such as {MISSED:g}")


def call_loss(change: Difference, missed: float) -> Call:
    """Return the result for a loss, where a loss of `missed` points must not be missed."""
    low, high = change.loss_interval
    if low > 0:
        return "worse"
    if high < 0:
        return "better"
    return "noise" if high < missed else "too noisy"


def _accuracy(older: Report, newer: Report, missed: float) -> tuple[Call | None, Difference | None]:
    answers = [e.answers for r in (older, newer) if (e := r.engine("ours")) and e.answers]
    if older.truth is None or newer.truth is None or len(answers) < 2:
        return None, None
    change = paired_loss(newer.kind, np.array(newer.truth), np.array(answers[0]), np.array(answers[1]))
    return call_loss(change, missed), change
