"""bca_interval(): bootstrap confidence interval of a statistic of sums over rows, such as F1 or a correlation."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CELLS = 2_000_000  # counts drawn at once: bounds the memory
Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # from sums (draws, columns) to values (draws,)


def bca_interval(
    statistic: Statistic, columns: NDArray[np.generic], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated (BCa) bootstrap interval over rows.

    The interval has no width where all draws give the same value, as when two models differ on no row. The caller
    then widens it by the loss that so few rows cannot show (`bench.measure.accuracy.paired_interval.unseen_share`).

    Args:
        statistic: Computes values from sums of `columns`; it must accept sums over any subset of the rows.
        columns: The terms to sum, (rows, columns).
        seed: Seed of the random draws.
        level: Confidence of the two-sided interval.

    Source: Efron (1987), "Better bootstrap confidence intervals", Journal of the American Statistical Association 82.
    """
    from scipy.stats import norm

    distinct, counts = np.unique(columns, axis=0, return_counts=True)  # equal rows are drawn together
    distinct = distinct.astype(np.float64)
    totals = counts @ distinct
    estimate = float(statistic(totals[None])[0])
    values = np.sort(_draws(statistic, distinct, counts, seed))
    if values[0] == values[-1]:
        return float(values[0]), float(values[0])
    below = ((values < estimate).sum() + 0.5 * (values == estimate).sum()) / len(values)
    bias = float(norm.ppf(np.clip(below, 1 / len(values), 1 - 1 / len(values))))
    acceleration = _acceleration(statistic(totals - distinct), counts)
    bounds = []
    for quantile in (0.5 - level / 2, 0.5 + level / 2):
        z = bias + float(norm.ppf(quantile))
        bounds.append(float(np.quantile(values, norm.cdf(bias + z / max(1 - acceleration * z, 1e-6)))))
    return bounds[0], bounds[1]


def _draws(statistic: Statistic, distinct: Floats, counts: NDArray[np.int64], seed: int) -> Floats:
    """Return the statistic of each bootstrap sample, (RESAMPLES,), drawn in chunks of at most CELLS counts."""
    generator, rows = np.random.default_rng(seed), int(counts.sum())
    chunk = max(1, CELLS // len(distinct))
    values = []
    for start in range(0, RESAMPLES, chunk):
        drawn = generator.multinomial(rows, counts / rows, size=min(chunk, RESAMPLES - start))
        values.append(statistic(drawn.astype(np.float64) @ distinct))
    return np.concatenate(values)


def _acceleration(left_out: Floats, counts: NDArray[np.int64]) -> float:
    """Return the acceleration by the jackknife; `left_out` is the statistic without one row of each distinct kind."""
    deviations = np.average(left_out, weights=counts) - left_out
    squares = float(counts @ deviations**2)
    return float(counts @ deviations**3) / (6 * squares**1.5) if squares > 0 else 0.0
