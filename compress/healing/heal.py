"""The stages of healing: store the full model's outputs for the training texts, and train the student on them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.config import CompressConfig
from compress.context import Taught, TeacherCache
from compress.healing.augment import augment
from compress.healing.distill import DistillationData, distill
from compress.healing.teacher_cache import Teacher, teach
from compress.inputs.inputs import CompressionInputs
from compress.inputs.length_matching import draw_texts
from compress.pruning.hidden_width import CHANNELS
from export import graph_precision
from models import task as task_file
from models.checkpoint import load_checkpoint, read_architecture, save_checkpoint
from models.classifier import Classifier
from models.classifier_folder import copy_texts, open_classifier
from models.distributed import processes
from models.messages import say
from models.store.folder import REPORT, ModelFolder
from models.store.stage import Stage, StageResult, run_stage, scratch_folder
from models.task import Task
from models.teachers.guidance import Guidance
from models.teachers.open_teachers import OpenTeachers
from models.tokenizer import Tokenizer
from models.train.history import History
from models.train.precision import computed_on, settle_precision

TEACH_VERSION, HEAL_VERSION = 5, 6


def teach_texts(full: ModelFolder, inputs: CompressionInputs, config: CompressConfig, store: Path) -> TeacherCache:
    """Compute and store the full model's outputs for the training texts and, if `config.augment`, for variants.

    There are `config.augment` variants for each text. Their lengths are distributed like those of the served texts.
    """
    layers = _state_layers(config, len(read_architecture(full.path).layers))
    settings: dict[str, Any] = {"texts": inputs.train.sha256, "layers": layers}
    if config.augment:
        settings |= {"augment": config.augment, "seed": config.seed, "served": inputs.validation.sha256}
    texts = inputs.encoded(full)
    tokenizer, encoded = texts.tokenizer, texts.train.tokens
    first: dict[tuple[int, ...], int] = {}  # the number of the first of several equal texts
    numbers = np.array([first.setdefault(tuple(e.ids), number) for number, e in enumerate(encoded)], dtype=np.int64)
    origins = np.stack([numbers, numbers], axis=1)
    if config.augment:
        varied = draw_texts(texts.train.lengths, texts.validation.lengths, config.augment * len(encoded), config.seed)
        variants, donors = augment(encoded, varied, tokenizer.special_ids, config.seed)
        encoded = encoded + variants
        origins = np.concatenate([origins, np.stack([numbers[varied], numbers[donors]], axis=1)])

    def make(folder: Path) -> None:
        teach(load_checkpoint(full.path), encoded, tokenizer, layers, folder)

    result = run_stage(Stage("teach", TEACH_VERSION, settings), [full], store, make)
    return TeacherCache(result.folder, encoded, origins)


def taught_by(
    guidance: Guidance, teachers: OpenTeachers, inputs: CompressionInputs, cache: TeacherCache
) -> TeacherCache:
    """Return the cache with the mean of the teachers' answers to the texts; variants keep the full model's.

    A teacher reads texts, and a variant is made of tokens. The hidden states stay those of the full model.
    """
    logits = Teacher.open(cache.folder.path, cache.encoded).logits.clone()
    texts = len(inputs.train)
    logits[:texts] = guidance.reference(teachers.task, inputs.train.rows)
    names = ", ".join(source.name for source in guidance.sources)
    variants = "; variants (--augment) get the full model's answers" if len(logits) > texts else ""
    say(f"healing learns the answers of {names} to {texts:,} texts, and the full model's hidden states{variants}")
    return replace(cache, taught=Taught(logits, teachers.identity()))


def heal(pruned: ModelFolder, cache: TeacherCache, config: CompressConfig, store: Path) -> StageResult:
    """Train the pruned model on the full model's outputs, and return the folder of the trained student."""
    settings = config.heal
    assert settings is not None
    if _has_4_bit_embeddings(pruned):  # they are served as they are: the other weights are trained with them
        training = settings.training.model_copy(update={"freeze_embeddings": True})
        settings = settings.model_copy(update={"training": training})
    settings = settings.model_copy(update={"training": settle_precision(settings.training, store)})
    dropout = settings.dropout_of(len(cache.encoded))

    def make(folder: Path) -> None:
        student, task, _ = open_classifier(pruned, dropout)
        history = distill(student, _distillation_data(cache, pruned), settings, scratch_folder(folder))
        _save(student, task, pruned, history, folder)

    key = settings.model_dump(mode="json", exclude={"training": {"snapshot_minutes"}}) | {"dropout": dropout}
    if cache.taught is not None:
        key |= {"teachers": cache.taught.identity}
    stage = Stage("heal", HEAL_VERSION, {**key, **processes(), **computed_on()})
    return run_stage(stage, [pruned, cache.folder], store, make, together=True)


def _state_layers(config: CompressConfig, layers: int) -> list[int]:
    """Return `state_layers` evenly spaced layers; the last layer is one of them."""
    count = min(config.state_layers, layers)
    return [round((i + 1) * layers / count) - 1 for i in range(count)]


def _has_4_bit_embeddings(pruned: ModelFolder) -> bool:
    path = pruned.path / graph_precision.FILE
    return path.is_file() and graph_precision.Precision.read(path).embedding_bits == 4


def _distillation_data(cache: TeacherCache, student: ModelFolder) -> DistillationData:
    task = Task.read(student.path / task_file.FILE)
    tokenizer, path = Tokenizer.open(student.path, task.max_tokens), student.path / CHANNELS
    channels = torch.from_numpy(np.load(path)) if path.is_file() else None
    teacher = Teacher.open(cache.folder.path, cache.encoded)
    if cache.taught is not None:
        teacher = replace(teacher, logits=cache.taught.logits)
    return DistillationData(teacher, cache.encoded, cache.origins, tokenizer, task.kind, channels)


def _save(student: Classifier, task: Task, source: ModelFolder, history: History, folder: Path) -> None:
    save_checkpoint(student, task, folder)
    for name in (graph_precision.FILE, CHANNELS):
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    copy_texts(source, task, folder)
    report: dict[str, Any] = {
        "epoch_losses": history.losses, "steps": history.steps, "best_step": history.best_step,
        "evaluations": [one.model_dump() for one in history.evaluations], "seconds": round(history.seconds, 1),
    }  # fmt: skip
    (folder / REPORT).write_text(json.dumps(report) + "\n", encoding="utf-8")
