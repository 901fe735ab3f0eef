"""logits_of_rows(): the logits of many rows, each in a batch of its own, on all cores."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.messages import progress
from service.process.cores import usable_cores

QUIET_SECONDS = 5.0  # delay before the progress bar is shown
T = TypeVar("T")


def logits_of_rows(
    answer: Callable[[T], NDArray[np.float32]], rows: Sequence[T], threads: int | None = None
) -> NDArray[np.float32]:
    """Return the logits (rows, labels), in the order of `rows`.

    A row's answer never depends on others, because no batch has two; so it is the same for any number of cores.

    Args:
        answer: returns the logits (1, labels) of one row. It is called from several threads: a session whose
            operators have one thread each computes in the thread that calls it.
        rows: one or more.
        threads: number of threads; None: one for each core.
    """
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        bar = progress(
            pool.map(answer, rows), total=len(rows), desc="answer", unit="text", delay=QUIET_SECONDS, leave=False
        )
        return np.concatenate(list(bar))
