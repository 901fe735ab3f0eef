"""analyse(): the measurements of a model that do not depend on a target.

They are the pruned form of each sublayer at each width, the quality loss of each width, and the quality loss of int8.
They are computed once for a model and a set of texts; every target of speed or size uses them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from compress.config import AnalysisConfig, Order
from compress.pruning.fisher import fisher, fisher_order
from compress.pruning.gram import Grams, collect_grams, output_bias, output_matrix
from compress.pruning.obs import PrunedSublayer, SublayerWidths, Units, prune_to_each_width, removal_order
from compress.pruning.quality_loss import Costs, measure_costs
from compress.pruning.widths import widths
from compress.quantization.int8_loss import Int8Loss, measure_int8_loss
from models.classifier import Classifier, TensorBatch
from models.messages import progress
from models.sublayer import SublayerId
from models.task import Kind, Task
from models.tokenizer import TokenBatch

SUBLAYERS, COSTS = "ladders.safetensors", "costs.json"


@dataclass(frozen=True, slots=True)
class Analysis:
    """For each sublayer: its pruned forms by width, their quality loss, and the quality loss of int8."""

    sublayer_widths: dict[str, SublayerWidths]
    costs: Costs
    int8_loss: Int8Loss

    @classmethod
    def open(cls, folder: Path) -> "Analysis":
        """Read the files that `save` wrote."""
        document = json.loads((folder / COSTS).read_text(encoding="utf-8"))
        tensors = load_file(folder / SUBLAYERS)
        sublayer_widths: dict[str, SublayerWidths] = {name: {} for name in document["costs"]}
        for name, errors in document["errors"].items():
            for width, error in errors.items():
                kept, weight, bias = (tensors[f"{name}/{width}/{part}"] for part in ("kept", "weight", "bias"))
                sublayer_widths[name][int(width)] = PrunedSublayer(kept.numpy(), weight, bias, error)
        costs = {name: {int(w): cost for w, cost in by_width.items()} for name, by_width in document["costs"].items()}
        return cls(sublayer_widths, costs, document["rounding"])

    def save(self, folder: Path) -> None:
        """Write the tensors and the costs into `folder`."""
        tensors: dict[str, torch.Tensor] = {}
        for name, by_width in self.sublayer_widths.items():
            for width, pruned_sublayer in by_width.items():
                parts = {
                    "kept": torch.from_numpy(pruned_sublayer.kept),
                    "weight": pruned_sublayer.weight,
                    "bias": pruned_sublayer.bias,
                }
                tensors |= {f"{name}/{width}/{part}": tensor.contiguous() for part, tensor in parts.items()}
        save_file(tensors, folder / SUBLAYERS)
        errors = {
            name: {str(w): r.error for w, r in by_width.items()} for name, by_width in self.sublayer_widths.items()
        }
        document = {"costs": self.costs, "errors": errors, "rounding": self.int8_loss}
        (folder / COSTS).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def analyse(
    model: Classifier,
    fit_batches: Sequence[TokenBatch],
    cost_batches: Sequence[TokenBatch],
    config: AnalysisConfig,
    task: Task,
) -> Analysis:
    """Return the pruned forms of each sublayer and their quality losses.

    Args:
        model: the full model.
        fit_batches: texts whose activations correct the remaining weights.
        cost_batches: texts on which losses are measured; they must differ from `fit_batches`, on which the corrected
            weights have a smaller loss than on other texts.
        config: order of removal, and whether the remaining weights are corrected.
        task: the meaning of the logits.
    """
    batches = [TensorBatch(batch) for batch in fit_batches]
    grams = collect_grams(model, batches)
    orders = _orders(model, batches, grams, config.order, task.kind)
    heads, neurons = widths(model.architecture)
    sublayer_widths = {}
    for name in progress(orders, desc="prune to each width", unit="sublayer"):
        matrix = output_matrix(model, name)
        assert matrix is not None
        units = len(orders[name])
        choices = heads if name.endswith("attention") else neurons
        steps = [w for w in choices if w < units] + [units]
        full = torch.cat([matrix.weight.detach(), output_bias(matrix)[:, None]], dim=1)
        sublayer_widths[name] = prune_to_each_width(full, grams.pop(name), orders[name], steps, config.correct)
    costs = measure_costs(model, sublayer_widths, [TensorBatch(batch) for batch in cost_batches], task.kind)
    return Analysis(sublayer_widths, costs, measure_int8_loss(model, fit_batches, cost_batches, task.kind))


def _orders(
    model: Classifier, batches: Sequence[TensorBatch], grams: Grams, order: Order, kind: Kind
) -> dict[str, Units]:
    """Return the order of removal of the units of each sublayer that the model still has."""
    shape = model.architecture
    names = [name for name in SublayerId.keys(len(shape.layers)) if output_matrix(model, name) is not None]
    if order == "fisher":
        information = fisher(model, batches, kind)
        return {name: fisher_order(information[name]) for name in names}
    orders = {}
    generator = np.random.default_rng(0)
    for name in progress(names, desc="order of removal", unit="sublayer"):
        matrix = output_matrix(model, name)
        assert matrix is not None
        size = shape.head_size if name.endswith("attention") else 1
        if order == "random":
            orders[name] = generator.permutation(matrix.in_features // size)
        else:
            orders[name] = removal_order(matrix.weight.detach(), grams[name], size)
    return orders
