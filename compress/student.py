"""distil(): make a small model of a large one.

`compress BIG --student ENCODER` fine-tunes a small encoder on the answers of BIG, and cuts the result. Speed and loss
are measured against BIG, so that they can be compared with those of cutting BIG itself (compress/ways.py).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.inputs.inputs import CompressionInputs
from models import task as task_file
from models.checkpoint import read_architecture
from models.data.texts import Texts
from models.finetuning.finetune import FinetuneConfig, finetune
from models.finetuning.finetune_config import Teachers, TeachingConfig
from models.messages import say
from models.store.folder import ModelFolder
from models.task import Task
from models.teachers.answers import answers_of
from models.teachers.teacher import open_teacher
from models.train.starting_point import resolve_encoder
from models.train.training_config import TrainingConfig


def distil(  # noqa: PLR0913 (what is learned, from whom, for how long)
    inputs: CompressionInputs, encoder: str, named: Teachers, minutes: float | None, seed: int, store: Path
) -> CompressionInputs:
    """Fine-tune a small encoder on the answers of teachers; return the inputs with it in place of the large model.

    Training rows without labels get the large model's decisions as labels, which only choose the form of the output:
    the answers then have the whole weight.

    Args:
        inputs: the large model and the rows.
        encoder: a folder, or the name of a built-in encoder.
        named: the teachers; usually the large model.
        minutes: limit on the training time.
        seed: of the training.
        store: folder of finished stages.

    Raises:
        InputError: the encoder does not fit, or a teacher does not agree with the labels.
    """
    big, folder = Task.read(inputs.source.path / task_file.FILE), resolve_encoder(encoder, store)
    splits = inputs.splits
    if splits.texts is not None:
        splits = replace(splits, texts=None).with_texts(splits.texts)
    weight = TeachingConfig().weight
    if splits.train.labels is None:
        splits, weight = replace(splits, train=_labelled(inputs.source, big, splits.train, inputs, store)), 1.0
    splits = replace(splits, teachers=named, labels=big.labels)
    config = FinetuneConfig(
        max_tokens=min(big.max_tokens, read_architecture(folder).positions), automatic=True, minutes=minutes,
        teaching=TeachingConfig(weight=weight), training=TrainingConfig(seed=seed, sparse_embeddings=True),
    )  # fmt: skip
    say(f"{encoder} learns the answers of {', '.join(map(str, named.all))} to {len(splits.training_rows):,} texts")
    student = finetune(encoder, replace(splits, test=None), config, store).folder
    train, texts = splits.train, splits.texts
    return replace(
        inputs, source=student, baseline=inputs.source, train=train if texts is None else train.joined(texts),
        parts=(train,) if texts is None else (train, texts),
    )  # fmt: skip


def _labelled(model: ModelFolder, task: Task, train: Texts, inputs: CompressionInputs, store: Path) -> Texts:
    """Return the training rows with the model's decisions as labels."""
    rows = sorted({*train.rows, *inputs.validation.rows})  # the rows that teachers answer: computed once
    (teacher,) = open_teacher(model.path, task.pair)
    decided = dict(zip(rows, task.decide(task.scores(answers_of(teacher, rows, store))), strict=True))
    labels: list[Any] = []
    for row in train.rows:
        if task.kind == "single":
            labels.append(task.labels[int(decided[row])])
        elif task.kind == "multi":
            labels.append(tuple(name for name, on in zip(task.labels, decided[row], strict=True) if on))
        else:
            labels.append(float(decided[row]))
    return Texts(train.rows, labels, train.source, train.kind)
