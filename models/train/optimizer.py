"""AdamW with its parameter groups, and the learning-rate schedules.

`warm_then_linear` is the schedule of BERT (Devlin et al. 2019); its number of steps is known from the start.
`warm_hold_linear` decides during the training when the rate begins to fall; it reaches what a schedule of the same
length does (Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations").

The embedding table holds most weights of a small encoder, and a batch contains few of its tokens. With sparse
gradients only the rows of these tokens are updated, which takes a tenth of the time. The moments of all other rows
do not change ("lazy" Adam).
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from models.train.training_config import TrainingConfig

LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
BELOW_LAYERS = ("encoder.embeddings.", "encoder.relative.")  # MPNet's table of relative positions is for all layers


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019); of a parameter with a sparse gradient it updates only the rows in it."""

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
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:  # the same names as in torch, so that snapshots and state_dict() treat both cases alike
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        rows, values = gradient.indices()[0], gradient.values()  # (rows,), (rows, width)
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        steps = float(state["step"])
        denominator = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
        decayed = parameter[rows] * (1 - group["lr"] * group["weight_decay"])
        parameter[rows] = decayed.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**steps))


def clip(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Scale dense and sparse gradients to a total norm of at most `max_norm`; return the norm before scaling."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # duplicate rows are summed before the norm squares them
    gradients = [p.grad for p in parameters if p.grad is not None]
    values = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    norm = nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return float(norm)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> RowwiseAdamW:
    """Return AdamW over the parameters that require a gradient.

    Biases and norms have no weight decay. With a layer decay below 1 the head has the full learning rate, and each
    layer has that of the layer above it times the decay (Howard and Ruder 2018; Clark et al. 2020). The embeddings
    have the lowest.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    depth = 1 + max(
        (int(match[1]) for name, _ in model.named_parameters() if (match := LAYER.search(name))), default=-1
    )
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        groups.setdefault((_levels_below_head(name, depth), parameter.ndim > 1), []).append(parameter)
    settings = []
    for (below, is_matrix), parameters in groups.items():
        peak = config.learning_rate * config.layer_decay**below
        decay = config.weight_decay if is_matrix else 0.0
        settings.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay})
    return RowwiseAdamW(settings, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set the learning rate of each group to `factor` times its peak; return the highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return float(max(group["lr"] for group in optimizer.param_groups))


def warm_then_linear(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the peak rate: it rises over the share `warmup` of the steps, then falls linearly to 0."""
    rising = warmup_steps(steps, warmup)
    return min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))


def warm_hold_linear(step: int, steps: int, warmup: float, decay_from: int | None) -> float:
    """Return the factor on the peak rate: it rises as in `warm_then_linear`, stays at 1, then falls linearly to 0.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: share of the steps over which the rate rises.
        decay_from: the first step of the decay; None: it has not begun.
    """
    if decay_from is None:
        return min(1.0, (step + 1) / warmup_steps(steps, warmup))
    return max(0.0, (steps - step) / max(1, steps - decay_from))


def warmup_steps(steps: int, warmup: float) -> int:
    """Return the number of steps over which the rate rises, 1 or more."""
    return max(1, round(steps * warmup))


def _levels_below_head(name: str, depth: int) -> int:
    if match := LAYER.search(name):
        return depth - int(match[1])
    return depth + 1 if any(part in name for part in BELOW_LAYERS) else 0
