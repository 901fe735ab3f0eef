"""Stepper: one optimizer step, whole or in pieces, on one process or on many.

The loss is a sum over terms (rows, or masked tokens) divided by the terms of the whole step, over all pieces and
processes: two processes with 16 rows each learn what one learns from 32.
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
from models.train.config import Objective, TrainingConfig
from models.train.optimizer import clip, make_optimizer, set_learning_rate, warm_then_linear
from models.train.precision import choose_precision


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the training a step is."""

    step: int  # from 0
    steps: int  # of the whole training
    epoch: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step was like, over all processes."""

    loss: float  # mean over the terms
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens: int  # real ones


class Stepper:
    """The model, its optimizer and its device."""

    def __init__(self, model: nn.Module, objective: Objective, config: TrainingConfig) -> None:
        join()
        self._objective, self._config = objective, config
        # autocast is torch's own: accelerate keeps one precision a process, and leaves it on the model afterwards
        self._accelerator, self.precision = Accelerator(), choose_precision(config)
        self.device = self._accelerator.device
        embeddings = model.get_submodule("encoder.embeddings")
        embeddings.requires_grad_(not config.freeze_embeddings)
        self._table = cast(nn.Embedding, embeddings.get_submodule("tokens"))
        sparse = config.sparse_embeddings and not config.freeze_embeddings
        self._table.sparse = sparse and (self.device.type == "cpu" or world_size() == 1)  # NCCL joins dense ones only
        self.model = model
        model.to(self.device)  # here, because accelerate moves no model that it has seen before
        self._wrapped = self._accelerator.prepare_model(model)  # joins the processes' gradients
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(model, config)

    def take(self, rows: Sequence[int], place: Place) -> Taken:
        """Learn from `rows`, the global batch: each process takes its share.

        Raises:
            CheckError: the loss is no longer a number.
        """
        rate = set_learning_rate(self.optimizer, warm_then_linear(place.step, place.steps, self._config.warmup))
        value, tokens = self._add_gradients(rows, place)
        norm = clip(self._trained, self._config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Taken(value, norm, rate, tokens)

    def rehearse(self, rows: Sequence[int], place: Place) -> None:
        """Compute what `take` computes, and change nothing: its time tells that of a step."""
        self._add_gradients(rows, place)
        self.optimizer.zero_grad()

    def _add_gradients(self, rows: Sequence[int], place: Place) -> tuple[float, int]:
        """Return the mean loss over the terms of `rows` and the real tokens, both over all processes."""
        config = self._config
        mine = rows[rank() :: world_size()]
        factor = 1.0 if mine else 0.0  # a process without a row in a small last batch takes part with a loss of zero
        mine = mine or rows[:1]
        pieces = [mine[i :: config.accumulate] for i in range(min(config.accumulate, len(mine)))]
        batches = [self._objective.collate(piece, place.epoch, self.device) for piece in pieces]
        weight = sum(self._objective.weight(batch) for batch in batches) * factor
        tokens = sum(self._objective.tokens(batch) for batch in batches) * factor
        weight, tokens = self._summed(weight, tokens)
        self._wrapped.train()
        local = 0.0
        for number, batch in enumerate(batches):
            torch.manual_seed(_seed_of(config.seed, place.step, number))  # of dropout
            is_last = number == len(batches) - 1
            with contextlib.nullcontext() if is_last else self._accelerator.no_sync(self._wrapped):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    loss = self._objective.loss(self._wrapped, batch) * (factor / weight)
                self._accelerator.backward(loss * world_size())  # processes' gradients are averaged: undo that
            local += float(loss.detach())
        (value,) = self._summed(local)
        if not np.isfinite(value):
            raise CheckError(
                f"the loss is {value} at step {place.step + 1}, rows {list(rows)}: "
                "look at these rows, or lower the learning rate"
            )
        return value, int(tokens)

    def release(self) -> nn.Module:
        """Return the model as it was handed in: on the CPU, every parameter learnable, in evaluation mode."""
        self._accelerator.free_memory()
        del self._wrapped  # it holds the group of processes
        self._table.sparse = False
        return self.model.to("cpu").requires_grad_(True).eval()

    def _summed(self, *values: float) -> list[float]:
        """Return each value summed over the processes."""
        if world_size() == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        return self._accelerator.reduce(together, reduction="sum").tolist()


def _seed_of(seed: int, step: int, piece: int) -> int:
    """Return one number for this piece of work on this process."""
    return int(np.random.SeedSequence([seed, step, piece, rank()]).generate_state(1)[0])
