"""TrainingConfig: settings of the training loop; Objective: the batches and the loss of a training."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from models.schema import Settings


class TrainingConfig(Settings):
    """Settings of the training loop: duration, optimizer, precision, evaluation."""

    epochs: int = Field(3, ge=1, description="passes over the training rows")
    steps: int | None = Field(None, ge=1, description="optimizer steps, instead of epochs")
    batch_size: int = Field(32, ge=1, description="rows of one optimizer step, on each process")
    accumulate: int = Field(1, ge=1, description="parts into which a batch is split, to save memory")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate, after the warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay; biases and norms have none")
    clip: float = Field(1.0, gt=0, description="maximum norm of the gradient")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate per layer downwards")
    freeze_embeddings: bool = Field(True, description="do not train the embedding tables (faster)")
    sparse_embeddings: bool = Field(False, description="update only the rows of a step's tokens; not for tied tables")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 if it is faster than fp32")
    evaluate_every: int | None = Field(None, ge=1, description="steps between evaluations; default: one epoch")
    metric: str | None = Field(None, description="watched on held-out rows; the weights of the best step are kept")
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without a better metric")
    snapshot_minutes: float = Field(5, ge=0, description="minutes between snapshots; 0: a snapshot after each step")
    seed: int = Field(0, ge=0, description="random seed of shuffling, dropout and new weights")


class Objective(Protocol):
    """Batches and loss of a training. A batch is whatever `collate` returns; `loss` is a sum over `weight` terms."""

    def plan(self, epoch: int, size: int, seed: int) -> list[list[int]]:
        """Return the row numbers of each step of an epoch; they depend on the arguments only."""

    def collate(self, rows: Sequence[int], epoch: int, device: torch.device) -> Any:
        """Return these rows as a batch on `device`; any randomness in it is a function of seed, epoch and row."""

    def weight(self, batch: Any) -> float:
        """Return the number of terms in the batch's loss, 1 or more."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the sum of the terms as a scalar."""

    def tokens(self, batch: Any) -> int:
        """Return the number of real tokens: padding is not counted."""
