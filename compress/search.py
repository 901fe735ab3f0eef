"""choose(): importance + latency table + budget → Architecture. Exact: a dynamic programme over time buckets.

One option a sublayer: the width that stays. Its cost is the measured cost of removing the whole sublayer, times the
share of its Fisher information that goes. Time is rounded up, so that the budget holds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.importance import Importance
from compress.latency import LatencyTable
from models.architecture import Architecture
from models.errors import TargetError

BUCKETS = 4000


@dataclass(frozen=True, slots=True)
class Option:
    """One width of one sublayer: what stays, what it costs in loss, and its seconds."""

    width: int
    cost: float
    seconds: float


def options(shape: Architecture, importance: Importance, table: LatencyTable) -> list[list[Option]]:
    """Return the options of each sublayer, in the order attention 0, ffn 0, attention 1 and so on."""
    found = []
    for index in range(len(shape.layers)):
        ffn_times = table.last_ffn if index == len(shape.layers) - 1 else table.ffn
        heads, neurons = importance.heads[index], importance.neurons[index]
        found.append(_sublayer(heads, float(importance.without_attention[index]), table.attention))
        found.append(_sublayer(neurons, float(importance.without_ffn[index]), ffn_times))
    return found


def choose(shape: Architecture, importance: Importance, table: LatencyTable, budget_seconds: float) -> Architecture:
    """Return the architecture of least cost whose predicted time is within the budget.

    Raises:
        TargetError: even an encoder without any sublayer is slower than the budget.
    """
    widths = solve(options(shape, importance, table), budget_seconds - table.fixed)
    if widths is None:
        raise TargetError(
            f"{budget_seconds * 1e3:.2f} ms cannot be reached: without any sublayer left it takes "
            f"{table.fixed * 1e3:.2f} ms; ask for a smaller speed-up"
        )
    return shape.with_layers(list(zip(widths[::2], widths[1::2], strict=True)))


def solve(sublayers: list[list[Option]], seconds: float) -> list[int] | None:
    """Return one width a sublayer with the least total cost in `seconds`, or None when nothing fits."""
    if seconds < 0:
        return None
    bucket = max(seconds, 1e-12) / BUCKETS
    best = np.full(BUCKETS + 1, np.inf)
    best[0] = 0.0
    picks = []
    for choices in sublayers:
        cost = np.full((len(choices), BUCKETS + 1), np.inf)
        for row, option in enumerate(choices):
            shift = int(np.ceil(option.seconds / bucket - 1e-9))
            if shift <= BUCKETS:
                cost[row, shift:] = best[: BUCKETS + 1 - shift] + option.cost
        picks.append(cost.argmin(axis=0))
        best = cost.min(axis=0)
    place = int(best.argmin())
    if not np.isfinite(best[place]):
        return None
    chosen: list[int] = []
    for choices, pick in zip(reversed(sublayers), reversed(picks), strict=True):
        option = choices[pick[place]]
        chosen.append(option.width)
        place -= int(np.ceil(option.seconds / bucket - 1e-9))
    return chosen[::-1]


def _sublayer(units: NDArray[np.float64], removal: float, times: dict[int, float]) -> list[Option]:
    lost = np.concatenate([[0.0], np.cumsum(np.sort(units))])  # lost[k]: the k least important are gone
    total = max(lost[-1], 1e-30)
    return [
        Option(width, removal * float(lost[len(units) - width] / total), seconds)
        for width, seconds in sorted(times.items())
        if width <= len(units)
    ]
