"""make_requests(): the requests that every engine answers, each split into batches of the model.

Every engine answers a request of several texts in two ways: as one padded batch in the order of arrival, and in
batches of texts of similar length, as the service's scheduler forms them. The batches are formed once, and are the
same for all engines.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from models.data.texts import Texts
from models.tokenizer import Row
from service.inference.scheduler import Rules, plan_batches

Grouping = Literal["by length", "as received"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
BEYOND = 3  # requests that must lie beyond a percentile: otherwise it is the time of one request, by chance


def choose_rows(data: Texts, texts: int, batch: int) -> list[Row]:
    """Return the rows of whole requests of `batch` texts: `texts` rows, rounded up to whole requests.

    The order is random with a fixed seed, so that requests of every size have the same texts. Rows are repeated where
    the data has fewer rows than the requests need.
    """
    order = np.random.default_rng(0).permutation(len(data))
    requests = -(-min(texts, len(data)) // batch)
    return [data.rows[i] for i in np.resize(order, requests * batch)]


def make_requests(
    rows: Sequence[Row], lengths: Sequence[int], batch: int, grouping: Grouping, rules: Rules
) -> list[list[list[Row]]]:
    """Return requests of `batch` texts, each split into batches of the model.

    Args:
        rows: Texts, a whole number of requests.
        lengths: Length of each row in tokens.
        batch: Texts of one request.
        grouping: How a request is split.
        rules: Limits of the service's scheduler.
    """
    requests = [range(at, at + batch) for at in range(0, len(rows) - batch + 1, batch)]
    split = [
        [list(request)] if grouping == "as received" else _by_length(request, lengths, rules) for request in requests
    ]
    return [[[rows[i] for i in indices] for indices in request] for request in split]


def distinct(requests: Sequence[object]) -> int:
    """Return the number of different requests: equal ones give no further information on a percentile."""
    return len({repr(request) for request in requests})


def resolved(percent: float, requests: int) -> bool:
    """Return whether so many distinct requests determine a percentile: at least BEYOND of them lie beyond it."""
    return percent == 50 or min(percent, 100 - percent) / 100 * requests >= BEYOND - 1e-9


class _Model:
    """The scheduler's view of a model whose answers do not depend on the batch."""

    serial, single_row_only = 0, False


def _by_length(request: Sequence[int], lengths: Sequence[int], rules: Rules) -> list[list[int]]:
    """Return the batches (positions of rows) that the service's scheduler forms of one request."""
    batches = plan_batches(_Model(), [lengths[i] for i in request], rules)
    return [[request[i] for i in batch] for batch in batches]
