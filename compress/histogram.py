"""Histogram: what values a stream of activations holds, in constant memory; and where to cut it for 256 steps."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from export.precision import Activation, Floats

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
Range = tuple[float, float]
BINS = 8192  # 16 or more for each of the 256 steps, unless all values lie on one side of zero, then 8
SHARES = np.linspace(0.1, 1.0, 37)  # of each end of the range, that are tried as a cut
COARSE = 4
PERCENTILE = 99.99


class Histogram:
    """Counts of streamed values in equal bins over -reach … reach; bins are joined in pairs when a value lies beyond.

    `weighted` says what an error in a value costs in the product with the matrix that follows. A column weighs as
    much as its row in the matrix, a token as little as its product is large, for that is what its error is small
    against: for independent errors, E[‖(x - Q(x))W‖² / ‖xW‖²] = E[Σ_j (x_j - Q(x_j))² ‖W_j‖² / ‖xW‖²].
    """

    def __init__(self, column_weights: Floats) -> None:
        self.counts = np.zeros(BINS)
        self.weighted = np.zeros(BINS)
        self.low, self.high, self.reach = 0.0, 0.0, 0.0
        self._column_weights = column_weights.astype(np.float64)

    def add(self, values: Floats, row_weights: Floats) -> None:
        """Count values (rows, columns); `row_weights` is (rows,)."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self._widen(max(-self.low, self.high))
        bins = ((values + self.reach) * (BINS / 2 / self.reach)).astype(np.int64)
        bins = np.minimum(bins, BINS - 1).reshape(-1)
        weights = np.outer(row_weights, self._column_weights).reshape(-1)
        self.counts += np.bincount(bins, minlength=BINS)
        self.weighted += np.bincount(bins, weights=weights, minlength=BINS)

    def centers(self) -> NDArray[np.float64]:
        """Return the middle of each bin, (BINS,)."""
        return np.asarray((np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach, dtype=np.float64)

    def _widen(self, needed: float) -> None:
        if not self.reach:
            self.reach = 2.0 ** np.ceil(np.log2(max(needed, 1e-8)))
        quarter = BINS // 4
        while self.reach < needed:
            self.reach *= 2
            for counts in (self.counts, self.weighted):
                joined = counts.reshape(-1, 2).sum(1)
                counts[:] = 0
                counts[quarter : 3 * quarter] = joined


def choose_range(histogram: Histogram, method: Method) -> Range:
    """Return the lowest and highest value that int8 should tell apart; what lies beyond is cut."""
    choosers: dict[Method, Callable[[Histogram], Range]] = {
        "minmax": lambda h: (h.low, h.high), "percentile": _percentile, "entropy": _entropy, "mse": _least_error,
    }  # fmt: skip
    return choosers[method](histogram)


def product_error(histogram: Histogram, low: float, high: float) -> float:
    """Return the summed squared relative error that 256 steps over low … high bring into the product."""
    centers = histogram.centers()
    rounded = Activation.of_range(low, high).rounded(centers.astype(np.float32))
    return float(histogram.weighted @ np.square(centers - rounded))


def _percentile(histogram: Histogram) -> Range:
    outside = (1 - PERCENTILE / 100) / 2
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    centers = histogram.centers()
    low, high = (float(centers[int(np.searchsorted(share, q))]) for q in (outside, 1 - outside))
    return max(low, histogram.low), min(high, histogram.high)


def _least_error(histogram: Histogram) -> Range:
    """Look at every fourth share of both ends, then around the best of them."""
    places = np.arange(len(SHARES))

    def best(lows: NDArray[np.int64], highs: NDArray[np.int64]) -> tuple[int, int]:
        errors = {(a, b): product_error(histogram, *cut(a, b)) for a in lows.tolist() for b in highs.tolist()}
        return min(errors, key=lambda ends: errors[ends])

    def cut(a: int, b: int) -> Range:
        return float(SHARES[a] * histogram.low), float(SHARES[b] * histogram.high)

    a, b = best(places[::COARSE], places[::COARSE])
    return cut(*best(*(places[max(0, n - COARSE + 1) : n + COARSE] for n in (a, b))))


def _entropy(histogram: Histogram) -> Range:
    """Cut where the distribution after rounding is nearest to the one before (KL divergence, as TensorRT does)."""
    most = max(-histogram.low, histogram.high)
    ranges = [(max(histogram.low, -share * most), min(histogram.high, share * most)) for share in SHARES]
    return min(ranges, key=lambda ends: _divergence(histogram, *ends))


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    centers = histogram.centers()
    inside = np.flatnonzero((centers >= low) & (centers <= high))
    kept = histogram.counts[inside]
    reference = kept.copy()
    reference[0] += histogram.counts[: inside[0]].sum()  # what is cut lands on the ends
    reference[-1] += histogram.counts[inside[-1] + 1 :].sum()
    activation = Activation.of_range(low, high)
    steps = np.rint(centers[inside] / activation.scale).astype(np.int64)
    steps -= steps.min()
    seen = kept > 0
    sums, bins = np.bincount(steps, weights=kept), np.bincount(steps, weights=seen)
    rounded = np.where(seen, sums[steps] / np.maximum(bins[steps], 1), 0)
    p, q = reference / reference.sum(), rounded / rounded.sum()
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))).sum())
