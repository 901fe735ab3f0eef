"""The answers that a cascade is learned and judged with: of the student in the bundle, and of the full model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.inputs.source import open_source
from export.row_logits import logits_of_rows
from models.errors import InputError
from models.store.folder import ModelFolder
from models.task import Task
from models.teachers.answers import answers_of
from models.teachers.matching import match_labels
from models.teachers.teacher import Teacher, open_teacher
from models.tokenizer import Encoded, Row
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings

Floats = NDArray[np.float32]
BUNDLE = "the bundle"  # what has the task, in messages


class Student:
    """The network of a bundle on the CPU; its answers do not depend on the gate."""

    def __init__(self, bundle: Bundle) -> None:
        self.engine = Engine.open(bundle, RuntimeSettings(device="cpu", threads=1))
        self.task = bundle.task

    def logits(self, encoded: Sequence[Encoded]) -> Floats:
        """Return (texts, labels), in the order of `encoded`."""
        return logits_of_rows(lambda text: self.engine.infer([text]), encoded)


@dataclass(frozen=True, slots=True)
class FullModel:
    """The unpruned classifier that a bundle was made from."""

    folder: ModelFolder
    _teacher: Teacher
    _task: Task  # of the bundle
    _order: list[int]  # position of each label of the bundle among the model's

    @classmethod
    def open(cls, path: Path, task: Task, store: Path) -> "FullModel":
        """Open a classifier folder, or import a fine-tuned Hugging Face folder into the store.

        Args:
            path: the folder.
            task: of the bundle.
            store: folder of finished stages.

        Raises:
            FolderError: there is no classifier in it.
            InputError: its labels are not the bundle's, or it has other inputs or another kind of task.
        """
        own = task.max_tokens if not (path / "manifest.json").is_file() else None
        folder = open_source(path, store, task.pair, own)
        teachers = open_teacher(folder.path, task.pair, BUNDLE)
        if len(teachers) > 1:
            raise InputError(f"{path} is a series of {len(teachers)} models: give the one that was compressed")
        if teachers[0].task.kind != task.kind:
            raise InputError(f"{path} is a {teachers[0].task.kind} model, and {BUNDLE} a {task.kind} one")
        return cls(folder, teachers[0], task, match_labels(str(path), teachers[0].task.labels, task, BUNDLE))

    def scores(self, rows: Sequence[Row], store: Path) -> Floats:
        """Return its probabilities (texts, labels), with the labels in the order of the bundle's."""
        return self._task.scores(answers_of(self._teacher, rows, store)[:, self._order])
