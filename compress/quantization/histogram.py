"""Histogram of the inputs of a matrix, in constant memory, and the choice of a range for 256 int8 steps."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from export.graph_precision import Activation, Floats

Method = Literal["minmax", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
Range = tuple[float, float]
BINS = 8192  # at least 16 for each of the 256 steps; at least 8 if all values have the same sign
SHARES = np.linspace(0.1, 1.0, 37)  # candidate ends of the range, as shares of the lowest and highest value
COARSE = 4  # the first pass tries every fourth share


class Histogram:
    """Counts of values in equal bins over -reach … reach; if a value is outside, pairs of bins are merged.

    `weighted` is the same histogram with the weight of each value in the relative squared error of the product xW.
    The weight of column j is ‖W_j‖², where W_j is row j of the matrix; the weight of a token is 1 / ‖xW‖². For
    independent errors, E[‖(x - Q(x))W‖² / ‖xW‖²] = E[Σ_j (x_j - Q(x_j))² ‖W_j‖² / ‖xW‖²].
    """

    def __init__(self, column_weights: Floats) -> None:
        self.counts = np.zeros(BINS)
        self.weighted = np.zeros(BINS)
        self.low, self.high, self.reach = 0.0, 0.0, 0.0
        self._column_weights = column_weights.astype(np.float64)

    def add(self, values: Floats, row_weights: Floats) -> None:
        """Add values (rows, columns) with the weights of their tokens (rows,)."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self._widen(max(-self.low, self.high))
        bins = ((values + self.reach) * (BINS / 2 / self.reach)).astype(np.int64)
        bins = np.minimum(bins, BINS - 1).reshape(-1)
        weights = np.outer(row_weights, self._column_weights).reshape(-1)
        self.counts += np.bincount(bins, minlength=BINS)
        self.weighted += np.bincount(bins, weights=weights, minlength=BINS)

    def centers(self) -> NDArray[np.float64]:
        """Return the center of each bin, (BINS,)."""
        return np.asarray((np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach, dtype=np.float64)

    def _widen(self, needed: float) -> None:
        """Double `reach` until it is at least `needed`; the first time, set it to a power of two."""
        if not self.reach:
            self.reach = 2.0 ** np.ceil(np.log2(max(needed, 1e-8)))
        quarter = BINS // 4
        while self.reach < needed:
            self.reach *= 2
            for counts in (self.counts, self.weighted):
                merged = counts.reshape(-1, 2).sum(1)
                counts[:] = 0
                counts[quarter : 3 * quarter] = merged


def choose_range(histogram: Histogram, method: Method) -> Range:
    """Return the range that int8 represents; values outside are clipped."""
    return (histogram.low, histogram.high) if method == "minmax" else _least_error(histogram)


def product_error(histogram: Histogram, low: float, high: float) -> float:
    """Return the squared relative error of the product with 256 steps over low … high, summed over tokens."""
    centers = histogram.centers()
    rounded = Activation.of_range(low, high).rounded(centers.astype(np.float32))
    return float(histogram.weighted @ np.square(centers - rounded))


def _least_error(histogram: Histogram) -> Range:
    """Return the range with the least product error: every fourth share of both ends, then those near the best."""
    indices = np.arange(len(SHARES))

    def best(lows: NDArray[np.int64], highs: NDArray[np.int64]) -> tuple[int, int]:
        errors = {(a, b): product_error(histogram, *ends_of(a, b)) for a in lows.tolist() for b in highs.tolist()}
        return min(errors, key=lambda pair: errors[pair])

    def ends_of(a: int, b: int) -> Range:
        return float(SHARES[a] * histogram.low), float(SHARES[b] * histogram.high)

    a, b = best(indices[::COARSE], indices[::COARSE])
    return ends_of(*best(*(indices[max(0, n - COARSE + 1) : n + COARSE] for n in (a, b))))
