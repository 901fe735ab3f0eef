"""loss_for(): what fine-tuning makes small, by kind of task; always a sum over rows, in fp32."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from pydantic import Field
from torch import Tensor, nn

from models.classifier import TensorBatch
from models.errors import InputError
from models.record import Settings
from models.task import Kind, Task
from models.train.text_objective import LossOf


class LossConfig(Settings):
    """Settings of the fine-tuning loss."""

    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: rare labels count more")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all labels")


def check_loss(kind: Kind, config: LossConfig) -> None:
    """Refuse settings that the loss of this kind does not have.

    Raises:
        InputError: it is a regression with class weights or label smoothing.
    """
    if kind == "regression" and config != LossConfig():
        raise InputError("a regression has neither class weights nor label smoothing: leave both out")


def loss_for(task: Task, targets: np.ndarray, config: LossConfig) -> LossOf:
    """Return the loss of a batch of rows.

    Args:
        task: single → cross entropy; multi → binary cross entropy, mean over labels; regression → squared error.
        targets: int64 (rows,) for single, float32 (rows, labels) for multi, float32 (rows,) for regression.
        config: weights and smoothing; a regression has neither.
    """
    check_loss(task.kind, config)
    wanted = torch.from_numpy(targets)
    weights = _weights(task, targets) if config.class_weights == "balanced" else None
    smoothing = config.label_smoothing

    def loss_of(model: nn.Module, batch: TensorBatch, rows: Tensor) -> Tensor:
        logits = model(batch)[0].float()
        truth = wanted.to(logits.device)[rows]
        balance = weights.to(logits.device) if weights is not None else None
        if task.kind == "single":
            return functional.cross_entropy(logits, truth, balance, label_smoothing=smoothing, reduction="sum")
        if task.kind == "multi":
            truth = truth * (1 - smoothing) + smoothing / 2
            terms = functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=balance, reduction="none")
            return terms.mean(1).sum()
        return functional.mse_loss(logits[:, 0], truth, reduction="sum")

    return loss_of


def _weights(task: Task, targets: np.ndarray) -> Tensor | None:
    """Return a weight for each label: its mean over the rows is 1 (single), or negatives over positives (multi)."""
    if task.kind == "regression":
        return None
    if task.kind == "multi":
        positives = targets.sum(0).clip(min=1)
        return torch.from_numpy(((len(targets) - positives) / positives).astype(np.float32))
    counts = np.bincount(targets, minlength=len(task.labels)).clip(min=1)
    return torch.from_numpy((len(targets) / (len(task.labels) * counts)).astype(np.float32))
