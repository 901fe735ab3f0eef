"""make_requests(): rows → the requests that every engine answers, each split into runs of the model.

A request of several texts is answered in two forms, by every engine: in one padded run, in the order in which they
came, and in runs of texts of like length, as the service's scheduler makes them. Runs are made once, for all engines.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from models.data.texts import Texts
from models.tokens import Row
from service.scheduler import Job, Rules, Scheduler

Grouping = Literal["by length", "as received"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
BEYOND = 3  # requests that must be slower (or faster) than a percentile: else it is one request's time by chance


def choose_rows(data: Texts, texts: int, batch: int) -> list[Row]:
    """Return the rows of whole requests of `batch` texts, `texts` or a few more: seeded, the same for every batch.

    Rows come again where the data has fewer than a whole number of requests takes.
    """
    order = np.random.default_rng(0).permutation(len(data))
    requests = -(-min(texts, len(data)) // batch)
    return [data.rows[i] for i in np.resize(order, requests * batch)]


def make_requests(
    rows: Sequence[Row], lengths: Sequence[int], batch: int, grouping: Grouping, rules: Rules
) -> list[list[list[Row]]]:
    """Return requests of `batch` texts, each a list of runs.

    Args:
        rows: a whole number of requests.
        lengths: in tokens, of each row.
        batch: texts of a request.
        grouping: how a request is split.
        rules: of the service's scheduler.
    """
    requests = [range(at, at + batch) for at in range(0, len(rows) - batch + 1, batch)]
    split = [
        [list(request)] if grouping == "as received" else _by_length(request, lengths, rules) for request in requests
    ]
    return [[[rows[i] for i in run] for run in runs] for runs in split]


def distinct(requests: Sequence[object]) -> int:
    """Return how many of the requests differ: of equal ones, a percentile learns nothing new."""
    return len({repr(request) for request in requests})


def resolved(percent: float, requests: int) -> bool:
    """Whether so many distinct requests tell a percentile: BEYOND of them are on its further side."""
    return percent == 50 or min(percent, 100 - percent) / 100 * requests >= BEYOND - 1e-9


class _Model:
    """What the scheduler must know of a model whose answers do not depend on batch mates."""

    serial, alone = 0, False


def _by_length(request: Sequence[int], lengths: Sequence[int], rules: Rules) -> list[list[int]]:
    """Return the positions in the runs of the model in which the service answers them, by its own scheduler."""
    scheduler = Scheduler(rules)
    model = _Model()
    scheduler.add([Job(model, i, lengths[i], 0.0, 0.0, math.inf, lambda: False) for i in request])
    runs = []
    while scheduler.waiting:
        runs.append([int(job.work) for job in scheduler.take(0, 0.0).batch])
    return runs
