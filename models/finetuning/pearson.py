"""pearson(): Pearson's correlation, 0 for constant values; varies(): whether values are not constant."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAT = 1e-6  # a range of at most this share of the largest magnitude is fp32 rounding


def pearson(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Pearson's correlation of two arrays (rows,), -1 to 1; 0.0 if one of them does not vary."""
    if not (varies(first) and varies(second)):
        return 0.0
    a, b = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (first, second))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def varies(values: NDArray[Any]) -> bool:
    """Whether the range of the values (rows,) is larger than fp32 rounding."""
    return len(values) > 0 and bool(np.ptp(values) > FLAT * np.abs(values).max())
