"""MaskedObjective: packed sequences, hidden anew in each epoch; measure(): how well a model guesses them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data.wordpiece import Vocabulary
from models.masked import MaskedBatch
from models.train.masking import IGNORED, MaskingConfig, generator_of, mask_tokens


@dataclass(frozen=True, slots=True)
class MaskedObjective:
    """An `Objective` (models/train/config.py) over sequences; its loss is a sum over hidden tokens."""

    rows: NDArray[Any]  # (rows, length), ids
    vocabulary: Vocabulary
    masking: MaskingConfig
    seed: int  # of the masks

    def plan(self, epoch: int, size: int, seed: int) -> list[list[int]]:
        """Return all rows in a seeded order, `size` at a time."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self.rows)).tolist()
        return [order[start : start + size] for start in range(0, len(order), size)]

    def collate(self, rows: Sequence[int], epoch: int, device: torch.device) -> MaskedBatch:
        """Return these rows, masked for this epoch."""
        whole = np.asarray(self.rows[list(rows)], dtype=np.int64)  # (batch, tokens)
        masked = [
            mask_tokens(ids, self.vocabulary, self.masking, generator_of(self.seed, epoch, row))
            for row, ids in zip(rows, whole, strict=True)
        ]
        seen, labels = (np.stack(part) for part in zip(*masked, strict=True))
        positions = np.flatnonzero(labels != IGNORED)
        arrays = (seen, (whole != self.vocabulary.pad).astype(np.int64), positions, labels.reshape(-1)[positions])
        return MaskedBatch(*(torch.from_numpy(array).to(device) for array in arrays))

    def weight(self, batch: MaskedBatch) -> float:
        """Count the hidden tokens."""
        return float(max(1, len(batch.targets)))  # a row of unknown tokens only has none to hide

    def loss(self, model: nn.Module, batch: MaskedBatch) -> Tensor:
        """Return the cross-entropy summed over the hidden tokens."""
        return functional.cross_entropy(model(batch).float(), batch.targets, reduction="sum")

    def tokens(self, batch: MaskedBatch) -> int:
        """Count the tokens that are not padding."""
        return int(batch.mask.sum())


@torch.inference_mode()
def measure(model: nn.Module, objective: MaskedObjective, size: int) -> dict[str, float]:
    """Return `held_out_loss` (nats a hidden token), `masked_accuracy`, and the `hidden_tokens` they are means over.

    Every row is taken once, masked as in epoch 0, so that two models are asked the same questions.

    Args:
        model: is computed where it is, without dropout.
        objective: the held-out sequences.
        size: rows that are computed together.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    loss = correct = hidden = 0.0
    for start in range(0, len(objective.rows), size):
        batch = objective.collate(range(start, min(start + size, len(objective.rows))), 0, device)
        logits = model(batch).float()
        loss += float(functional.cross_entropy(logits, batch.targets, reduction="sum"))
        correct += float((logits.argmax(1) == batch.targets).sum())
        hidden += len(batch.targets)
    model.train(was_training)
    return {"held_out_loss": loss / hidden, "masked_accuracy": correct / hidden, "hidden_tokens": hidden}
