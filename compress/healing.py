"""Healing, as stages: the full model answers the texts, the student learns its answers."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.augment import augment
from compress.calibration import draw_texts, lengths_of
from compress.config import CompressConfig
from compress.distill import Lessons, distill
from compress.source import Inputs
from compress.teacher import Teacher, teach
from export import precision
from models import task as task_file
from models import tokens
from models.checkpoint import load_checkpoint, read_architecture, save_checkpoint
from models.classifier import Classifier
from models.distributed import processes
from models.folder import REPORT, ModelFolder
from models.stage import Made, Stage, run_stage, scratch_folder
from models.task import Task
from models.tokens import Encoded, Tokenizer
from models.train.history import History
from models.train.precision import computed_on, settle_precision

TEACH_VERSION, HEAL_VERSION = 5, 6
CHANNELS = "channels.npy"  # of the full model's hidden state, those that a narrower student has


@dataclass(frozen=True, slots=True)
class Taught:
    """What is learned, and the folder of the full model's answers to it."""

    folder: ModelFolder
    encoded: list[Encoded]  # the texts, then their variants
    origins: NDArray[np.int64]  # (texts and variants, 2), the numbers of the texts that each is made of


def teach_texts(full: ModelFolder, inputs: Inputs, config: CompressConfig, store: Path) -> Taught:
    """Let the full model answer the training texts and, where `config.augment` asks for them, variants.

    There are `config.augment` times as many variants as texts, and they are as long as the texts that are served.
    """
    layers = _state_layers(config, len(read_architecture(full.path).layers))
    settings: dict[str, Any] = {"texts": inputs.train.sha256, "layers": layers}
    if config.augment:
        settings |= {"augment": config.augment, "seed": config.seed, "served": inputs.validation.sha256}
    task = Task.read(full.path / task_file.FILE)
    tokenizer = Tokenizer.open(full.path, task.max_tokens)
    encoded = tokenizer.encode(inputs.train.rows)
    first: dict[tuple[int, ...], int] = {}  # a text that comes again is the first one
    numbers = np.array([first.setdefault(tuple(e.ids), number) for number, e in enumerate(encoded)], dtype=np.int64)
    origins = np.stack([numbers, numbers], axis=1)
    if config.augment:
        served = lengths_of(tokenizer.encode(inputs.validation.rows))
        varied = draw_texts(lengths_of(encoded), served, config.augment * len(encoded), config.seed)
        variants, donors = augment(encoded, varied, tokenizer.special_ids, config.seed)
        encoded = encoded + variants
        origins = np.concatenate([origins, np.stack([numbers[varied], numbers[donors]], axis=1)])

    def make(folder: Path) -> None:
        teach(load_checkpoint(full.path), encoded, tokenizer, layers, folder)

    made = run_stage(Stage("teach", TEACH_VERSION, settings), [full], store, make)
    return Taught(made.folder, encoded, origins)


def heal(pruned: ModelFolder, taught: Taught, config: CompressConfig, store: Path) -> Made:
    """Return the student after it learned what the full model answers."""
    asked = config.heal
    assert asked is not None
    if _has_rounded_table(pruned):  # it stays as it will be served: the student learns to live with it
        asked = asked.model_copy(update={"training": asked.training.model_copy(update={"freeze_embeddings": True})})
    asked = asked.model_copy(update={"training": settle_precision(asked.training, store)})
    dropout = asked.dropout_of(len(taught.encoded))

    def make(folder: Path) -> None:
        student, task, _ = open_classifier(pruned, dropout)
        history = distill(student, _lessons(taught, pruned), asked, scratch_folder(folder))
        _save(student, task, pruned, history, folder)

    decides = asked.model_dump(mode="json", exclude={"training": {"snapshot_minutes"}}) | {"dropout": dropout}
    stage = Stage("heal", HEAL_VERSION, {**decides, **processes(), **computed_on()})
    return run_stage(stage, [pruned, taught.folder], store, make, together=True)


def open_classifier(folder: ModelFolder, dropout: float = 0.0) -> tuple[Classifier, Task, Tokenizer]:
    """Return what is in a classifier folder; `dropout` is the rate of it where the model is trained."""
    task = Task.read(folder.path / task_file.FILE)
    return load_checkpoint(folder.path, dropout=dropout), task, Tokenizer.open(folder.path, task.max_tokens)


def copy_texts(source: ModelFolder, task: Task, target: Path) -> None:
    """Give the folder `target` what a model's texts need: its task and its tokenizer."""
    task.write(target / task_file.FILE)
    shutil.copyfile(source.path / tokens.FILE, target / tokens.FILE)


def _state_layers(config: CompressConfig, layers: int) -> list[int]:
    """Return `state_layers` layers, the last among them, evenly apart."""
    count = min(config.state_layers, layers)
    return [round((i + 1) * layers / count) - 1 for i in range(count)]


def _has_rounded_table(pruned: ModelFolder) -> bool:
    path = pruned.path / precision.FILE
    return path.is_file() and precision.Precision.read(path).embedding_bits == 4


def _lessons(taught: Taught, student: ModelFolder) -> Lessons:
    task = Task.read(student.path / task_file.FILE)
    tokenizer, path = Tokenizer.open(student.path, task.max_tokens), student.path / CHANNELS
    channels = torch.from_numpy(np.load(path)) if path.is_file() else None
    teacher = Teacher.open(taught.folder.path, taught.encoded)
    return Lessons(teacher, taught.encoded, taught.origins, tokenizer, task.kind, channels)


def _save(student: Classifier, task: Task, source: ModelFolder, history: History, folder: Path) -> None:
    save_checkpoint(student, task, folder)
    for name in (precision.FILE, CHANNELS):
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    copy_texts(source, task, folder)
    told: dict[str, Any] = {
        "epoch_losses": history.losses, "steps": history.steps, "best_step": history.best_step,
        "evaluations": [found.model_dump() for found in history.evaluations], "seconds": round(history.seconds, 1),
    }  # fmt: skip
    (folder / REPORT).write_text(json.dumps(told) + "\n", encoding="utf-8")
