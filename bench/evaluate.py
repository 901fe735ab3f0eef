"""evaluate(): how well a bundle, or a classifier folder, answers labelled rows; answer(): what it answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import Answers
from bench.judging import AnyScore, score_of
from models import task as task_file
from models.data.texts import Texts
from models.errors import FolderError
from models.folder import ModelFolder
from models.task import Task
from models.tokens import Row
from service.bundle import FILE, Bundle
from service.engine import Engine


def read_task(path: Path) -> Task:
    """Return what is asked of the model in the folder `path`.

    Raises:
        FolderError: the folder is neither a bundle nor a classifier.
    """
    folder = ModelFolder.open(path)
    if not (folder.path / task_file.FILE).is_file():
        raise FolderError(f"{path} holds the result of '{folder.manifest.lineage[-1].stage}', which answers nothing")
    return Task.read(folder.path / task_file.FILE)


def evaluate(path: Path, data: Texts) -> AnyScore:
    """Return the score of the model in the folder `path`; `data` was read for its kind of task.

    Raises:
        FolderError: the folder is neither a bundle nor a classifier.
        InputError: a label is not the model's, or there are no labels.
    """
    task = read_task(path)
    return score_of(task, *answer(path, task, data))


def answer(path: Path, task: Task, data: Texts) -> tuple[Answers, Answers]:
    """Return the truth and the model's answers; `task` is what `read_task(path)` gives, the rest as in `evaluate`."""
    truth = data.targets(task)
    if data.pair != task.pair:
        raise FolderError(
            f"{data.source} has {'pairs' if data.pair else 'single texts'}, {path} takes the other kind"
        )
    logits = bundle_logits(path, data.rows) if (path / FILE).is_file() else _torch_logits(path, data, task)
    return truth, task.decide(task.scores(logits))


def bundle_logits(path: Path, rows: Sequence[Row]) -> NDArray[np.float32]:
    """Return the logits (rows, labels) of a bundle, each row answered alone."""
    engine = Engine.open(Bundle.open(path))
    return np.concatenate([engine.logits([row]) for row in rows])


def _torch_logits(path: Path, data: Texts, task: Task) -> NDArray[np.float32]:
    from models.checkpoint import load_checkpoint
    from models.tokens import Tokenizer
    from models.train.predict import predict

    tokenizer = Tokenizer.open(path, task.max_tokens)
    return predict(load_checkpoint(path), tokenizer.encode(data.rows), tokenizer)
