"""AdamW's parameter groups and the learning rate at each step, as BERT is trained (Devlin et al. 2019)."""

import re

import torch
from torch import nn

from models.train.config import TrainingConfig

LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over the parameters that require a gradient.

    Biases and norms are not decayed. With a layer decay below 1 the head learns at the full rate, and each layer
    below at that factor of the one above (Howard and Ruder 2018; Clark et al. 2020), the embeddings slowest.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    depth = 1 + max(
        (int(found[1]) for name, _ in model.named_parameters() if (found := LAYER.search(name))), default=-1
    )
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        groups.setdefault((_levels_below_head(name, depth), parameter.ndim > 1), []).append(parameter)
    told = []
    for (below, is_matrix), parameters in groups.items():
        peak = config.learning_rate * config.layer_decay**below
        decay = config.weight_decay if is_matrix else 0.0
        told.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay})
    return torch.optim.AdamW(told, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Give each group `factor` of its peak, and return the highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return float(max(group["lr"] for group in optimizer.param_groups))


def warm_then_linear(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the peak rate at `step` of `steps`: it rises over the part `warmup`, then falls to 0."""
    rise = max(1, round(steps * warmup))
    return min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))


def _levels_below_head(name: str, depth: int) -> int:
    if found := LAYER.search(name):
        return depth - int(found[1])
    return depth + 1 if "encoder.embeddings" in name else 0
