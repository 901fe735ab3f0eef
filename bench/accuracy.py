"""compare(): two models' answers on the same rows → the paired difference with its interval; score(): one model's."""

import numpy as np
from numpy.typing import NDArray

from models.record import Record

RESAMPLES = 10_000
Indices = NDArray[np.int64]


class Score(Record):
    """How well one model answers labelled rows; fractions are 0 to 1."""

    rows: int
    accuracy: float
    macro_f1: float


class Difference(Record):
    """Reference minus ours on the same rows. Points: 1.0 is one percentage point; positive is a loss."""

    rows: int
    loss_points: float
    loss_interval: tuple[float, float]
    mcnemar_p: float
    flips: int  # rows whose label differs, right or wrong
    lost: int  # the reference was right and ours is not
    won: int  # the other way round


def score(truth: Indices, answers: Indices, labels: int) -> Score:
    """Return accuracy and macro F1 of label indices (rows,); macro F1 is over the labels that occur in `truth`."""
    f1 = [_f1(truth == label, answers == label) for label in range(labels) if (truth == label).any()]
    return Score(rows=len(truth), accuracy=float((truth == answers).mean()), macro_f1=float(np.mean(f1)))


def compare(truth: Indices, reference: Indices, ours: Indices, seed: int = 0) -> Difference:
    """Return the paired difference of label indices (rows,).

    The interval is the 95 % percentile bootstrap over rows. A row's difference is -1, 0 or 1, so that resampling
    rows is drawing three counts from a multinomial. McNemar's test is the exact one (binomial on the rows where one
    is right and the other wrong).
    """
    from scipy.stats import binomtest

    rows = len(truth)
    lost = int(((reference == truth) & (ours != truth)).sum())
    won = int(((reference != truth) & (ours == truth)).sum())
    shares = np.array([lost, won, rows - lost - won]) / rows
    drawn = np.random.default_rng(seed).multinomial(rows, shares, RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / rows * 100, [2.5, 97.5])
    return Difference(
        rows=rows,
        loss_points=(lost - won) / rows * 100,
        loss_interval=(float(low), float(high)),
        mcnemar_p=float(binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0,
        flips=int((reference != ours).sum()),
        lost=lost,
        won=won,
    )


def _f1(wanted: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    hits = int((wanted & found).sum())
    return 2 * hits / int(wanted.sum() + found.sum()) if hits else 0.0
