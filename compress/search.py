"""Frontier: costs + a budget table → the best choice for every budget. Exact: a dynamic programme.

One option a sublayer: the width that stays. The cheapest sum of costs for each amount is found once
(a knapsack; Frantar and Alistarh 2022, "SPDY"); each budget, of seconds or of bytes, only reads it. Amounts are
rounded up to a bucket, so that the budget holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.budget import BudgetTable
from compress.costs import Costs
from compress.statistics import sublayer_names
from models.architecture import Architecture

BUCKETS = 8000


@dataclass(frozen=True, slots=True)
class Option:
    """One width of one sublayer: what stays, what it costs in answers, and what it takes of the budget."""

    width: int
    cost: float
    amount: float


class Frontier:
    """The least total cost for each budget up to `most`; `sublayers` holds the options of each."""

    def __init__(self, sublayers: Sequence[Sequence[Option]], most: float) -> None:
        self._sublayers, self._bucket = sublayers, max(most, 1e-12) / BUCKETS
        best = np.full(BUCKETS + 1, np.inf)
        best[0] = 0.0
        self._picks = []
        for choices in sublayers:
            cost = np.full((len(choices), BUCKETS + 1), np.inf)
            for row, option in enumerate(choices):
                shift = self._buckets(option)
                if shift <= BUCKETS:
                    cost[row, shift:] = best[: BUCKETS + 1 - shift] + option.cost
            self._picks.append(cost.argmin(axis=0))
            best = cost.min(axis=0)
        self._best = best

    def at(self, budget: float) -> list[Option] | None:
        """Return one option a sublayer with the least total cost within `budget`, or None when nothing fits."""
        within = min(int(budget / self._bucket + 1e-9), BUCKETS)
        if within < 0 or not np.isfinite(self._best[: within + 1]).any():
            return None
        place = int(self._best[: within + 1].argmin())
        chosen: list[Option] = []
        for choices, pick in zip(reversed(self._sublayers), reversed(self._picks), strict=True):
            option = choices[pick[place]]
            chosen.append(option)
            place -= self._buckets(option)
        return chosen[::-1]

    def _buckets(self, option: Option) -> int:
        return int(np.ceil(option.amount / self._bucket - 1e-9))


def make_frontier(shape: Architecture, costs: Costs, table: BudgetTable) -> Frontier:
    """Return the frontier of the architectures that can be cut out of `shape`."""
    sublayers = []
    for name in sublayer_names(len(shape.layers)):
        times = table.amounts(name, len(shape.layers))
        sublayers.append([Option(width, cost, times[width]) for width, cost in sorted(costs[name].items())])
    room = 1 + len(sublayers) / BUCKETS  # so that the full shape fits though each amount is rounded up
    return Frontier(sublayers, (table.total(shape) - table.fixed) * room)


def choose(shape: Architecture, frontier: Frontier, table: BudgetTable, budget: float) -> Architecture | None:
    """Return the architecture of least cost that the table puts within the budget, or None when none is."""
    found = frontier.at(budget - table.fixed)
    if found is None:
        return None
    chosen = [option.width for option in found]
    return shape.with_layers(list(zip(chosen[::2], chosen[1::2], strict=True)))
