"""compare(): two models, same rows → their paired difference with its interval; score(): one model."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.paired import paired_interval, rows_needed, unseen_share
from models.record import Record

RESAMPLES = 10_000
Indices = NDArray[np.int64]
Answers = NDArray[Any]  # label indices (rows,), whether each label is given (rows, labels), or numbers (rows,)
F1Metric = Literal["macro_f1", "micro_f1"]
Metric = Literal["accuracy", "subset_accuracy", "pearson", F1Metric]  # what a loss is a loss of
Interval = tuple[float, float]
Verdict = Literal["sure", "likely", "doubtful", "outside"]


class Score(Record):
    """How well one model answers labelled rows; fractions are 0 to 1."""

    rows: int
    accuracy: float
    macro_f1: float

    @property
    def value(self) -> float:
        """The number that a loss is a loss of."""
        return self.accuracy


class SubsetScore(Record):
    """How well one model answers rows of any number of labels; fractions are 0 to 1."""

    rows: int
    subset_accuracy: float  # of rows with every label right
    micro_f1: float  # over all (row, label) decisions
    macro_f1: float  # the mean over the labels that occur in the truth

    @property
    def value(self) -> float:
        """The number that a loss is a loss of."""
        return self.subset_accuracy


class Difference(Record):
    """Reference minus ours on the same rows. Points: 1.0 is a hundredth of the metric; positive is a loss.

    What counts rows is None of a correlation: of numbers none is simply right or wrong.
    """

    metric: Metric = "accuracy"
    rows: int
    loss_points: float
    loss_interval: Interval  # 95 %
    resolution_points: float | None = None  # loss that so few rows could not show, even if no answer differed
    mcnemar_p: float | None = None
    flips: int | None = None  # rows whose label differs, right or wrong
    lost: int | None = None  # the reference was right and ours is not
    won: int | None = None  # the other way round

    def rows_needed(self, max_loss: float) -> int | None:
        """Return about how many rows like these it takes to show a loss of `max_loss` points; None: no number does.

        Exact for accuracy. Other metrics are scaled from what these rows could not show.
        """
        if max_loss <= 0:
            return None
        if self.metric in ("accuracy", "subset_accuracy") or not self.resolution_points:
            return rows_needed(min(max_loss, 100))
        share = unseen_share(self.rows) * max_loss / self.resolution_points
        return rows_needed(min(100 * share, 100))

    def verdict(self, max_loss: float) -> Verdict:
        """Return how sure it is that the loss is at most `max_loss` points.

        `sure`: the whole interval is inside, and there are as many rows as it takes to show it. `likely`: the loss is
        inside. `doubtful`: it is outside, and the interval reaches inside. `outside`: the whole interval is outside.
        """
        low, high = self.loss_interval
        enough = self.rows >= (self.rows_needed(max_loss) or 0)
        if high <= max_loss and enough:
            return "sure"
        if self.loss_points <= max_loss:
            return "likely"
        return "doubtful" if low <= max_loss else "outside"


def widened(interval: Interval, loss: float, resolution: float) -> Interval:
    """Return the interval, at least `resolution` to each side of `loss`."""
    return min(interval[0], loss - resolution), max(interval[1], loss + resolution)


def score(truth: Indices, answers: Indices, labels: int) -> Score:
    """Return accuracy and macro F1 of label indices (rows,); macro F1 is over the labels that occur in `truth`."""
    from models.train.metrics import score_classes  # here: scikit-learn is loaded by what judges, and by nothing else

    found = score_classes(tuple(map(str, range(labels))), truth, answers)
    return Score(rows=found.rows, accuracy=found.accuracy, macro_f1=found.macro_f1)


def mean_interval(values: NDArray[np.floating], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of values (rows,)."""
    rows, generator = len(values), np.random.default_rng(seed)
    shares = np.full(rows, 1 / rows)
    means = [generator.multinomial(rows, shares) @ values / rows for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def right(truth: Answers, answers: Answers) -> NDArray[np.bool_]:
    """Return for each row whether it is answered right: with several labels a row, whether all of them are."""
    same = np.asarray(truth == answers)
    return same if same.ndim == 1 else np.asarray(same.all(axis=1))


def compare(truth: Answers, reference: Answers, ours: Answers) -> Difference:
    """Return the paired difference of answers: label indices (rows,), or whether each label is given (rows, labels).

    The 95 % interval is Tango's score interval (bench.paired), which has a width when no row differs. McNemar's test
    is the exact one (binomial on the rows where one is right and the other wrong).
    """
    from scipy.stats import binomtest

    rows = len(truth)
    was, now = right(truth, reference), right(truth, ours)
    lost, won = int((was & ~now).sum()), int((now & ~was).sum())
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
