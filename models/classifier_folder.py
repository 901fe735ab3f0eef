"""Open a classifier folder (model, task and tokenizer), and copy task and tokenizer into another folder."""

import shutil
from pathlib import Path

from models import task as task_file
from models import tokenizer as tokenizer_file
from models.checkpoint import load_checkpoint
from models.classifier import Classifier
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Tokenizer


def open_classifier(folder: ModelFolder, dropout: float = 0.0) -> tuple[Classifier, Task, Tokenizer]:
    """Return model, task and tokenizer of a classifier folder; `dropout` is the dropout rate in training."""
    task = Task.read(folder.path / task_file.FILE)
    return load_checkpoint(folder.path, dropout=dropout), task, Tokenizer.open(folder.path, task.max_tokens)


def copy_texts(source: ModelFolder, task: Task, target: Path) -> None:
    """Write the task, and copy the tokenizer of `source`, into the folder `target`."""
    task.write(target / task_file.FILE)
    shutil.copyfile(source.path / tokenizer_file.FILE, target / tokenizer_file.FILE)
