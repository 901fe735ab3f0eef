"""PlanGraphs: the plans of one search as files in the form that is served; their size and speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.clock import Clock, Purpose, Sized, write_served
from compress.search import Plan
from export.precision import Precision
from models.architecture import Architecture
from models.classifier import Classifier
from models.tokens import TokenBatch


@dataclass(frozen=True, slots=True)
class PlanGraphs:
    """Graphs of plans under `scratch`."""

    build: Callable[[Architecture], Classifier]  # widths → the model, cut and not fitted
    pair: bool  # whether rows are two texts
    samples: Sequence[TokenBatch]  # that int8 is calibrated on
    more_bytes: int  # of the tokenizer, beside the graph
    scratch: Path
    clock: Clock | None  # None: only the size counts
    _written: dict[Plan, tuple[Path, Precision]] = field(default_factory=dict)

    def size(self, plan: Plan) -> int:
        """Return the bytes of the graph and the tokenizer."""
        return self._write(plan)[0].stat().st_size + self.more_bytes

    def measure(self, plan: Plan, purpose: Purpose) -> Sized:
        """Return the size of a plan, and its speed where that counts, measured anew."""
        size = self.size(plan)
        if self.clock is None:
            return Sized(bytes=size)
        return self.clock.time(self._write(plan)[0], size, purpose)

    def served(self, plan: Plan) -> Plan:
        """Return the plan with the inputs that were smoothed when it was measured: the bundle smooths the same."""
        return replace(plan, precision=self._write(plan)[1])

    def _write(self, plan: Plan) -> tuple[Path, Precision]:
        if plan not in self._written:
            path = self.scratch / f"{len(self._written)}.onnx"
            model = self.build(plan.architecture)
            self._written[plan] = path, write_served(model, path, self.pair, self.samples, plan.precision)
        return self._written[plan]
