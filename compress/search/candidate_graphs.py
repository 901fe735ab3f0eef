"""PlanGraphs: write the plans of a search as ONNX files in the form that is served, and measure them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.search.knapsack import Plan
from compress.search.latency_meter import LatencyMeter, Purpose, Sized, write_served
from export.graph_precision import Precision
from models.architecture import Architecture
from models.classifier import Classifier
from models.tokenizer import TokenBatch


@dataclass(frozen=True, slots=True)
class PlanGraphs:
    """ONNX files of plans in the folder `scratch`, each written once."""

    build: Callable[[Architecture], Classifier]  # returns a pruned model of this architecture, without refit
    pair: bool  # whether rows are two texts
    samples: Sequence[TokenBatch]  # calibrate int8
    tokenizer_bytes: int
    scratch: Path
    meter: LatencyMeter | None  # None: the target is a size
    _written: dict[Plan, tuple[Path, Precision]] = field(default_factory=dict)

    def size(self, plan: Plan) -> int:
        """Return the bytes of the graph and the tokenizer."""
        return self._write(plan)[0].stat().st_size + self.tokenizer_bytes

    def measure(self, plan: Plan, purpose: Purpose) -> Sized:
        """Return the size of a plan, and a new measurement of its speed unless the target is a size."""
        size = self.size(plan)
        if self.meter is None:
            return Sized(bytes=size)
        return self.meter.time(self._write(plan)[0], size, purpose)

    def served(self, plan: Plan) -> Plan:
        """Return the plan with the names of the inputs that its graph smooths: the bundle must smooth the same."""
        return replace(plan, precision=self._write(plan)[1])

    def _write(self, plan: Plan) -> tuple[Path, Precision]:
        if plan not in self._written:
            path = self.scratch / f"{len(self._written)}.onnx"
            model = self.build(plan.architecture)
            self._written[plan] = path, write_served(model, path, self.pair, self.samples, plan.precision)
        return self._written[plan]
