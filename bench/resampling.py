"""bca_interval(): the bootstrap interval of a statistic of sums over rows, such as F1 or a correlation."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CELLS = 2_000_000  # numbers that are drawn at once: bounds the memory
Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # sums (draws, columns) → values (draws,)


def bca_interval(
    statistic: Statistic, columns: NDArray[np.generic], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated (BCa) bootstrap interval over rows.

    It has no width where all draws give one value, as when two models differ on no row: the caller widens it by what
    so few rows cannot show (`bench.paired.unseen_share`).

    Args:
        statistic: gives values from sums of `columns`; it must accept sums over any subset of the rows.
        columns: what is summed, (rows, columns).
        seed: of the draws.
        level: confidence of the two-sided interval.

    Source: Efron (1987), "Better bootstrap confidence intervals", Journal of the American Statistical Association 82.
    """
    from scipy.stats import norm

    kinds, counts = np.unique(columns, axis=0, return_counts=True)  # rows that are alike are drawn together
    kinds = kinds.astype(np.float64)
    totals = counts @ kinds
    estimate = float(statistic(totals[None])[0])
    values = np.sort(_draws(statistic, kinds, counts, seed))
    if values[0] == values[-1]:
        return float(values[0]), float(values[0])
    below = ((values < estimate).sum() + 0.5 * (values == estimate).sum()) / len(values)
    bias = float(norm.ppf(np.clip(below, 1 / len(values), 1 - 1 / len(values))))
    acceleration = _acceleration(statistic(totals - kinds), counts)
    ends = []
    for quantile in (0.5 - level / 2, 0.5 + level / 2):
        z = bias + float(norm.ppf(quantile))
        ends.append(float(np.quantile(values, norm.cdf(bias + z / max(1 - acceleration * z, 1e-6)))))
    return ends[0], ends[1]


def _draws(statistic: Statistic, kinds: Floats, counts: NDArray[np.int64], seed: int) -> Floats:
    generator, rows = np.random.default_rng(seed), int(counts.sum())
    at_once = max(1, CELLS // len(kinds))
    pieces = []
    for start in range(0, RESAMPLES, at_once):
        drawn = generator.multinomial(rows, counts / rows, size=min(at_once, RESAMPLES - start))
        pieces.append(statistic(drawn.astype(np.float64) @ kinds))
    return np.concatenate(pieces)


def _acceleration(left_out: Floats, counts: NDArray[np.int64]) -> float:
    """Return the acceleration from the values without one row of each kind, (kinds,): the jackknife."""
    deviations = np.average(left_out, weights=counts) - left_out
    squares = float(counts @ deviations**2)
    return float(counts @ deviations**3) / (6 * squares**1.5) if squares > 0 else 0.0
