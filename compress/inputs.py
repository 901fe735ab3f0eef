"""read_inputs(): the files of a user → a classifier, texts to learn from, and rows that choose or are reported."""

from dataclasses import dataclass, replace
from pathlib import Path

from compress.provenance import judged_on_training_rows, split_train
from compress.source import Inputs, open_source, source_kind
from models import task as task_file
from models.data.roles import RowRoles
from models.data.texts import read_texts
from models.task import Task


@dataclass(frozen=True, slots=True)
class Files:
    """What the flags of `compress` name."""

    train: str
    validation: str | None = None  # None: a tenth of `train`
    test: str | None = None  # None: a half of `validation`
    texts: str | None = None  # more to learn from


def read_inputs(model: Path, files: Files, store: Path, max_tokens: int | None, seed: int) -> Inputs:
    """Return the inputs of a compression; stderr says which rows choose and which are reported.

    Raises:
        InputError: a file or the model is not what was wanted, or there are no labels to judge by.
    """
    kind = source_kind(model)
    train = read_texts(files.train, kind=kind)
    source = open_source(model, store, train.pair, max_tokens)
    task = Task.read(source.path / task_file.FILE)
    if train.labels is not None:
        train.targets(task)  # a label that the model does not know; --texts have none
    given = read_texts(files.validation, kind=kind) if files.validation else None
    if given is None:
        train, given, learned = split_train(train, source.path, seed)
    else:
        learned = judged_on_training_rows(train, given, source.path, seed)
    given.targets(task)
    roles = RowRoles(given, read_texts(files.test, kind=kind)) if files.test else RowRoles.of(given, seed)
    if files.test:
        roles.judged.targets(task)
        learned = judged_on_training_rows(train, roles.judged, source.path, seed)
    roles.announce("shapes, precisions and points")
    inputs = Inputs(source, train, roles.choosing, roles.reported, learned)
    return replace(inputs, train=train.joined(read_texts(files.texts, kind=kind))) if files.texts else inputs
