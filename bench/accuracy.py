"""compare(): two models, same rows → their paired difference with its interval; score(): one model."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.paired import paired_interval
from models.record import Record

RESAMPLES = 10_000
Indices = NDArray[np.int64]
Answers = NDArray[Any]  # label indices (rows,), whether each label is given (rows, labels), or numbers (rows,)
Metric = Literal["accuracy", "subset_accuracy", "pearson"]  # what a loss is a loss of


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
    loss_interval: tuple[float, float]
    mcnemar_p: float | None = None
    flips: int | None = None  # rows whose label differs, right or wrong
    lost: int | None = None  # the reference was right and ours is not
    won: int | None = None  # the other way round


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
        mcnemar_p=float(binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0,
        flips=int((~right(reference, ours)).sum()),
        lost=lost,
        won=won,
    )
