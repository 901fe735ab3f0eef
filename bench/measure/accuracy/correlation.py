"""Metrics of a regression: score_numbers() for one model, compare_numbers() for two models on the same rows."""

import numpy as np
from numpy.typing import NDArray

from bench.measure.accuracy.bootstrap import Floats, bca_interval
from bench.measure.accuracy.difference import Difference, Interval, widened
from bench.measure.accuracy.paired_interval import unseen_share
from models.finetuning.pearson import pearson, varies
from models.schema import Record

Numbers = NDArray[np.float32]  # (rows,)


class NumberScore(Record):
    """Metrics of one model's predicted numbers on labelled rows."""

    rows: int
    pearson: float  # -1 to 1
    pearson_interval: Interval  # 95 %, bootstrap over rows
    spearman: float  # -1 to 1
    rmse: float  # in the unit of the labels

    @property
    def value(self) -> float:
        """The metric in which a loss is measured."""
        return self.pearson


def score_numbers(truth: Numbers, answers: Numbers) -> NumberScore:
    """Return the correlations and the root mean squared error of predictions and true values, both (rows,).

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
    """Return the loss of Pearson's correlation with the truth; all arrays are (rows,), points are hundredths of it.

    The interval is the 95 % BCa bootstrap over rows; both correlations are computed from the same draw. It is widened
    to the loss that these rows could not show: the models may differ on a share of texts of which no row was seen,
    and if ours answers that share with the mean, a correlation of r drops by r·(1 - √(1 - share)).
    """
    before, after = pearson(truth, reference), pearson(truth, ours)
    low, high = bca_interval(
        lambda sums: _correlations(sums, 1) - _correlations(sums, 2), _columns(truth, reference, ours), seed
    )
    resolution = 100 * max(abs(before), abs(after)) * (1 - np.sqrt(1 - unseen_share(len(truth))))
    return Difference(
        metric="pearson",
        rows=len(truth),
        loss_points=100 * (before - after),
        loss_interval=widened((100 * low, 100 * high), 100 * (before - after), resolution),
        resolution_points=float(resolution),
    )


def _columns(truth: Numbers, *answers: Numbers) -> Floats:
    """Return for each row: 1, the standardized numbers, their squares, and the truth times each of `answers`."""
    values = np.stack([_standardized(numbers) for numbers in (truth, *answers)], axis=1)
    return np.concatenate([np.ones((len(values), 1)), values, values**2, values[:, :1] * values[:, 1:]], axis=1)


def _correlations(sums: Floats, which: int) -> Floats:
    """Return Pearson's correlation of the truth with answer `which` (1 or more) from sums of `_columns`."""
    count = (sums.shape[1] - 2) // 3 + 1  # numbers of one row: the truth and the answers
    rows = np.maximum(sums[:, 0], 1)
    means = sums[:, 1 : 1 + count] / rows[:, None]
    variances = sums[:, 1 + count : 1 + 2 * count] / rows[:, None] - means**2
    covariance = sums[:, 2 * count + which] / rows - means[:, 0] * means[:, which]
    scale = np.sqrt(np.clip(variances[:, 0], 0, None) * np.clip(variances[:, which], 0, None))
    return np.asarray(np.clip(covariance / np.where(scale > 1e-12, scale, np.inf), -1, 1))


def _standardized(values: Numbers) -> Floats:
    """Return the values with mean 0 and standard deviation 1; zeros where they do not vary."""
    if not varies(values):
        return np.zeros(len(values))
    centred = np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64)
    return np.asarray(centred / np.sqrt(np.mean(centred**2)))
