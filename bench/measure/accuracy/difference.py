"""compare(): paired difference of two models on the same rows, with its interval; score(): metrics of one model."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.measure.accuracy.paired_interval import paired_interval, rows_needed, unseen_share
from models.schema import Record

RESAMPLES = 10_000
Indices = NDArray[np.int64]
Answers = NDArray[Any]  # label indices (rows,), 0 or 1 for each label (rows, labels), or numbers (rows,)
F1Metric = Literal["macro_f1", "micro_f1"]
Metric = Literal["accuracy", "subset_accuracy", "pearson", F1Metric]  # in which a loss is measured
Interval = tuple[float, float]
Verdict = Literal["sure", "likely", "doubtful", "outside"]


class Score(Record):
    """Single-label metrics of one model on labelled rows; fractions are 0 to 1."""

    rows: int
    accuracy: float
    macro_f1: float

    @property
    def value(self) -> float:
        """The metric in which a loss is measured."""
        return self.accuracy


class SubsetScore(Record):
    """Multi-label metrics of one model on labelled rows; fractions are 0 to 1."""

    rows: int
    subset_accuracy: float  # share of rows with every label right
    micro_f1: float  # over all (row, label) decisions
    macro_f1: float  # mean over the labels that occur in the truth

    @property
    def value(self) -> float:
        """The metric in which a loss is measured."""
        return self.subset_accuracy


class Difference(Record):
    """Reference minus ours on the same rows. Points: 1.0 is a hundredth of the metric; positive is a loss.

    Fields that count right or wrong rows are None for a correlation, because a number is not simply right or wrong.
    """

    metric: Metric = "accuracy"
    rows: int
    loss_points: float
    loss_interval: Interval  # 95 %
    resolution_points: float | None = None  # loss that these rows could not show, even if no answer differed
    mcnemar_p: float | None = None
    flips: int | None = None  # rows whose predicted label differs, right or wrong
    lost: int | None = None  # the reference was right and ours is not
    won: int | None = None  # ours is right and the reference was not

    def rows_needed(self, max_loss: float) -> int | None:
        """Return about how many rows it takes to show that a loss is at most `max_loss` points; None: no number does.

        The number is exact for accuracy. For other metrics it is scaled from the loss that these rows could not show.
        """
        if max_loss <= 0:
            return None
        if self.metric in ("accuracy", "subset_accuracy") or not self.resolution_points:
            return rows_needed(min(max_loss, 100))
        share = unseen_share(self.rows) * max_loss / self.resolution_points
        return rows_needed(min(100 * share, 100))

    def verdict(self, max_loss: float) -> Verdict:
        """Return how certain it is that the loss is at most `max_loss` points.

        `sure`: the whole interval is within the limit, and there are enough rows to show it (`rows_needed`).
        `likely`: the loss is within the limit. `doubtful`: the loss exceeds the limit, but the interval contains
        values within it. `outside`: the whole interval exceeds the limit.
        """
        low, high = self.loss_interval
        enough = self.rows >= (self.rows_needed(max_loss) or 0)
        if high <= max_loss and enough:
            return "sure"
        if self.loss_points <= max_loss:
            return "likely"
        return "doubtful" if low <= max_loss else "outside"


def widened(interval: Interval, loss: float, resolution: float) -> Interval:
    """Return the interval, widened where necessary to reach `resolution` to each side of `loss`."""
    return min(interval[0], loss - resolution), max(interval[1], loss + resolution)


def score(truth: Indices, answers: Indices, labels: int) -> Score:
    """Return accuracy and macro F1 of label indices (rows,); macro F1 is over the labels that occur in `truth`."""
    # imported here, so that only code that computes scores loads scikit-learn
    from models.finetuning.metrics import score_classes

    scores = score_classes(tuple(map(str, range(labels))), truth, answers)
    return Score(rows=scores.rows, accuracy=scores.accuracy, macro_f1=scores.macro_f1)


def mean_interval(values: NDArray[np.floating], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of values (rows,)."""
    rows, generator = len(values), np.random.default_rng(seed)
    shares = np.full(rows, 1 / rows)
    means = [generator.multinomial(rows, shares) @ values / rows for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def right(truth: Answers, answers: Answers) -> NDArray[np.bool_]:
    """Return whether the answer to each row is right; a multi-label answer is right if all its labels are."""
    same = np.asarray(truth == answers)
    return same if same.ndim == 1 else np.asarray(same.all(axis=1))


def compare(truth: Answers, reference: Answers, ours: Answers) -> Difference:
    """Return the paired difference of answers: label indices (rows,), or 0 or 1 for each label (rows, labels).

    The 95 % interval is Tango's score interval (bench.measure.accuracy.paired_interval), which has a width even when
    no row differs. McNemar's test is the exact one (binomial, on the rows where one model is right and the other
    wrong).
    """
    from scipy.stats import binomtest

    rows = len(truth)
    before, after = right(truth, reference), right(truth, ours)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    low, high = (100 * bound for bound in paired_interval(lost, won, rows))
    return Difference(
        metric="accuracy" if truth.ndim == 1 else "subset_accuracy",
        rows=rows,
        loss_points=(lost - won) / rows * 100,
        loss_interval=(low, high),
        resolution_points=100 * unseen_share(rows),
        mcnemar_p=float(binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0,
        flips=int((~right(reference, ours)).sum()),
        lost=lost,
        won=won,
    )
