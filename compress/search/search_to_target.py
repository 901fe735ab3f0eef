"""search_to_target(): find the best architecture whose measured speed or size is that of the target.

The cost table predicts, each choice is measured, and the budget is corrected until the measurement agrees with the
target. A plan that is chosen because its measurement is near the target is partly chosen for its measurement error:
that measurement is biased (winner's curse; the bias grows with the number of plans that were tried). Therefore each
choice is confirmed by a second measurement, in other processes and on other texts. If the second one misses the
target, the search continues with both measurements combined.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from compress.search.cost_table import CostTable
from compress.search.knapsack import Frontier, Plan, choose
from compress.search.latency_meter import Measured, Purpose, Sized
from models.architecture import Architecture
from models.errors import TargetError
from models.messages import say
from models.schema import Record

CORRECTIONS = 12
STEP = 1.01  # least factor by which the budget grows while every plan is faster or smaller than the target
NEAREST = 3  # plans that are confirmed, or named in the error, if none is within half of the tolerance
Measure = Callable[[Plan, Purpose], Sized]


class Target(Record):
    """A speed-up over the unpruned fp32 model, a latency in milliseconds per text, or a size in megabytes."""

    kind: Literal["speedup", "latency_ms", "size_mb"]
    value: float

    @property
    def timed(self) -> bool:
        """Whether the target is a speed."""
        return self.kind != "size_mb"

    def reached(self, measured: Sized) -> float:
        """Return the share of the target that is reached: 1.0 is exact, more is faster or smaller than the target."""
        if self.kind == "size_mb":
            return self.value * 1e6 / measured.bytes
        assert isinstance(measured, Measured), "a target of speed needs a measurement of speed"
        return measured.speedup / self.value if self.kind == "speedup" else self.value / measured.ours_ms

    def budget(self, reference_ms: float) -> float:
        """Return the target in the unit of the cost table: seconds per text, or bytes."""
        match self.kind:
            case "speedup":
                return reference_ms / 1e3 / self.value
            case "latency_ms":
                return self.value / 1e3
            case "size_mb":
                return self.value * 1e6

    def describe(self, measured: Sized | None = None) -> str:
        """Return the target, or a measurement in the target's unit, for people."""
        share = 1.0 if measured is None else self.reached(measured)
        match self.kind:
            case "speedup":
                return f"{self.value * share:.3g}x"
            case "latency_ms":
                return f"{self.value / share:.3g} ms"
            case "size_mb":
                return f"{self.value / share:.3g} MB"

    def is_met(self, measured: Sized, tolerance: float, is_cut: bool) -> bool:
        """Return whether a measurement is within the tolerance; an unpruned model may also exceed the target."""
        reached = self.reached(measured)
        return 1 - tolerance <= reached and (reached <= 1 + tolerance or not is_cut)

    def miss(self, measured: Sized, tolerance: float) -> str:
        """Return the message for a measurement that misses the target."""
        reached = self.reached(measured)
        difference = abs((reached if self.kind == "speedup" else 1 / reached) - 1)
        slow, fast = ("slower", "faster") if self.timed else ("larger", "smaller")
        message = f"the target was missed: measured {self.describe(measured)}"
        if isinstance(measured, Measured) and measured.interval and self.kind == "speedup":
            message += " (95 % interval {:.2f}x to {:.2f}x)".format(*measured.interval)
        verdict = f"{difference:.0%} {fast if reached > 1 else slow}"
        return f"{message}, target {self.describe()} (±{tolerance:.0%}): {verdict} than the target"


@dataclass(frozen=True, slots=True)
class Space:
    """The search space: the full architecture, and the frontier of its plans by a cost table."""

    full: Architecture
    frontier: Frontier
    table: CostTable


