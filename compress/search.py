"""Frontier: costs + a budget table → the best plan for every budget. Exact: a dynamic programme.

One option a sublayer: the width that stays, in int8 or fp32. The cheapest sum of costs for each amount is found
once (a knapsack; Frantar and Alistarh 2022, "SPDY"); each budget, of seconds or of bytes, only reads it. Amounts are
rounded up to a bucket, so that the budget holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.budget import BudgetTable
from compress.costs import Costs
from compress.rounding import Rounding
from compress.statistics import sublayer_names
from export.precision import KINDS, Kind, LayerPrecision, Precision
from models.architecture import Architecture

BUCKETS = 8000
GONE = {0: 0.0}  # the costs of a sublayer that was dropped before
NEGLIGIBLE = 0.01  # of what a sublayer is worth on average: rounding that costs less is free


@dataclass(frozen=True, slots=True)
class Option:
    """One form of one sublayer: what stays, how it is computed, its cost in answers, and what it takes."""

    width: int
    kind: Kind
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

    def cost(self, budget: float) -> float:
        """Return the least total cost within `budget`; infinity when nothing fits."""
        found = self.at(budget)
        return float("inf") if found is None else sum(option.cost for option in found)

    def _buckets(self, option: Option) -> int:
        return int(np.ceil(option.amount / self._bucket - 1e-9))


def make_frontier(
    shape: Architecture, costs: Costs, rounding: Rounding, table: BudgetTable, kinds: tuple[Kind, ...] = KINDS
) -> Frontier:
    """Return the frontier of what can be made of `shape`: every width in int8 and in fp32, or in one of `kinds`.

    A sublayer whose rounding costs infinitely much is offered in fp32 only.
    Rounding that costs next to nothing beside what sublayers are worth counts as nothing: of what costs the same,
    the fastest is taken, and no time is spent on fp32 for an error nobody will see.
    """
    negligible = NEGLIGIBLE * sum(found[min(found)] for found in costs.values()) / max(len(costs), 1)
    layers, sublayers = len(shape.layers), []
    for name in sublayer_names(layers):
        rounded = rounding.get(name, 0.0)
        harm: dict[Kind, float] = {"int8": rounded if rounded > negligible else 0.0, "fp32": 0.0}
        sublayers.append([
            Option(width, kind, cost + (harm[kind] if width else 0.0), table.amounts(name, layers, kind)[width])
            for kind in kinds for width, cost in sorted(costs.get(name, GONE).items()) if width or kind == kinds[0]
        ])  # fmt: skip
    room = 1 + len(sublayers) / BUCKETS  # so that the full shape fits though each amount is rounded up
    most = sum(max(option.amount for option in choices) for choices in sublayers)
    return Frontier(sublayers, most * room)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the search chose: how wide each sublayer is, and how it is computed."""

    architecture: Architecture
    precision: Precision

    def summary(self) -> str:
        """Describe it for people."""
        layers = enumerate(self.precision.layers)
        fp32 = [f"{index}.{part}" for index, kinds in layers for part, kind in kinds if kind == "fp32"]
        table = ", token table in 4 bits" if self.precision.embedding_bits == 4 else ""
        return self.architecture.summary() + (f", in fp32: {' '.join(fp32)}" if fp32 else "") + table


def choose(shape: Architecture, frontier: Frontier, table: BudgetTable, budget: float) -> Plan | None:
    """Return what costs least of all that the table puts within the budget, or None when nothing is."""
    found = frontier.at(budget - table.fixed)
    if found is None:
        return None
    pairs = list(zip(found[::2], found[1::2], strict=True))
    layers = tuple(LayerPrecision(attention=heads.kind, ffn=ffn.kind) for heads, ffn in pairs)
    precision = Precision(layers=layers, embedding_bits=table.embedding_bits)
    return Plan(shape.with_layers([(heads.width, ffn.width) for heads, ffn in pairs]), precision)
