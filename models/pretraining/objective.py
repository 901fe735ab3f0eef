"""MaskedObjective: packed sequences, masked differently in each epoch; measure(): held-out loss and accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import InputError
from models.pretraining.masked_lm import MaskedBatch
from models.pretraining.masking import IGNORED, MaskingConfig, generator_of, mask_tokens
from models.pretraining.wordpiece import Vocabulary


@dataclass(frozen=True, slots=True)
class MaskedObjective:
    """An `Objective` (models/train/training_config.py) over sequences; its loss is a sum over masked tokens."""

    rows: NDArray[Any]  # (rows, length), token ids
    vocabulary: Vocabulary
    masking: MaskingConfig
    seed: int  # random seed of the masks

    def plan(self, epoch: int, size: int, seed: int) -> list[list[int]]:
        """Return all rows in random order, `size` per batch."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self.rows)).tolist()
        return [order[start : start + size] for start in range(0, len(order), size)]

    def collate(self, rows: Sequence[int], epoch: int, device: torch.device) -> MaskedBatch:
        """Return these rows, masked for this epoch."""
        original = np.asarray(self.rows[list(rows)], dtype=np.int64)  # (batch, tokens)
        masked = [
            mask_tokens(ids, self.vocabulary, self.masking, generator_of(self.seed, epoch, row))
            for row, ids in zip(rows, original, strict=True)
        ]
        inputs, labels = (np.stack(part) for part in zip(*masked, strict=True))
        positions = np.flatnonzero(labels != IGNORED)
        mask = (original != self.vocabulary.pad).astype(np.int64)
        arrays = (inputs, mask, positions, labels.reshape(-1)[positions])
        return MaskedBatch(*(torch.from_numpy(array).to(device) for array in arrays))

    def weight(self, batch: MaskedBatch) -> float:
        """Return the number of masked tokens, at least 1."""
        return float(max(1, len(batch.targets)))  # a row of unknown tokens only has none to mask

    def loss(self, model: nn.Module, batch: MaskedBatch) -> Tensor:
        """Return the cross entropy summed over the masked tokens."""
        return functional.cross_entropy(model(batch).float(), batch.targets, reduction="sum")

    def tokens(self, batch: MaskedBatch) -> int:
        """Return the number of real tokens: padding is not counted."""
        return int(batch.mask.sum())


def maskable_rows(rows: NDArray[Any], vocabulary: Vocabulary, count: int) -> NDArray[Any]:
    """Return the first `count` sequences (rows, length) that have a token to mask; fewer if there are not as many.

    A sequence of unknown and special tokens only, as of another script, has none: nothing is measured on it.

    Raises:
        InputError: no sequence has one.
    """
    maskable = np.flatnonzero((~vocabulary.special[np.asarray(rows)]).any(1))[:count]
    if not len(maskable):
        raise InputError(
            f"none of the {len(rows)} held-out sequences has a token that can be masked, because all of their tokens "
            "are unknown to the tokenizer: give other --validation files, or another --tokenizer"
        )
    return np.asarray(rows[maskable])


@torch.inference_mode()
def measure(model: nn.Module, objective: MaskedObjective, size: int) -> dict[str, float]:
    """Return `held_out_loss` (nats per masked token), `masked_accuracy`, and `hidden_tokens` (masked tokens).

    Every row is evaluated once, with the masks of epoch 0, so that two models predict the same tokens.

    Args:
        model: evaluated on its device, without dropout.
        objective: the held-out sequences; at least one has a token to mask (`maskable_rows`).
        size: rows per batch.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    loss = correct = masked = 0.0
    for start in range(0, len(objective.rows), size):
        batch = objective.collate(range(start, min(start + size, len(objective.rows))), 0, device)
        logits = model(batch).float()
        loss += float(functional.cross_entropy(logits, batch.targets, reduction="sum"))
        correct += float((logits.argmax(1) == batch.targets).sum())
        masked += len(batch.targets)
    model.train(was_training)
    return {"held_out_loss": loss / masked, "masked_accuracy": correct / masked, "hidden_tokens": masked}
