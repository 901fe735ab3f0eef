"""open_source(): what is compressed; check_inputs(): refuses, before any long work, what cannot work."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.accuracy import right
from models import task as task_file
from models import tokens
from models.checkpoint import (
    CONFIG,
    PROBLEMS,
    WEIGHTS,
    load_checkpoint,
    read_architecture,
    read_config,
    save_checkpoint,
)
from models.data.texts import Texts
from models.errors import FolderError, InputError
from models.folder import MANIFEST, ModelFolder
from models.stage import Stage, run_stage
from models.task import Kind, Task
from models.tokens import Tokenizer
from models.train.predict import predict
from models.train.source import load_source_id

VERSION = 1
LONG_SHARE = 0.01  # of the training texts must be as long as the median served one


@dataclass(frozen=True, slots=True)
class Inputs:
    """A classifier and its texts."""

    source: ModelFolder
    train: Texts  # the student learns from them; labels are not needed
    validation: Texts  # labelled rows, as they are served: shapes are timed and points are judged on them


def open_source(path: Path, store: Path, max_tokens: int = 128) -> ModelFolder:
    """Return a classifier folder of ours, or import a fine-tuned Hugging Face folder into the store.

    Raises:
        FolderError: the folder holds no classifier that can be cut.
    """
    if (path / MANIFEST).is_file():
        folder = ModelFolder.open(path)
        if not (folder.path / WEIGHTS).is_file() or not (folder.path / task_file.FILE).is_file():
            stage = folder.manifest.lineage[-1].stage
            raise FolderError(f"{path} is the result of '{stage}': wanted a classifier folder, as finetune makes it")
        return folder
    if not (path / CONFIG).is_file():
        raise FolderError(f"{path} has no {CONFIG}: wanted a fine-tuned Hugging Face folder, or one of prunella's")
    settings = {"source": load_source_id(path), "max_tokens": max_tokens}

    def make(target: Path) -> None:
        model = load_checkpoint(path)
        config = read_config(path)
        names = config.get("id2label") or {}
        labels = tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(model.labels))
        several = config.get("problem_type") == PROBLEMS["multi"]
        kind: Kind = "regression" if model.labels == 1 else "multi" if several else "single"
        task = Task(kind=kind, labels=labels, max_tokens=min(max_tokens, model.architecture.positions))
        save_checkpoint(model, task, target)
        task.write(target / task_file.FILE)
        shutil.copyfile(path / tokens.FILE, target / tokens.FILE)

    return run_stage(Stage("import", VERSION, settings), [], store, make).folder


def check_inputs(inputs: Inputs, weak_teacher: bool = False) -> float:
    """Return the source's accuracy on the validation rows, when all fits together.

    Raises:
        InputError: texts and model do not fit together, or the model is no better than the most frequent answer.
    """
    source, validation = inputs.source, inputs.validation
    asked = Task.read(source.path / task_file.FILE)
    for texts in (inputs.train, validation):
        if texts.pair != asked.pair:
            found = "pairs" if texts.pair else "single texts"
            raise InputError(f"{texts.source} has {found}, the model wants the other")
    if asked.kind == "regression":
        raise InputError(f"{source.path} answers with a number: what a cut loses is judged on labels only, so far")
    if read_architecture(source.path).family == "modernbert":
        raise InputError(f"{source.path} is a modernbert model, which cannot be exported, and so not compressed, yet")
    if inputs.train.labels is not None:
        inputs.train.targets(asked)  # a label that the model does not know
    truth = validation.targets(asked)
    tokenizer = Tokenizer.open(source.path, asked.max_tokens)
    _check_lengths(inputs, tokenizer)
    logits = predict(load_checkpoint(source.path), tokenizer.encode(validation.rows), tokenizer)
    accuracy = float(right(truth, asked.decide(asked.scores(logits))).mean())
    majority = float(np.unique(truth, axis=0, return_counts=True)[1].max() / len(truth))
    if accuracy <= majority:
        told = (
            f"{source.path} has an accuracy of {accuracy:.1%} on {validation.source}, and the most frequent answer "
            f"alone {majority:.1%}: there is nothing worth keeping in it"
        )
        if not weak_teacher:
            raise InputError(f"{told}; fine-tune it better, or say --weak-teacher to go on")
        sys.stderr.write(f"prunella: WARNING: {told}\n")
    return accuracy


def _check_lengths(inputs: Inputs, tokenizer: Tokenizer) -> None:
    served = np.array([len(e.ids) for e in tokenizer.encode(inputs.validation.rows)])
    train = np.array([len(e.ids) for e in tokenizer.encode(inputs.train.rows)])
    if (train >= np.median(served)).mean() < LONG_SHARE:
        raise InputError(
            f"{inputs.train.source} has texts of {np.median(train):.0f} tokens (median), {inputs.validation.source} "
            f"of {np.median(served):.0f}: a student would not learn from texts of the length that is served; give "
            "longer ones by --texts FILE"
        )
