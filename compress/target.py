"""meet(): a target → the best architecture that reaches it, measured; the budget is corrected until it does.

A shape that is chosen because its measurement was near the target is chosen for its error, too: the measurement that
chose it says more than is true (the winner's curse; the farther, the more shapes were tried). So each choice is
confirmed by a second measurement, in other processes and on other texts, before it is taken. Where that misses, the
search goes on with what both measurements say together.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from compress.budget import BudgetTable
from compress.clock import Measured, Purpose, Sized
from compress.search import Frontier, Plan, choose
from models.architecture import Architecture
from models.errors import TargetError
from models.record import Record

CORRECTIONS = 12
STEP = 1.01  # by which the budget grows at least, while every plan is faster than asked
NEAREST = 3  # shapes that are confirmed, or named, where none is at the middle of the tolerance
Measure = Callable[[Plan, Purpose], Sized]


class Target(Record):
    """What is asked for: one of a speed-up over the unpruned model in fp32, milliseconds a text, or megabytes."""

    kind: Literal["speedup", "latency_ms", "size_mb"]
    value: float

    @property
    def timed(self) -> bool:
        """Whether time decides."""
        return self.kind != "size_mb"

    def reached(self, found: Sized) -> float:
        """Return how much of the target is reached: 1.0 is all of it, more is faster or smaller than asked."""
        if self.kind == "size_mb":
            return self.value * 1e6 / found.bytes
        assert isinstance(found, Measured), "a target of speed needs a measurement of it"
        return found.speedup / self.value if self.kind == "speedup" else self.value / found.ours_ms

    def budget(self, reference_ms: float) -> float:
        """Return what the target allows, in the unit of the table: seconds a text, or bytes."""
        match self.kind:
            case "speedup":
                return reference_ms / 1e3 / self.value
            case "latency_ms":
                return self.value / 1e3
            case "size_mb":
                return self.value * 1e6

    def told(self, found: Sized | None = None) -> str:
        """Return the target, or what was found of it, for people."""
        share = 1.0 if found is None else self.reached(found)
        match self.kind:
            case "speedup":
                return f"{self.value * share:.3g}x"
            case "latency_ms":
                return f"{self.value / share:.3g} ms"
            case "size_mb":
                return f"{self.value / share:.3g} MB"

    def is_met(self, found: Sized, tolerance: float, is_cut: bool) -> bool:
        """Return whether a figure is within the share `tolerance`; a model that is not cut may exceed the target."""
        reached = self.reached(found)
        return 1 - tolerance <= reached and (reached <= 1 + tolerance or not is_cut)

    def miss(self, found: Sized, tolerance: float) -> str:
        """Return the sentence that says by how much a figure misses the target."""
        reached = self.reached(found)
        far = abs((reached if self.kind == "speedup" else 1 / reached) - 1)
        slow, fast = ("slower", "faster") if self.timed else ("larger", "smaller")
        asked = f"{self.told()} within {tolerance:.0%} was asked for"
        message = f"the target was missed: {asked}, measured is {self.told(found)}"
        if isinstance(found, Measured) and found.interval and self.kind == "speedup":
            message += " (95 % interval {:.2f}x to {:.2f}x)".format(*found.interval)
        return f"{message}, {far:.0%} {fast if reached > 1 else slow} than asked"


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched: the full shape, and the frontier of what can be made of it."""

    full: Architecture
    frontier: Frontier
    table: BudgetTable


def meet(target: Target, space: Space, reference_ms: float, measure: Measure, tolerance: float) -> tuple[Plan, Sized]:
    """Return the plan whose measured figure is the target's, within the share `tolerance`, and the figure.

    The full architecture may be faster or smaller than asked: then nothing need be cut.

    The table predicts, the measurement decides: the budget is multiplied by the miss, and halved between the nearest
    misses on both sides when that leaves their bracket. A plan is taken when its measurement is within half of the
    tolerance and still is with its confirmation: so another measurement differs by less than the tolerance.

    Args:
        target: what is asked for.
        space: what can be made.
        reference_ms: milliseconds a text of the unpruned model.
        measure: a plan and a purpose → its figure, measured anew.
        tolerance: share by which the figure may miss the target.

    Raises:
        TargetError: no architecture is near enough; says what the nearest are.
    """
    search = _Search(target, space, measure)
    budget = target.budget(reference_ms)
    for _ in range(CORRECTIONS):
        plan = search.plan_at(budget)
        if plan is not None and search.is_confirmed(plan, tolerance / 2):
            return plan, search.found[plan]
        budget = search.next_budget()
    nearest = search.nearest()
    for plan in nearest:
        if search.is_confirmed(plan, tolerance):
            return plan, search.found[plan]
    told = "; ".join(f"{target.told(search.found[plan])} ({plan.summary()})" for plan in search.nearest()) or "none"
    raise TargetError(
        f"no shape is within {tolerance:.0%} of {target.told()}: the nearest measured are {told}; "
        "ask for one of these, or allow a larger --tolerance"
    )


class _Search:
    """The plans that were tried, and what all measurements of each say together."""

    def __init__(self, target: Target, space: Space, measure: Measure) -> None:
        self._target, self._space, self._measure = target, space, measure
        self._steps: list[tuple[float, Plan | None]] = []  # budgets, and what was chosen for each
        self._confirmed: set[Plan] = set()
        self.found: dict[Plan, Sized] = {}

    def plan_at(self, budget: float) -> Plan | None:
        """Return the best plan within the budget, measured; None: not even an encoder without sublayers fits."""
        plan = choose(self._space.full, self._space.frontier, self._space.table, budget)
        self._steps.append((budget, plan))
        if plan is not None and plan not in self.found:
            self.found[plan] = self._measure(plan, "search")
            self._say(plan, "")
        return plan

    def is_confirmed(self, plan: Plan, tolerance: float) -> bool:
        """Return whether a plan is within the tolerance by all its measurements, one of which did not choose it."""
        if not self._is_met(plan, tolerance):
            return False
        if self._target.timed and plan not in self._confirmed:
            self._confirmed.add(plan)
            first, second = self.found[plan], self._measure(plan, "confirmation")
            assert isinstance(first, Measured)
            assert isinstance(second, Measured)
            self.found[plan] = first.pooled(second)
            self._say(plan, ", confirmed in other processes and on other texts")
        return self._is_met(plan, tolerance)

    def next_budget(self) -> float:
        """Return the budget that corrects the last step, between the nearest misses on both sides."""
        budget, plan = self._steps[-1]
        wanted = budget * min(self._reached(plan), 2.0)
        low = max((b for b, p in self._steps if self._reached(p) > 1), default=0.0)
        high = min((b for b, p in self._steps if self._reached(p) <= 1), default=float("inf"))
        if high == float("inf"):
            return max(wanted, low * STEP)
        return wanted if low < wanted < high else (low + high) / 2

    def nearest(self) -> list[Plan]:
        """Return the plans whose figures are nearest to the target."""
        return sorted(self.found, key=lambda plan: abs(self._reached(plan) - 1))[:NEAREST]

    def _reached(self, plan: Plan | None) -> float:
        return float("inf") if plan is None else self._target.reached(self.found[plan])

    def _is_met(self, plan: Plan, tolerance: float) -> bool:
        return self._target.is_met(self.found[plan], tolerance, plan.architecture != self._space.full)

    def _say(self, plan: Plan, how: str) -> None:
        told = f"{plan.summary()}: {self._target.told(self.found[plan])} of {self._target.told()}{how}"
        sys.stderr.write(f"prunella: {told}\n")
