"""OpenTeachers: teachers that fit a task; Guidance: their answers, from which the loss of a student is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifier import TensorBatch
from models.data.roles import RowRoles
from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.finetune_config import Splits, Teachers, TeachingConfig
from models.finetuning.losses import LossConfig, label_loss
from models.finetuning.metrics import Scores, metric_values, score
from models.finetuning.text_objective import LossFunction
from models.messages import say
from models.task import Kind, Task
from models.teachers.answers import answers_of
from models.teachers.matching import check_agreement, match_labels
from models.teachers.scores_file import read_scores
from models.teachers.teacher import Logits, Teacher, open_teacher
from models.tokenizer import Row
from models.train.divergence import divergence

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

    def report(self, task: Task, rows: Sequence[Row], truth: NDArray[Any]) -> list[dict[str, Any]]:
        """Return the name and the metrics of each teacher, and of their mean if there are several.

        The thresholds of a task of several labels are the student's: a teacher has 0.5 for each label. A teacher
        without scores for all of the rows has no metrics.
        """
        task = task.model_copy(update={"thresholds": None})
        scores = [s.scores(task, rows) if s.index.keys() >= set(rows) else None for s in self.sources]
        entries: list[dict[str, Any]] = []
        for source, own in zip(self.sources, scores, strict=True):
            values = metric_values(score(task, truth, own)) if own is not None else {}
            entries.append({"teacher": source.name, "models": len(source.logits), **values})
        known = [own for own in scores if own is not None]
        if len(known) == len(self.sources) > 1:
            values = metric_values(score(task, truth, np.mean(known, axis=0)))
            entries.append({"teacher": "mean", "models": sum(entry["models"] for entry in entries), **values})
        return entries


@dataclass(frozen=True, slots=True)
class OpenTeachers:
    """Teachers that fit the task; their answers are not computed yet."""

    task: Task
    named: Teachers
    models: tuple[tuple[Path, tuple[Teacher, ...]], ...]
    scores: Source | None

    @classmethod
    def open(cls, named: Teachers, task: Task) -> "OpenTeachers":
        """Open the teachers, and check that each answers the task.

        Raises:
            FolderError: a folder has no classifier.
            InputError: a teacher has another kind of task or other labels, or the file of scores has a bad row.
        """
        models = []
        for path in named.folders:
            members = tuple(open_teacher(path, task.pair))
            for member in members:
                _check_kind(member, task.kind)
                match_labels(str(member.folder), member.task.labels, task)
            if len(members) > 1:
                say(f"{path} is one of {len(members)} models of `finetune --seeds`: their mean is the teacher")
            models.append((path, members))
        scores = None
        if named.scores is not None:
            index, logits = read_scores(named.scores, task, named.columns, named.scores_are_logits, named.numbered)
            scores = Source(str(named.scores), index, (logits,))
        return cls(task, named, tuple(models), scores)

    def identity(self) -> list[Any]:
        """Return what decides the answers: the digest of each model, and of the file of scores."""
        digests: list[Any] = [[member.digest for member in members] for _, members in self.models]
        if self.scores is not None:
            rows = sorted((list(row), self.scores.logits[0][i].tolist()) for row, i in self.scores.index.items())
            digests.append(sha256(repr(rows).encode()).hexdigest())
        return digests

    def teach(self, splits: Splits, config: TeachingConfig, store: Path) -> Guidance:
        """Compute the answers to all rows, or take them from the store, and check that they agree with the labels.

        Raises:
            CheckError: the disk is full, or an answer is not a finite number.
            InputError: the file of scores lacks a training row, or a teacher agrees with the labels no better than a
                constant answer.
        """
        if self.scores is not None:
            for texts in (splits.train, splits.texts):
                _check_covered(self.scores, texts)
        # sorted: another held-out part of the same rows, drawn with another seed, reuses the answers
        labelled = sorted({*splits.train.rows, *splits.validation.rows})
        sources = [self._source(path, members, labelled, splits.texts, store) for path, members in self.models]
        sources += [self.scores] if self.scores is not None else []
        for source in sources:
            covers = source.index.keys() >= set(splits.validation.rows)
            judged = RowRoles(splits.train, splits.validation if covers else None).everything
            check_agreement(source.name, self.task, judged, source.scores(self.task, judged.rows), self.named.weak)
        return Guidance(tuple(sources), config)

    def _source(
        self, path: Path, members: Sequence[Teacher], labelled: list[Row], texts: Texts | None, store: Path
    ) -> Source:
        parts = [labelled] if texts is None else [labelled, texts.rows]
        index = {row: number for number, row in enumerate(row for part in parts for row in part)}
        logits = []
        for member in members:
            order = match_labels(str(member.folder), member.task.labels, self.task)
            logits.append(np.concatenate([answers_of(member, part, store) for part in parts])[:, order])
        return Source(str(path), index, tuple(logits))


def _check_kind(teacher: Teacher, kind: Kind) -> None:
    if teacher.task.kind != kind:
        raise InputError(
            f"the teacher {teacher.folder} is a {teacher.task.kind} model, and the training rows are read for a "
            f"{kind} task (--task)"
        )


def _check_covered(scores: Source, texts: Texts | None) -> None:
    missing = [row for row in texts.rows if row not in scores.index] if texts is not None else []
    if missing:
        assert texts is not None, "only rows of texts can be missing"
        raise InputError(
            f"{scores.name} has no scores for {len(missing)} of {len(texts)} rows of {texts.source}, such as "
            f"{missing[0][0][:60]!r}: wanted scores for every row that is trained on"
        )
