"""AdamW's parameter groups and the learning rate at each step, as BERT is trained (Devlin et al. 2019).

A table of embeddings is most of a small encoder's weights, and a step has few of its rows: with sparse gradients only
those are updated, which takes a tenth of the time. A row that a step does not have keeps its moments ("lazy" Adam).
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from models.train.config import TrainingConfig

LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) which, where a gradient is sparse, updates the rows in it and no others."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._update_rows(parameter, parameter.grad.coalesce(), group)
                    parameter.grad = None
        super().step()

    def _update_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[parameter], group["betas"]
        if not state:  # named as torch names them: snapshots and state_dict() need no second case
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        rows, slopes = gradient.indices()[0], gradient.values()  # (rows,), (rows, width)
        mean = state["exp_avg"][rows].lerp_(slopes, 1 - first)
        square = state["exp_avg_sq"][rows].mul_(second).addcmul_(slopes, slopes, value=1 - second)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        steps = float(state["step"])
        spread = (square / (1 - second**steps)).sqrt_().add_(group["eps"])
        shrunk = parameter[rows] * (1 - group["lr"] * group["weight_decay"])
        parameter[rows] = shrunk.addcdiv_(mean, spread, value=-group["lr"] / (1 - first**steps))


def clip(parameters: list[nn.Parameter], most: float) -> float:
    """Scale the gradients, dense or sparse, so that their norm is at most `most`; return the norm before that."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a row that comes twice is summed before it is squared
    gradients = [p.grad for p in parameters if p.grad is not None]
    slopes = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    norm = nn.utils.get_total_norm(slopes)
    torch._foreach_mul_(slopes, (most / (norm + 1e-6)).clamp(max=1.0))
    return float(norm)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> RowwiseAdamW:
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
    return RowwiseAdamW(told, fused=True)


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