def search_to_target(
    target: Target, space: Space, reference_ms: float, measure: Measure, tolerance: float
) -> tuple[Plan, Sized]:
    """Return the plan whose measurement is within `tolerance` of the target, and the measurement.

    If the full architecture in int8 is faster or smaller than the target, it is returned and nothing is pruned.

    The budget is multiplied by the relative miss. If the result is outside the bracket of the nearest misses on both
    sides, the middle of the bracket is taken instead. A plan is accepted if its measurement is within half of the
    tolerance, and still is when combined with its confirmation: another measurement then differs by less than the
    tolerance.

    Args:
        target: speed-up, latency or size.
        space: the plans that can be chosen.
        reference_ms: milliseconds per text of the unpruned model.
        measure: returns a new measurement of a plan for a purpose.
        tolerance: share by which the measurement may miss the target.

    Raises:
        TargetError: no architecture is near enough; the message names the nearest.
    """
    search = _Search(target, space, measure)
    budget = target.budget(reference_ms)
    for _ in range(CORRECTIONS):
        plan = search.plan_at(budget)
        if plan is not None and search.is_confirmed(plan, tolerance / 2):
            return plan, search.measured[plan]
        budget = search.next_budget()
    for plan in search.nearest():
        if search.is_confirmed(plan, tolerance):
            return plan, search.measured[plan]
    measured = [f"{target.describe(search.measured[plan])} ({plan.summary()})" for plan in search.nearest()]
    raise TargetError(
        f"no shape is within {tolerance:.0%} of {target.describe()}: the nearest measured are "
        f"{'; '.join(measured) or 'none'}; ask for one of these, or allow a larger --tolerance"
    )


class _Search:
    """The plans that were tried, each with all its measurements combined."""

    def __init__(self, target: Target, space: Space, measure: Measure) -> None:
        self._target, self._space, self._measure = target, space, measure
        self._steps: list[tuple[float, Plan | None]] = []  # budgets, and the plan chosen for each
        self._confirmed: set[Plan] = set()
        self.measured: dict[Plan, Sized] = {}

    def plan_at(self, budget: float) -> Plan | None:
        """Return the best plan within the budget, measured; None if even an encoder without sublayers is over it."""
        plan = choose(self._space.full, self._space.frontier, self._space.table, budget)
        self._steps.append((budget, plan))
        if plan is not None and plan not in self.measured:
            self.measured[plan] = self._measure(plan, "search")
            self._say(plan, "")
        return plan

    def is_confirmed(self, plan: Plan, tolerance: float) -> bool:
        """Return whether a plan is within the tolerance by all its measurements, including an independent one."""
        if not self._is_met(plan, tolerance):
            return False
        if self._target.timed and plan not in self._confirmed:
            self._confirmed.add(plan)
            first, second = self.measured[plan], self._measure(plan, "confirmation")
            assert isinstance(first, Measured)
            assert isinstance(second, Measured)
            self.measured[plan] = first.pooled(second)
            self._say(plan, ", confirmed in other processes and on other texts")
        return self._is_met(plan, tolerance)

    def next_budget(self) -> float:
        """Return the next budget: the last one corrected by its miss, between the nearest misses on both sides."""
        budget, plan = self._steps[-1]
        corrected = budget * min(self._reached(plan), 2.0)
        low = max((b for b, p in self._steps if self._reached(p) > 1), default=0.0)
        high = min((b for b, p in self._steps if self._reached(p) <= 1), default=float("inf"))
        if high == float("inf"):
            return max(corrected, low * STEP)
        return corrected if low < corrected < high else (low + high) / 2

    def nearest(self) -> list[Plan]:
        """Return the plans whose measurements are nearest to the target."""
        return sorted(self.measured, key=lambda plan: abs(self._reached(plan) - 1))[:NEAREST]

    def _reached(self, plan: Plan | None) -> float:
        return float("inf") if plan is None else self._target.reached(self.measured[plan])

    def _is_met(self, plan: Plan, tolerance: float) -> bool:
        return self._target.is_met(self.measured[plan], tolerance, plan.architecture != self._space.full)

    def _say(self, plan: Plan, detail: str) -> None:
        measured = f"measured {self._target.describe(self.measured[plan])}, target {self._target.describe()}"
        say(f"{plan.summary()}: {measured}{detail}")
