"""score_numbers(): how well numbers answer; compare_numbers(): two models' numbers on the same rows."""

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import Difference, Interval, widened
from bench.paired import unseen_share
from bench.resampling import Floats, bca_interval
from models.correlation import pearson, varies
from models.record import Record

Numbers = NDArray[np.float32]  # (rows,)


class NumberScore(Record):
    """How well one model's numbers answer labelled rows."""

    rows: int
    pearson: float  # -1 to 1
    pearson_interval: Interval  # 95 %, bootstrap over rows
    spearman: float  # -1 to 1
    rmse: float  # in the unit of the labels

    @property
    def value(self) -> float:
        """The number that a loss is a loss of."""
        return self.pearson


def score_numbers(truth: Numbers, answers: Numbers) -> NumberScore:
    """Return the correlations of numbers (rows,) with the true ones, and how far they are from them.

    The interval is the 95 % BCa bootstrap over rows.
    """
    from scipy.stats import spearmanr

    vary = varies(truth) and varies(answers)
    return NumberScore(
        rows=len(truth),
        pearson=pearson(truth, answers),
        pearson_interval=bca_interval(lambda sums: _correlations(sums, 1), _columns(truth, answers)),
        spearman=float(spearmanr(truth, answers).statistic) if vary else 0.0,
        rmse=float(np.sqrt(np.mean(np.square(truth.astype(np.float64) - answers)))),
    )


def compare_numbers(truth: Numbers, reference: Numbers, ours: Numbers, seed: int = 0) -> Difference:
    """Return what is lost of Pearson's correlation with the truth, all (rows,); points are hundredths of it.

    The interval is the 95 % BCa bootstrap over rows, in which both correlations are of the same draw, widened to what
    these rows could not show: a share of texts on which no two answers were seen to differ may still be answered with
    the mean, which takes r·(1 - √(1 - share)) from a correlation of r.
    """
    was, now = pearson(truth, reference), pearson(truth, ours)
    low, high = bca_interval(
        lambda sums: _correlations(sums, 1) - _correlations(sums, 2), _columns(truth, reference, ours), seed
    )
    resolution = 100 * max(abs(was), abs(now)) * (1 - np.sqrt(1 - unseen_share(len(truth))))
    return Difference(
        metric="pearson",
        rows=len(truth),
        loss_points=100 * (was - now),
        loss_interval=widened((100 * low, 100 * high), 100 * (was - now), resolution),
        resolution_points=float(resolution),
    )


def _columns(truth: Numbers, *answers: Numbers) -> Floats:
    """Return for each row 1, the numbers, their squares, and the truth times each of `answers`."""
    values = np.stack([_centred(one) for one in (truth, *answers)], axis=1)
    return np.concatenate([np.ones((len(values), 1)), values, values**2, values[:, :1] * values[:, 1:]], axis=1)


def _correlations(sums: Floats, which: int) -> Floats:
    """Return Pearson's correlation of the truth with answer `which` (1 or more) from sums of `_columns`."""
    count = (sums.shape[1] - 2) // 3 + 1  # numbers a row: the truth and the answers
    rows = np.maximum(sums[:, 0], 1)
    means = sums[:, 1 : 1 + count] / rows[:, None]
    variances = sums[:, 1 + count : 1 + 2 * count] / rows[:, None] - means**2
    covariance = sums[:, 2 * count + which] / rows - means[:, 0] * means[:, which]
    length = np.sqrt(np.clip(variances[:, 0], 0, None) * np.clip(variances[:, which], 0, None))
    return np.asarray(np.clip(covariance / np.where(length > 1e-12, length, np.inf), -1, 1))


def _centred(values: Numbers) -> Floats:
    """Return the values about zero with a spread of one; zeros where they do not vary."""
    if not varies(values):
        return np.zeros(len(values))
    centred = np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64)
    return np.asarray(centred / np.sqrt(np.mean(centred**2)))
