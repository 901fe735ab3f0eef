"""cascade_report(): shares, times, accuracy and calibration of the two stages of a bundle with a gate.

Most texts take the gate's time and the others the student's, so that the median says nothing about the cost of a text
and the mean nothing about the slowest ones: a cascade's 95th percentile is its student's, unless the student answers
fewer than one text in twenty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.measure.accuracy.difference import Answers, Difference, Indices, compare
from bench.measure.accuracy.error_analysis import quality
from bench.measure.latency.request_batches import resolved
from bench.measure.latency.timing import Seconds
from models.schema import Record
from models.task import Task
from models.tokenizer import Encoded
from service.cascade.gate import Gate

SLOWEST_SHARE = 0.05  # of the texts: they are beyond the 95th percentile


class StageReport(Record):
    """The rows that one stage answers."""

    stage: Literal["gate", "student"]
    rows: int
    share: float
    accuracy: float | None = Field(description="of the stage's answers; None: there are no labels, or no rows")
    student_accuracy: float | None = Field(description="of the student on the same rows")
    calibration_error: float | None = Field(description="expected calibration error of the stage's answers")


class CascadeReport(Record):
    """A gate with its student. Times are of one text, from token ids to an answer; medians over rounds."""

    stages: tuple[StageReport, ...]
    mean_ms: float
    p50_ms: float
    p95_ms: float | None = Field(description="None: too few texts were timed")
    p99_ms: float | None = Field(description="None: too few texts were timed")
    student_mean_ms: float
    student_p95_ms: float | None
    speedup_mean: float | None = Field(description="mean time of the reference over the cascade's")
    student_speedup_mean: float | None = Field(description="the same of the student alone")
    core_seconds_per_million: float = Field(description="of a million texts, one after the other")
    added: Difference | None = Field(description="student minus cascade on the same rows; None: there are no labels")
    threshold: float
    max_loss: float = Field(description="points that were allowed when the threshold was found")
    bound_points: float = Field(description="upper limit of the loss on the rows of the threshold")
    confidence: float
    bounded_against: str
    threshold_rows: int = Field(description="rows on which the threshold was found")

    @property
    def slowest(self) -> Literal["gate", "student"]:
        """The stage whose time the 95th percentile is."""
        return "student" if self.stages[1].share > SLOWEST_SHARE else "gate"

    def sentence(self) -> str:
        """Return what the gate does, and what it does not, in sentences."""
        gate = self.stages[0]
        slow = "" if self.p95_ms is None or self.student_p95_ms is None else (
            f" ({self.p95_ms:.3g} ms; {self.student_p95_ms:.3g} ms without a gate)"
        )  # fmt: skip
        return (
            f"The gate answers {gate.share:.1%} of the rows. A text takes {self.mean_ms:.3g} ms on average, "
            f"{self.student_mean_ms:.3g} ms without a gate; the 95th percentile is the {self.slowest}'s{slow}. A "
            f"million texts cost {self.core_seconds_per_million:.0f} core-seconds."
        )


@dataclass(frozen=True, slots=True)
class CascadeResults:
    """Raw results of which a report is made."""

    gate: Gate
    encoded: Sequence[Encoded]  # of all rows
    task: Task
    truth: Answers | None
    student: NDArray[np.float32]  # logits (rows, labels)
    seconds: Mapping[str, Seconds]  # (rounds, texts) of the engines, one text at a time
    requests: int  # number of different texts that were timed
    reference: str | None  # name of the reference in `seconds`


def cascade_report(results: CascadeResults) -> CascadeReport:
    """Return the report of a cascade."""
    decided = [results.gate.decide(one.ids) for one in results.encoded]
    answered = np.array([one.answered for one in decided])
    logits = np.where(answered[:, None], np.stack([one.logits for one in decided]), results.student)
    lengths = np.array([len(one.ids) for one in results.encoded])
    stages = (
        _stage("gate", answered, logits, lengths, results),
        _stage("student", ~answered, logits, lengths, results),
    )
    times = {name: 1e3 * np.median(one, axis=0) for name, one in results.seconds.items()}
    reference = None if results.reference is None else times.get(results.reference)
    mean, info = float(times["cascade"].mean()), results.gate.info

    def percentile(name: str, percent: float) -> float | None:
        return float(np.percentile(times[name], percent)) if resolved(percent, results.requests) else None

    added = None
    if results.truth is not None:
        added = compare(results.truth, results.student.argmax(axis=1), logits.argmax(axis=1))
    return CascadeReport(
        stages=stages, mean_ms=mean, p50_ms=float(np.median(times["cascade"])), p95_ms=percentile("cascade", 95),
        p99_ms=percentile("cascade", 99), student_mean_ms=float(times["ours"].mean()),
        student_p95_ms=percentile("ours", 95),
        speedup_mean=None if reference is None else float(reference.mean() / mean),
        student_speedup_mean=None if reference is None else float(reference.mean() / times["ours"].mean()),
        core_seconds_per_million=1e3 * mean, added=added, threshold=info.threshold, max_loss=info.max_loss,
        bound_points=info.bound_points, confidence=info.confidence, bounded_against=info.reference,
        threshold_rows=info.rows,
    )  # fmt: skip


def _stage(
    name: Literal["gate", "student"],
    rows: NDArray[np.bool_],
    logits: NDArray[np.float32],
    lengths: Indices,
    results: CascadeResults,
) -> StageReport:
    count = int(rows.sum())
    accuracy: float | None = None
    student: float | None = None
    error: float | None = None
    if results.truth is not None and count:
        truth = results.truth[rows]
        accuracy = float((logits[rows].argmax(axis=1) == truth).mean())
        student = float((results.student[rows].argmax(axis=1) == truth).mean())
        error = quality(truth, logits[rows], results.task, lengths[rows]).calibration_error
    return StageReport(
        stage=name, rows=count, share=count / len(rows), accuracy=accuracy, student_accuracy=student,
        calibration_error=error,
    )  # fmt: skip
