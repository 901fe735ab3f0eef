"""Teachers of each kind of task, made once, and files of their scores, for the tests of students."""

import csv
import json
from pathlib import Path

import numpy as np
from labelled import make_texts, write_csv
from tiny import make_tiny_checkpoint

from models.checkpoint import load_checkpoint
from models.data.texts import Texts, read_texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.finetuning.predict import predict
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.loop import TrainingConfig

LABELS = ("mixed", "negative", "positive")
KINDS = ("single", "multi", "regression")
CONFIG = FinetuneConfig(
    max_tokens=32, training=TrainingConfig(epochs=10, batch_size=16, learning_rate=2e-3, precision="fp32")
)


class Given:
    """An encoder, files of rows of each kind of task, and a teacher of each kind, in one folder with a store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        make_tiny_checkpoint(folder / "encoder", seed=1)
        make_tiny_checkpoint(folder / "large", seed=2)
        self.teachers: dict[str, ModelFolder] = {}
        for kind in KINDS:
            parts = {"train": (32, 1), "validation": (120, 2), "learned": (200, 3), "texts": (128, 4)}
            rows = {name: make_texts(kind, count, seed) for name, (count, seed) in parts.items()}
            for name, texts in rows.items():
                write_csv(self.path(name, kind), texts)
            splits = Splits(rows["learned"], rows["validation"])
            self.teachers[kind] = finetune(str(folder / "large"), splits, CONFIG, self.store).folder

    def path(self, name: str, kind: str = "single") -> Path:
        return self.folder / f"{name}-{kind}.csv"

    def rows(self, name: str, kind: str = "single") -> Texts:
        return read_texts(self.path(name, kind), kind=kind)

    def scores(self, kind: str, rows: list) -> tuple[tuple[str, ...], np.ndarray]:
        """The teacher's labels and probabilities, computed apart from the code under test."""
        folder = self.teachers[kind].path
        task = Task.read(folder / "task.json")
        tokenizer = Tokenizer.open(folder, task.max_tokens)
        return task.labels, task.scores(predict(load_checkpoint(folder), tokenizer.encode(rows), tokenizer))

    def write_scores(
        self, path: Path, kind: str = "single", names=("train", "validation", "texts"), order=None
    ) -> Path:
        rows = [row for name in names for row in self.rows(name, kind).rows]
        labels, scores = self.scores(kind, rows)
        order = order or range(len(labels))
        return write_table(path, ["text", *(labels[i] for i in order)], [
            [row[0], *(repr(float(line[i])) for i in order)] for row, line in zip(rows, scores, strict=True)
        ])  # fmt: skip


def write_table(path: Path, header: list, lines: list) -> Path:
    if path.suffix == ".jsonl":
        numbers = [[line[0], *map(float, line[1:])] for line in lines]
        path.write_text("".join(json.dumps(dict(zip(header, line, strict=True))) + "\n" for line in numbers))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        columns = list(zip(*[[line[0], *map(float, line[1:])] for line in lines], strict=True))
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(header, columns, strict=True))), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *lines])
    return path
