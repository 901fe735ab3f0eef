"""TextObjective: labelled or unlabelled rows, in batches of like length, with a loss per batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.classifier import TensorBatch
from models.tokens import Encoded, Tokenizer
from models.train.batches import training_batches

LossOf = Callable[[nn.Module, TensorBatch, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows as tensors, and their numbers, (batch,), on the same device."""

    tokens: TensorBatch
    rows: Tensor


@dataclass(frozen=True, slots=True)
class TextObjective:
    """An `Objective` over encoded rows; `loss_of(model, batch, row numbers)` is a sum over the rows."""

    encoded: Sequence[Encoded]
    tokenizer: Tokenizer
    loss_of: LossOf

    def plan(self, epoch: int, size: int, seed: int) -> list[list[int]]:
        """Return batches of like length."""
        return training_batches([len(e.ids) for e in self.encoded], size, seed, epoch)

    def collate(self, rows: Sequence[int], epoch: int, device: torch.device) -> RowBatch:  # noqa: ARG002
        """Pad the rows to the longest."""
        padded = self.tokenizer.pad([self.encoded[i] for i in rows])
        return RowBatch(TensorBatch(padded, device), torch.tensor(list(rows), device=device))

    def weight(self, batch: RowBatch) -> float:
        """Count the rows."""
        return float(len(batch.rows))

    def loss(self, model: nn.Module, batch: RowBatch) -> Tensor:
        """Return the sum over the rows."""
        return self.loss_of(model, batch.tokens, batch.rows)

    def tokens(self, batch: RowBatch) -> int:
        """Count the real tokens."""
        return int(batch.tokens.mask.sum())
