"""Frontier: the plan of least quality loss for every budget, solved exactly as a multiple-choice knapsack.

For each sublayer one option is chosen: its width, in int8 or fp32. Dynamic programming (Frantar and Alistarh 2022,
"SPDY") computes the least total cost for every total amount of seconds or bytes once; a budget is then a look-up.
Amounts are rounded up to whole buckets, so that the budget is never exceeded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.pruning.quality_loss import Costs
from compress.quantization.int8_loss import Int8Loss
from compress.search.cost_table import CostTable
from export.graph_precision import KINDS, Kind, LayerPrecision, Precision
from models.architecture import Architecture
from models.sublayer import SublayerId

BUCKETS = 8000
DROPPED = {0: 0.0}  # costs of a sublayer that the full model does not have
NEGLIGIBLE = 0.01  # share of the mean cost of dropping a sublayer: an int8 loss below it counts as 0
FREE = 1e-12  # cost of a pruned width that was measured as 0: of two plans without a loss the full model is chosen


@dataclass(frozen=True, slots=True)
class Option:
    """One choice for one sublayer."""

    width: int  # heads or neurons kept
    kind: Kind  # precision
    cost: float  # quality loss
    amount: float  # seconds or bytes


class Frontier:
    """The least total cost for each budget up to `most`; `sublayers` has the options of each sublayer."""

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
        """Return one option for each sublayer, of least total cost within `budget`; None if nothing fits."""
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
        """Return the least total cost within `budget`; infinity if nothing fits."""
        options = self.at(budget)
        return float("inf") if options is None else sum(option.cost for option in options)

    def _buckets(self, option: Option) -> int:
        return int(np.ceil(option.amount / self._bucket - 1e-9))


def make_frontier(
    shape: Architecture, costs: Costs, int8_loss: Int8Loss, table: CostTable, kinds: tuple[Kind, ...] = KINDS
) -> Frontier:
    """Return the frontier of all plans for `shape`: every sublayer at every width, in each precision of `kinds`.

    An infinite `int8_loss` excludes int8 for a sublayer. A negligible one counts as 0: of options with equal cost the
    fastest is chosen, so no time is spent on fp32 to avoid an error that has no visible effect.
    """
    negligible = NEGLIGIBLE * sum(by_width[min(by_width)] for by_width in costs.values()) / max(len(costs), 1)
    layers, sublayers = len(shape.layers), []
    for name in SublayerId.keys(layers):
        loss = int8_loss.get(name, 0.0)
        extra: dict[Kind, float] = {"int8": loss if loss > negligible else 0.0, "fp32": 0.0}
        by_width = costs.get(name, DROPPED)
        least = {width: 0.0 if width == max(by_width) else FREE for width in by_width}
        sublayers.append([
            Option(
                width, kind, max(cost, least[width]) + (extra[kind] if width else 0.0),
                table.amounts(name, layers, kind)[width],
            )
            for kind in kinds for width, cost in sorted(by_width.items()) if width or kind == kinds[0]
        ])  # fmt: skip
    margin = 1 + len(sublayers) / BUCKETS  # the full model must fit after each amount is rounded up
    most = sum(max(option.amount for option in choices) for choices in sublayers)
    return Frontier(sublayers, most * margin)


@dataclass(frozen=True, slots=True)
class Plan:
    """A choice of width and precision for each sublayer."""

    architecture: Architecture
    precision: Precision

    def summary(self) -> str:
        """Return a description for people."""
        sublayers = SublayerId.all_of(len(self.precision.layers))
        fp32 = [sublayer.key for sublayer in sublayers if self.precision.of(sublayer) == "fp32"]
        table = ", token table in 4 bits" if self.precision.embedding_bits == 4 else ""
        return self.architecture.summary() + (f", in fp32: {' '.join(fp32)}" if fp32 else "") + table


def choose(shape: Architecture, frontier: Frontier, table: CostTable, budget: float) -> Plan | None:
    """Return the plan of least cost whose amount by the table is within the budget; None if there is none."""
    options = frontier.at(budget - table.fixed)
    if options is None:
        return None
    pairs = list(zip(options[::2], options[1::2], strict=True))
    layers = tuple(LayerPrecision(attention=heads.kind, ffn=ffn.kind) for heads, ffn in pairs)
    precision = Precision(layers=layers, embedding_bits=table.embedding_bits)
    return Plan(shape.with_layers([(heads.width, ffn.width) for heads, ffn in pairs]), precision)
