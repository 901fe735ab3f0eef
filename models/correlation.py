"""pearson(): how well a model's numbers go with others, whatever their unit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAT = 1e-6  # a spread that is this small a share of the values is rounding in fp32, and no answer


def pearson(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Pearson's correlation of two (rows,), -1 to 1; 0.0 where one of them does not vary: it tells nothing."""
    if not (varies(first) and varies(second)):
        return 0.0
    a, b = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (first, second))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def varies(values: NDArray[Any]) -> bool:
    """Whether numbers (rows,) differ by more than fp32 rounds them."""
    return len(values) > 0 and bool(np.ptp(values) > FLAT * np.abs(values).max())
