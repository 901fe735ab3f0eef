"""Healing, as stages: the full model answers the texts, the student learns its answers."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.augment import augment
from compress.config import CompressConfig
from compress.distill import Lessons, distill
from compress.teacher import Teacher, teach
from export import precision
from models import task as task_file
from models import tokens
from models.checkpoint import load_checkpoint, read_architecture, save_checkpoint
from models.classifier import Classifier
from models.data.texts import Texts
from models.distributed import processes
from models.folder import REPORT, ModelFolder
from models.stage import Made, Stage, run_stage, scratch_folder
from models.task import Task
from models.tokens import Encoded, Tokenizer
from models.train.history import History

VERSION = 4
CHANNELS = "channels.npy"  # of the full model's hidden state, those that a narrower student has


@dataclass(frozen=True, slots=True)
class Taught:
    """Texts, and the folder of the full model's answers to them and to their variants."""

    folder: ModelFolder
    texts: Texts


def teach_texts(full: ModelFolder, texts: Texts, config: CompressConfig, store: Path) -> Taught:
    """Let the full model answer the texts and, where `config.augment` asks for them, their variants."""
    layers = _state_layers(config, len(read_architecture(full.path).layers))
    settings: dict[str, Any] = {"texts": texts.sha256, "layers": layers}
    if config.augment:
        settings |= {"augment": config.augment, "seed": config.seed}

    def make(folder: Path) -> None:
        model, _, tokenizer = open_classifier(full)
        teach(model, _encoded(texts, tokenizer, config), tokenizer, layers, folder)

    return Taught(run_stage(Stage("teach", VERSION, settings), [full], store, make).folder, texts)


def heal(pruned: ModelFolder, taught: Taught, config: CompressConfig, store: Path) -> Made:
    """Return the student after it learned what the full model answers."""
    asked = config.heal
    assert asked is not None

    def make(folder: Path) -> None:
        student, task, _ = open_classifier(pruned)
        history = distill(student, _lessons(taught, pruned, config), asked, scratch_folder(folder))
        _save(student, task, pruned, history, folder)

    decides = asked.model_dump(mode="json", exclude={"training": {"snapshot_minutes"}})
    stage = Stage("heal", VERSION, {**decides, **processes()})
    return run_stage(stage, [pruned, taught.folder], store, make, together=True)


def open_classifier(folder: ModelFolder) -> tuple[Classifier, Task, Tokenizer]:
    """Return what is in a classifier folder."""
    task = Task.read(folder.path / task_file.FILE)
    return load_checkpoint(folder.path), task, Tokenizer.open(folder.path, task.max_tokens)


def copy_texts(source: ModelFolder, task: Task, target: Path) -> None:
    """Give the folder `target` what a model's texts need: its task and its tokenizer."""
    task.write(target / task_file.FILE)
    shutil.copyfile(source.path / tokens.FILE, target / tokens.FILE)


def _state_layers(config: CompressConfig, layers: int) -> list[int]:
    """Return `state_layers` layers, the last among them, evenly apart."""
    count = min(config.state_layers, layers)
    return [round((i + 1) * layers / count) - 1 for i in range(count)]


def _encoded(texts: Texts, tokenizer: Tokenizer, config: CompressConfig) -> list[Encoded]:
    """Return what is answered and learned: the texts, then their variants."""
    rows = tokenizer.encode(texts.rows)
    return rows + augment(rows, tokenizer.special_ids, config.augment, config.seed)


def _lessons(taught: Taught, student: ModelFolder, config: CompressConfig) -> Lessons:
    task = Task.read(student.path / task_file.FILE)
    tokenizer, path = Tokenizer.open(student.path, task.max_tokens), student.path / CHANNELS
    rows = _encoded(taught.texts, tokenizer, config)
    channels = torch.from_numpy(np.load(path)) if path.is_file() else None
    return Lessons(Teacher.open(taught.folder.path, rows), rows, tokenizer, task.kind, channels)


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
