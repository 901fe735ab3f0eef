"""Stepper: one optimizer step, with gradient accumulation, on one or several processes.

The loss is the sum over terms (rows, or masked tokens) divided by the number of terms of the whole step, over all
micro-batches and processes: two processes with 16 rows each compute the gradient that one computes from 32.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from models.distributed import join, rank, world_size
from models.errors import CheckError
from models.train.optimizer import clip, make_optimizer, set_learning_rate, warm_hold_linear, warm_then_linear
from models.train.precision import choose_precision
from models.train.training_config import Objective, TrainingConfig


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a step in the training."""

    step: int  # from 0
    steps: int  # of the whole training
    epoch: int
    holds: bool = False  # whether the rate stays at its peak until `decay_from`
    decay_from: int | None = None  # the step from which the rate falls; None: not decided yet

    def rate(self, warmup: float) -> float:
        """Return the factor on the peak learning rate; `warmup` is the share of the steps over which it rises."""
        if self.holds:
            return warm_hold_linear(self.step, self.steps, warmup, self.decay_from)
        return warm_then_linear(self.step, self.steps, warmup)


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Metrics of a step, over all processes."""

    loss: float  # mean over the terms
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens: int  # real tokens: padding is not counted


class Stepper:
    """The model, its optimizer and its device."""

    def __init__(self, model: nn.Module, objective: Objective, config: TrainingConfig) -> None:
        join()
        self._objective, self._config = objective, config
        # torch's autocast, because accelerate has one precision per process and leaves its autocast on the model
        self._accelerator, self.precision = Accelerator(), choose_precision(config)
        self.device = self._accelerator.device
        embeddings = model.get_submodule("encoder.embeddings")
        embeddings.requires_grad_(not config.freeze_embeddings)
        self._table = cast(nn.Embedding, embeddings.get_submodule("tokens"))
        sparse = config.sparse_embeddings and not config.freeze_embeddings
        # NCCL reduces dense gradients only
        self._table.sparse = sparse and (self.device.type == "cpu" or world_size() == 1)
        self.model = model
        model.to(self.device)  # accelerate does not move a model that it has prepared before
        self._wrapped = self._accelerator.prepare_model(model)  # averages the gradients over the processes
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(model, config)

    def take(self, rows: Sequence[int], place: Place) -> StepMetrics:
        """Take one optimizer step on `rows`, the global batch; each process computes its share.

        Raises:
            CheckError: the loss is not finite.
        """
        rate = set_learning_rate(self.optimizer, place.rate(self._config.warmup))
        loss, tokens = self._add_gradients(rows, place)
        norm = clip(self._trained, self._config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepMetrics(loss, norm, rate, tokens)

    def dry_run(self, rows: Sequence[int], place: Place) -> None:
        """Compute the gradients as `take` does and discard them, to measure the time of a step."""
        self._add_gradients(rows, place)
        self.optimizer.zero_grad()

    def _add_gradients(self, rows: Sequence[int], place: Place) -> tuple[float, int]:
        """Compute the gradients of `rows`; return the mean loss and the number of real tokens, over all processes."""
        config = self._config
        local_rows = rows[rank() :: world_size()]
        factor = 1.0 if local_rows else 0.0  # a process without a row in a small last batch contributes a zero loss
        local_rows = local_rows or rows[:1]
        parts = [local_rows[i :: config.accumulate] for i in range(min(config.accumulate, len(local_rows)))]
        batches = [self._objective.collate(part, place.epoch, self.device) for part in parts]
        weight = sum(self._objective.weight(batch) for batch in batches) * factor
        tokens = sum(self._objective.tokens(batch) for batch in batches) * factor
        weight, tokens = self._sum_over_processes(weight, tokens)
        self._wrapped.train()
        local_loss = 0.0
        for number, batch in enumerate(batches):
            torch.manual_seed(_dropout_seed(config.seed, place.step, number))
            is_last = number == len(batches) - 1
            with contextlib.nullcontext() if is_last else self._accelerator.no_sync(self._wrapped):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    loss = self._objective.loss(self._wrapped, batch) * (factor / weight)
                self._accelerator.backward(loss * world_size())  # undo the averaging over the processes
            local_loss += float(loss.detach())
        (mean_loss,) = self._sum_over_processes(local_loss)
        if not np.isfinite(mean_loss):
            raise CheckError(
                f"the loss is {mean_loss} at step {place.step + 1}, rows {list(rows)}: "
                "look at these rows, or lower the learning rate"
            )
        return mean_loss, int(tokens)

    def release(self) -> nn.Module:
        """Return the model without its wrapper: on the CPU, all parameters trainable, in evaluation mode."""
        self._accelerator.free_memory()
        del self._wrapped  # it holds a reference to the process group
        self._table.sparse = False
        return self.model.to("cpu").requires_grad_(True).eval()

    def _sum_over_processes(self, *values: float) -> list[float]:
        """Return each value summed over the processes."""
        if world_size() == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        return self._accelerator.reduce(tensor, reduction="sum").tolist()


def _dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """Return the random seed of this micro-batch on this process."""
    return int(np.random.SeedSequence([seed, step, micro_batch, rank()]).generate_state(1)[0])
