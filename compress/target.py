"""meet(): a target → the best architecture that reaches it, measured; the budget is corrected until it does."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from compress.budget import BudgetTable
from compress.clock import Measured
from compress.search import Frontier, Plan, choose
from models.architecture import Architecture
from models.errors import TargetError
from models.record import Record

CORRECTIONS = 10


class Target(Record):
    """What is asked for: one of a speed-up over the unpruned model in fp32, milliseconds a text, or megabytes."""

    kind: Literal["speedup", "latency_ms", "size_mb"]
    value: float

    def reached(self, found: Measured) -> float:
        """Return how much of the target is reached: 1.0 is all of it, more is faster or smaller than asked."""
        match self.kind:
            case "speedup":
                return found.speedup / self.value
            case "latency_ms":
                return self.value / found.ours_ms
            case "size_mb":
                return self.value * 1e6 / found.bytes

    def budget(self, reference_ms: float) -> float:
        """Return what the target allows, in the unit of the table: seconds a text, or bytes."""
        match self.kind:
            case "speedup":
                return reference_ms / 1e3 / self.value
            case "latency_ms":
                return self.value / 1e3
            case "size_mb":
                return self.value * 1e6

    def told(self, found: Measured | None = None) -> str:
        """Return the target, or what was found of it, for people."""
        value = self.value if found is None else self.value * self.reached(found)
        match self.kind:
            case "speedup":
                return f"{value:.3g}x"
            case "latency_ms":
                return f"{value if found is None else found.ours_ms:.3g} ms"
            case "size_mb":
                return f"{value if found is None else found.bytes / 1e6:.3g} MB"


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched: the full shape, and the frontier of what can be made of it."""

    full: Architecture
    frontier: Frontier
    table: BudgetTable


def meet(
    target: Target, space: Space, reference_ms: float, measure: Callable[[Plan], Measured], tolerance: float
) -> tuple[Plan, Measured]:
    """Return the plan whose measured figure is the target's, within the share `tolerance`.

    The full architecture may be faster or smaller than asked: then nothing need be cut.

    The table predicts, the measurement decides: the budget is multiplied by the miss, and halved between the nearest
    misses on both sides when that leaves their bracket.

    Raises:
        TargetError: no architecture is near enough; says what the nearest are.
    """
    budget, low, high = target.budget(reference_ms), 0.0, float("inf")
    tried: dict[Plan, Measured] = {}
    for _ in range(CORRECTIONS):
        plan = choose(space.full, space.frontier, space.table, budget)
        if plan is None:  # not even an encoder without sublayers
            low, reached = max(low, budget), float("inf")
        else:
            if plan not in tried:
                tried[plan] = measure(plan)
                sys.stderr.write(f"prunella: {plan.summary()}: {target.told(tried[plan])} of {target.told()}\n")
            reached = target.reached(tried[plan])
            if abs(reached - 1) <= tolerance / 2 or (reached > 1 and plan.architecture == space.full):
                return plan, _checked(target, plan, tried[plan])  # half: the next measurement differs a little
            low, high = (budget, high) if reached > 1 else (low, min(high, budget))
        wanted = budget * min(reached, 2.0)
        inside = low < wanted < high
        budget = wanted if inside else (low + high) / 2
    nearest = sorted(tried.items(), key=lambda item: abs(target.reached(item[1]) - 1))[:3]
    if nearest and abs(target.reached(nearest[0][1]) - 1) <= tolerance:
        return nearest[0][0], _checked(target, *nearest[0])
    told = "; ".join(f"{target.told(found)} ({plan.summary()})" for plan, found in nearest) or "none"
    raise TargetError(
        f"no shape is within {tolerance:.0%} of {target.told()}: the nearest measured are {told}; "
        "ask for one of these, or allow a larger --tolerance"
    )


def _checked(target: Target, plan: Plan, found: Measured) -> Measured:
    if found.speedup <= 1:
        raise TargetError(
            f"{plan.summary()} meets {target.told()} and is slower than the model it replaces: ask for more speed"
        )
    return found
