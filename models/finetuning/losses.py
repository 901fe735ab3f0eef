"""label_loss() and loss_for(): the fine-tuning loss of each kind of task, as a sum over rows, computed in fp32."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from pydantic import Field
from torch import Tensor, nn

from models.classifier import TensorBatch
from models.errors import InputError
from models.finetuning.text_objective import LossFunction
from models.schema import Settings
from models.task import Kind, Task

LabelLoss = Callable[[Tensor, Tensor], Tensor]


class LossConfig(Settings):
    """Settings of the fine-tuning loss."""

    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: rare labels weigh more")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target distributed over all labels")


def check_loss(kind: Kind, config: LossConfig) -> None:
    """Refuse settings that the loss of this kind of task does not have.

    Raises:
        InputError: the task is a regression, and class weights or label smoothing are set.
    """
    if kind == "regression" and config != LossConfig():
        raise InputError("a regression has neither class weights nor label smoothing: leave both out")


def label_loss(task: Task, targets: np.ndarray, config: LossConfig) -> LabelLoss:
    """Return the function from logits (batch, labels) and row numbers (batch,) to the loss, summed over the rows.

    Args:
        task: its kind selects cross entropy (single), binary cross entropy, mean over labels (multi), or squared
            error (regression).
        targets: int64 (rows,) for single, float32 (rows, labels) for multi, float32 (rows,) for regression.
        config: class weights and label smoothing; a regression has neither.
    """
    check_loss(task.kind, config)
    all_targets = torch.from_numpy(targets)
    weights = _class_weights(task, targets) if config.class_weights == "balanced" else None
    smoothing = config.label_smoothing

    def loss_of(logits: Tensor, rows: Tensor) -> Tensor:
        target = all_targets.to(logits.device)[rows]
        weight = weights.to(logits.device) if weights is not None else None
        if task.kind == "single":
            return functional.cross_entropy(logits, target, weight, label_smoothing=smoothing, reduction="sum")
        if task.kind == "multi":
            target = target * (1 - smoothing) + smoothing / 2
            terms = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
            return terms.mean(1).sum()
        return functional.mse_loss(logits[:, 0], target, reduction="sum")

    return loss_of


def loss_for(task: Task, targets: np.ndarray, config: LossConfig) -> LossFunction:
    """Return the function that computes the loss of a batch of rows; the arguments are those of `label_loss`."""
    on_labels = label_loss(task, targets, config)

    def loss_of(model: nn.Module, batch: TensorBatch, rows: Tensor) -> Tensor:
        return on_labels(model(batch)[0].float(), rows)

    return loss_of


def _class_weights(task: Task, targets: np.ndarray) -> Tensor | None:
    """Return the weight of each label: mean 1 over the rows (single), or negatives / positives (multi)."""
    if task.kind == "regression":
        return None
    if task.kind == "multi":
        positives = targets.sum(0).clip(min=1)
        return torch.from_numpy(((len(targets) - positives) / positives).astype(np.float32))
    counts = np.bincount(targets, minlength=len(task.labels)).clip(min=1)
    return torch.from_numpy((len(targets) / (len(task.labels) * counts)).astype(np.float32))
