"""Guidance: the answers of all teachers, from which the loss of a student is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifier import TensorBatch
from models.finetuning.finetune_config import Splits, TeachingConfig
from models.finetuning.losses import LossConfig, label_loss
from models.finetuning.metrics import Scores, metric_values, score
from models.finetuning.text_objective import LossFunction
from models.task import Task
from models.teachers.teacher import Logits
from models.tokenizer import Row
from models.train.divergence import divergence

MEAN = "mean"  # name of the mean of several teachers
TINY = 1e-7  # a multi-label mean closer to 0 or 1 than this has no finite logarithm


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The answers of one teacher; several models (seeds) are averaged."""

    name: str
    index: dict[Row, int]
    logits: tuple[Logits, ...]  # of each model: (texts, labels), in the order of the task's labels

    def scores(self, task: Task, rows: Sequence[Row], temperature: float = 1.0) -> Scores:
        """Return the mean probabilities (rows, labels) at a temperature; of a regression the mean number."""
        numbers = [self.index[row] for row in rows]
        scale = 1.0 if task.kind == "regression" else temperature
        return np.mean([task.scores(logits[numbers] / np.float32(scale)) for logits in self.logits], axis=0)


class TeacherScores(NamedTuple):
    """Scores of one teacher, or of the mean of all, for some rows."""

    name: str
    models: int  # several: an ensemble of seeds
    scores: Scores | None  # (rows, labels); None: it has no scores for some of the rows


@dataclass(frozen=True, slots=True, eq=False)
class Guidance:
    """All teachers of a training, and how much they count."""

    sources: tuple[Source, ...]
    config: TeachingConfig

    def reference(self, task: Task, rows: Sequence[Row]) -> Tensor:
        """Return logits (rows, labels) whose probabilities at the temperature are the mean of the teachers'."""
        temperature = self.config.temperature
        mean = np.mean([source.scores(task, rows, temperature) for source in self.sources], axis=0)
        if task.kind == "regression":
            return torch.from_numpy(mean)
        if task.kind == "multi":
            limited = mean.clip(TINY, 1 - TINY)
            return torch.from_numpy(np.log(limited / (1 - limited)) * np.float32(temperature))
        return torch.from_numpy(np.log(mean.clip(np.finfo(np.float32).tiny)) * np.float32(temperature))

    def loss_for(self, task: Task, splits: Splits, config: LossConfig) -> LossFunction:
        """Return the function that computes the loss of a batch of `splits.training_rows`.

        It is weight · divergence from the teachers + (1 - weight) · loss on the label (Hinton et al. 2015). A row
        without a label has the divergence only, with weight 1, so that every row counts the same.

        Args:
            task: its kind selects the divergence. `multi`: the mean over the labels, as is the loss on labels.
            splits: rows with labels, and rows without.
            config: of the loss on labels.
        """
        on_labels = label_loss(task, splits.train.targets(task), config)
        reference, labelled = self.reference(task, splits.training_rows), len(splits.train)
        weight, temperature = self.config.weight, self.config.temperature

        def loss_of(model: nn.Module, batch: TensorBatch, rows: Tensor) -> Tensor:
            logits = model(batch)[0].float()
            terms = divergence(task.kind, logits, reference[rows.cpu()].to(logits.device), temperature)
            if task.kind == "multi":
                terms = terms / len(task.labels)
            has_label = rows < labelled
            taught = (terms * torch.where(has_label, weight, 1.0)).sum()
            return taught + (1 - weight) * on_labels(logits[has_label], rows[has_label])

        return loss_of

    def scores_by_teacher(self, task: Task, rows: Sequence[Row]) -> list[TeacherScores]:
        """Return the scores of each teacher for the rows, and of their mean if there are several.

        A teacher without scores for all of the rows has None, and then there is no mean.
        """
        wanted = set(rows)
        scores = [one.scores(task, rows) if one.index.keys() >= wanted else None for one in self.sources]
        entries = [
            TeacherScores(source.name, len(source.logits), own)
            for source, own in zip(self.sources, scores, strict=True)
        ]
        known = [own for own in scores if own is not None]
        if len(known) == len(self.sources) > 1:
            entries.append(TeacherScores(MEAN, sum(one.models for one in entries), np.mean(known, axis=0)))
        return entries

    def report(self, task: Task, rows: Sequence[Row], truth: NDArray[Any]) -> list[dict[str, Any]]:
        """Return the name and the metrics of each teacher, and of their mean if there are several.

        The thresholds of a task of several labels are the student's: a teacher has 0.5 for each label. A teacher
        without scores for all of the rows has no metrics.
        """
        task = task.model_copy(update={"thresholds": None})
        return [
            {"teacher": one.name, "models": one.models}
            | (metric_values(score(task, truth, one.scores)) if one.scores is not None else {})
            for one in self.scores_by_teacher(task, rows)
        ]
