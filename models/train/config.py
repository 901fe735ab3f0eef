"""TrainingConfig: how long and how fast to learn; Objective: what is learned."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from models.record import Settings


class TrainingConfig(Settings):
    """How long and how fast to learn."""

    epochs: int = Field(3, ge=1, description="passes over the training rows")
    steps: int | None = Field(None, ge=1, description="optimizer steps; instead of epochs")
    batch_size: int = Field(32, ge=1, description="rows of one optimizer step, on each process")
    accumulate: int = Field(1, ge=1, description="pieces in which these rows are computed, to save memory")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate, after the warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="part of the steps over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay; biases and norms have none")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate from a layer to that below")
    freeze_embeddings: bool = Field(True, description="leave the embedding tables as they are (faster)")
    sparse_embeddings: bool = Field(False, description="update only the rows of a step's tokens; not for tied tables")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where it is faster")
    evaluate_every: int | None = Field(None, ge=1, description="steps between evaluations; default: an epoch")
    metric: str | None = Field(None, description="watched on the held-out rows; the best step's weights are kept")
    patience: int | None = Field(None, ge=1, description="evaluations without a better metric before it stops")
    snapshot_minutes: float = Field(5, ge=0, description="between two snapshots; 0: after each step")
    seed: int = Field(0, ge=0, description="of shuffling, dropout and new weights")


class Objective(Protocol):
    """What is learned. A batch is whatever `collate` makes; `loss` is a sum over `weight` terms."""

    def plan(self, epoch: int, size: int, seed: int) -> list[list[int]]:
        """Return the row numbers of each step of an epoch: a function of the arguments only."""

    def collate(self, rows: Sequence[int], epoch: int, device: torch.device) -> Any:
        """Return these rows as a batch on `device`; what is random in it is a function of seed, epoch and row."""

    def weight(self, batch: Any) -> float:
        """Return how many terms the batch's loss sums, 1 or more."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the sum of the terms, a scalar."""

    def tokens(self, batch: Any) -> int:
        """Return the number of real tokens."""
