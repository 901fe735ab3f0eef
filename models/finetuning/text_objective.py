"""TextObjective: labelled or unlabelled rows in batches of similar length, with a loss function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.classifier import TensorBatch
from models.tokenizer import Encoded, Tokenizer
from models.train.batches import training_batches

LossFunction = Callable[[nn.Module, TensorBatch, Tensor], Tensor]  # (model, batch, row numbers) → sum over the rows


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows as tensors, and their row numbers, (batch,), on the same device."""

    tokens: TensorBatch
    rows: Tensor


@dataclass(frozen=True, slots=True)
class TextObjective:
    """An `Objective` over encoded rows; `loss_of(model, batch, row numbers)` returns a sum over the rows."""

    encoded: Sequence[Encoded]
    tokenizer: Tokenizer
    loss_of: LossFunction

    def plan(self, epoch: int, size: int, seed: int) -> list[list[int]]:
        """Return the batches of an epoch, each of rows of similar length."""
        return training_batches([len(e.ids) for e in self.encoded], size, seed, epoch)

    def collate(self, rows: Sequence[int], epoch: int, device: torch.device) -> RowBatch:  # noqa: ARG002
        """Return the rows, padded to the longest of them."""
        padded = self.tokenizer.pad([self.encoded[i] for i in rows])
        return RowBatch(TensorBatch(padded, device), torch.tensor(list(rows), device=device))

    def weight(self, batch: RowBatch) -> float:
        """Return the number of rows."""
        return float(len(batch.rows))

    def loss(self, model: nn.Module, batch: RowBatch) -> Tensor:
        """Return the loss summed over the rows."""
        return self.loss_of(model, batch.tokens, batch.rows)

    def tokens(self, batch: RowBatch) -> int:
        """Return the number of real tokens: padding is not counted."""
        return int(batch.tokens.mask.sum())
