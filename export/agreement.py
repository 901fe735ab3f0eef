"""check_agreement(): two answer functions and texts → numbers, or DisagreementError."""

import numpy as np
from numpy.typing import NDArray

from models.errors import DisagreementError
from models.record import Record


class Agreement(Record):
    """How far two forms of one model are apart on the same rows."""

    rows: int
    max_difference: float
    mean_difference: float
    flips: int


def check_agreement(
    wanted: NDArray[np.float32], found: NDArray[np.float32], what: str, max_difference: float
) -> Agreement:
    """Compare logits (rows, labels) of two forms of a model.

    Raises:
        DisagreementError: a logit differs by more than `max_difference`, or is not a number.
    """
    if wanted.shape != found.shape:
        raise DisagreementError(f"{what}: logits of shape {found.shape}, wanted {wanted.shape}")
    difference = np.abs(wanted - found)
    agreement = Agreement(
        rows=len(wanted),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        flips=int((wanted.argmax(1) != found.argmax(1)).sum()),
    )
    if not agreement.max_difference <= max_difference:  # also true for NaN
        raise DisagreementError(
            f"{what}: logits differ by {agreement.max_difference:.2g}, at most {max_difference:.2g} was wanted; "
            f"{agreement.flips} of {agreement.rows} labels flip"
        )
    return agreement
