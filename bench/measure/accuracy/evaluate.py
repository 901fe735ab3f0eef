"""evaluate(): metrics of a bundle or a classifier folder on labelled rows; answer(): its predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from bench.measure.accuracy.difference import Answers
from bench.measure.accuracy.task_metric import AnyScore, score_of
from export.row_logits import logits_of_rows
from models import task as task_file
from models.data.texts import Texts
from models.errors import FolderError, InputError
from models.schema import Record
from models.store.folder import ModelFolder
from models.task import MOST_WINDOWS, Combine, Task
from models.tokenizer import Row
from service.model.bundle import FILE, Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.model.windows import TextWindows


def read_task(path: Path) -> Task:
    """Return the task of the model in the folder `path`.

    Raises:
        FolderError: The folder is neither a bundle nor a classifier.
    """
    folder = ModelFolder.open(path)
    if not (folder.path / task_file.FILE).is_file():
        stage = folder.manifest.lineage[-1].stage
        raise FolderError(f"{path} is the result of stage '{stage}': wanted a bundle or a classifier folder")
    return Task.read(folder.path / task_file.FILE)


class Evaluation(Record):
    """Metrics of a model on labelled rows, and the variant and device that computed them."""

    device: str = Field(description="device that computed the answers: cpu, cuda:0, …")
    variant: str = Field(
        description="variant of the bundle; pytorch-fp32 for a classifier folder, which has no variants"
    )
    score: AnyScore
    windows: int | None = Field(None, description="most windows of a long text; None: long texts are truncated")


def evaluate(path: Path, data: Texts) -> AnyScore:
    """Return the score of the model in the folder `path` on the CPU; `data` was read for its kind of task.

    Raises:
        FolderError: The folder is neither a bundle nor a classifier.
        InputError: A label is not one of the model's, or there are no labels.
    """
    return evaluate_on(path, data).score


def evaluate_on(
    path: Path,
    data: Texts,
    device: str = "cpu",
    windows: int | None = None,
    windows_combine: Combine | None = None,
) -> Evaluation:
    """Return the score of the model in the folder `path`, computed on `device` as `prunella serve --device` does.

    Args:
        path: A bundle, or a classifier folder, which is evaluated in fp32 on the CPU only.
        data: Labelled rows, read for the model's kind of task.
        device: cpu, cuda[:i] or tensorrt, which must be available; auto selects the best available one.
        windows: Most windows of a text that is too long; 1: it is truncated; None: as the folder's task says.
        windows_combine: `mean` or `max` of the scores of a text's windows; None: as the task says.

    Raises:
        FolderError: The folder is neither a bundle nor a classifier.
        InputError: A label is not one of the model's, there are no labels, the device is not available, there are to
            be windows of pairs, or more than MOST_WINDOWS.
    """
    check_windows(windows)
    task = read_task(path)
    truth = _truth(path, task, data)
    if not (path / FILE).is_file():
        if device not in ("cpu", "auto"):
            raise InputError(f"--device is {device}: {path} is a classifier folder, which is evaluated on cpu only")
        logits = classifier_logits(path, data.rows, task, windows, windows_combine)
        score = score_of(task, truth, task.decide(task.scores(logits)))
        used = _used(task, windows)
        return Evaluation(device="cpu", variant="pytorch-fp32", score=score, windows=used)
    engine = _open(path, device, windows, windows_combine)
    logits = _logits(engine, data.rows)
    score = score_of(task, truth, task.decide(task.scores(logits)))
    return Evaluation(
        device=engine.choice.got, variant=engine.variant_name, score=score, windows=_used(task, windows)
    )


def answer(path: Path, task: Task, data: Texts) -> tuple[Answers, Answers]:
    """Return the true and the predicted answers; `task` is that of `read_task(path)`, the rest as in `evaluate`."""
    truth = _truth(path, task, data)
    logits = bundle_logits(path, data.rows) if (path / FILE).is_file() else classifier_logits(path, data.rows, task)
    return truth, task.decide(task.scores(logits))


def bundle_logits(path: Path, rows: Sequence[Row]) -> NDArray[np.float32]:
    """Return the logits (rows, labels) of a bundle on the CPU, computed one row at a time."""
    return _logits(_open(path, "cpu"), rows)


def _truth(path: Path, task: Task, data: Texts) -> Answers:
    truth = data.targets(task)
    if data.pair != task.pair:
        raise FolderError(
            f"{data.source} has {'pairs' if data.pair else 'single texts'}, {path} takes the other kind"
        )
    return truth


def check_windows(windows: int | None) -> None:
    """Refuse a number of windows that no model has; None is a model's own number.

    Raises:
        InputError: It is not from 1 to MOST_WINDOWS.
    """
    if windows is not None and not 1 <= windows <= MOST_WINDOWS:
        raise InputError(f"--windows is {windows}: wanted 1 to {MOST_WINDOWS}")


def _used(task: Task, windows: int | None) -> int | None:
    most = windows or task.windows or 1
    return most if most > 1 else None


def _open(path: Path, device: str, windows: int | None = None, windows_combine: Combine | None = None) -> Engine:
    try:
        settings = RuntimeSettings(
            device=device, require_device=device not in ("cpu", "auto"), windows=windows,
            windows_combine=windows_combine,
        )  # fmt: skip
    except ValidationError:
        raise InputError(f"--device is {device!r}: wanted cpu, cuda, cuda:1, tensorrt or auto") from None
    return Engine.open(Bundle.open(path), settings)


def _logits(engine: Engine, rows: Sequence[Row]) -> NDArray[np.float32]:
    threads = None if engine.choice.got == "cpu" else 1  # on a GPU, rows wait for each other anyway
    return logits_of_rows(lambda row: engine.logits([row]), rows, threads)


def classifier_logits(
    path: Path, rows: Sequence[Row], task: Task, windows: int | None = None, windows_combine: Combine | None = None
) -> NDArray[np.float32]:
    """Return the logits (rows, labels) of a classifier folder in fp32, with the windows of long texts.

    Raises:
        InputError: there are to be windows, and the model takes pairs.
    """
    from models.checkpoint import load_checkpoint
    from models.finetuning.predict import predict
    from models.tokenizer import Tokenizer

    model, tokenizer = load_checkpoint(path), Tokenizer.open(path, task.max_tokens)
    cutting = TextWindows.of(task, tokenizer.affixes, windows, windows_combine)
    if cutting is None:
        return predict(model, tokenizer.encode(rows), tokenizer)
    parts = [cutting.cut(text) for text in Tokenizer.open(path, cutting.max_tokens).encode(rows)]
    logits = predict(model, [window for part in parts for window in part], tokenizer)
    return np.array(cutting.answers(parts, logits.tolist()), dtype=np.float32)
