"""analyse(): everything that is known of a model before a target is: its ladders, what each rung costs, and int8.

Made once a model and a set of texts; every speed-up and every size reads it.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from compress.budget import widths
from compress.costs import Costs, measure_costs
from compress.importance import fisher, fisher_order
from compress.ladder import Ladder, Rung, Units, build_ladder, removal_order
from compress.rounding import Rounding, measure_rounding
from compress.statistics import Grams, collect_grams, output_bias, output_matrix, sublayer_names
from models.classifier import Classifier, TensorBatch
from models.record import Record
from models.task import Kind, Task
from models.tokens import TokenBatch

LADDERS, COSTS = "ladders.safetensors", "costs.json"
Order = Literal["obs", "fisher", "random"]


class AnalysisConfig(Record):
    """How much is measured, and how units are ordered."""

    texts: int = Field(1024, ge=16, description="texts whose activations correct what stays")
    cost_texts: int = Field(128, ge=8, description="texts on which the cost of each width is measured")
    order: Order = Field("obs", description="by which heads and neurons go; fisher and random are to compare with")
    correct: bool = Field(True, description="whether what stays makes up for what goes, by least squares")


@dataclass(frozen=True, slots=True)
class Analysis:
    """Ladders, the costs of their rungs, and that of int8, by sublayer."""

    ladders: dict[str, Ladder]
    costs: Costs
    rounding: Rounding

    @classmethod
    def open(cls, folder: Path) -> "Analysis":
        """Open what `analyse` wrote."""
        told = json.loads((folder / COSTS).read_text(encoding="utf-8"))
        tensors = load_file(folder / LADDERS)
        ladders: dict[str, Ladder] = {name: {} for name in told["costs"]}
        for name, errors in told["errors"].items():
            for width, error in errors.items():
                kept, weight, bias = (tensors[f"{name}/{width}/{part}"] for part in ("kept", "weight", "bias"))
                ladders[name][int(width)] = Rung(kept.numpy(), weight, bias, error)
        costs = {name: {int(w): cost for w, cost in found.items()} for name, found in told["costs"].items()}
        return cls(ladders, costs, told["rounding"])

    def save(self, folder: Path) -> None:
        """Write into `folder`."""
        tensors: dict[str, torch.Tensor] = {}
        for name, ladder in self.ladders.items():
            for width, rung in ladder.items():
                parts = {"kept": torch.from_numpy(rung.kept), "weight": rung.weight, "bias": rung.bias}
                tensors |= {f"{name}/{width}/{part}": tensor.contiguous() for part, tensor in parts.items()}
        save_file(tensors, folder / LADDERS)
        errors = {name: {str(w): r.error for w, r in ladder.items()} for name, ladder in self.ladders.items()}
        told = {"costs": self.costs, "errors": errors, "rounding": self.rounding}
        (folder / COSTS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def analyse(
    model: Classifier, fitted: Sequence[TokenBatch], judged: Sequence[TokenBatch], config: AnalysisConfig, task: Task
) -> Analysis:
    """Return ladders and costs.

    Args:
        model: the full model.
        fitted: texts whose activations correct what stays.
        judged: texts on which costs are measured; others than `fitted`, or the corrections flatter.
        config: how.
        task: what the logits mean.
    """
    batches = [TensorBatch(batch) for batch in fitted]
    grams = collect_grams(model, batches)
    orders = _orders(model, batches, grams, config.order, task.kind)
    heads, neurons = widths(model.architecture)
    ladders = {}
    for name in tqdm(orders, desc="correct each width", unit="sublayer", file=sys.stderr):
        matrix = output_matrix(model, name)
        assert matrix is not None
        units = len(orders[name])
        wanted = [w for w in (heads if name.endswith("attention") else neurons) if w < units] + [units]
        full = torch.cat([matrix.weight.detach(), output_bias(matrix)[:, None]], dim=1)
        ladders[name] = build_ladder(full, grams[name], orders[name], wanted, config.correct)
    costs = measure_costs(model, ladders, [TensorBatch(batch) for batch in judged], task.kind)
    return Analysis(ladders, costs, measure_rounding(model, fitted, judged, task))


def _orders(
    model: Classifier, batches: Sequence[TensorBatch], grams: Grams, order: Order, kind: Kind
) -> dict[str, Units]:
    """Return the order of removal of each sublayer that is not dropped already."""
    shape = model.architecture
    names = [name for name in sublayer_names(len(shape.layers)) if output_matrix(model, name) is not None]
    if order == "fisher":
        information = fisher(model, batches, kind)
        return {name: fisher_order(information[name]) for name in names}
    orders = {}
    generator = np.random.default_rng(0)
    for name in tqdm(names, desc="which units go first", unit="sublayer", file=sys.stderr):
        matrix = output_matrix(model, name)
        assert matrix is not None
        size = shape.head_size if name.endswith("attention") else 1
        if order == "random":
            orders[name] = generator.permutation(matrix.in_features // size)
        else:
            orders[name] = removal_order(matrix.weight.detach(), grams[name], size)
    return orders
