"""score_numbers(): how well numbers answer; compare_numbers(): two models' numbers on the same rows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import Difference
from models.correlation import pearson, varies
from models.record import Record

RESAMPLES = 2000
CELLS = 2_000_000  # rows that are drawn at once: bounds the memory
Numbers = NDArray[np.float32]  # (rows,)
Interval = tuple[float, float]


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
    """Return the correlations of numbers (rows,) with the true ones, and how far they are from them."""
    from scipy.stats import spearmanr

    told = varies(truth) and varies(answers)
    return NumberScore(
        rows=len(truth),
        pearson=pearson(truth, answers),
        pearson_interval=_ends(np.concatenate([r[0] for r in _resampled(truth, (answers,), 0)])),
        spearman=float(spearmanr(truth, answers).statistic) if told else 0.0,
        rmse=float(np.sqrt(np.mean(np.square(truth.astype(np.float64) - answers)))),
    )


def compare_numbers(truth: Numbers, reference: Numbers, ours: Numbers, seed: int = 0) -> Difference:
    """Return what is lost of Pearson's correlation with the truth, all (rows,); points are hundredths of it.

    The interval is the 95 % percentile bootstrap over rows; both correlations are taken of the same draw.
    """
    drawn = [was - now for was, now in _resampled(truth, (reference, ours), seed)]
    low, high = _ends(np.concatenate(drawn))
    return Difference(
        metric="pearson",
        rows=len(truth),
        loss_points=100 * (pearson(truth, reference) - pearson(truth, ours)),
        loss_interval=(100 * low, 100 * high),
    )


def _resampled(truth: Numbers, answers: tuple[Numbers, ...], seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield the correlation of each of `answers` with the truth on drawn rows, (answers, draws), piece by piece."""
    generator, rows = np.random.default_rng(seed), len(truth)
    wanted, *found = (_centred(values) for values in (truth, *answers))
    at_once = max(1, CELLS // rows)
    for start in range(0, RESAMPLES, at_once):
        drawn = generator.integers(rows, size=(min(at_once, RESAMPLES - start), rows))
        yield np.stack([_correlations(wanted[drawn], one[drawn]) for one in found])


def _centred(values: Numbers) -> NDArray[np.float64]:
    """Return the values about zero and of length one; zeros where they do not vary."""
    if not varies(values):
        return np.zeros(len(values))
    centred = np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64)
    return np.asarray(centred / np.sqrt(centred @ centred))


def _correlations(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Pearson's correlation of each row of two (draws, rows); 0 where one does not vary."""
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    length = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.where(length > 0, length, 1.0))


def _ends(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
