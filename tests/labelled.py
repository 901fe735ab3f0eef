"""Small labelled rows for every kind of task, in which the words decide the label, for the tests of fine-tuning."""

import csv
from pathlib import Path

import numpy as np
from tiny import BAD, GOOD, OTHER, make_tiny_checkpoint

from models.data.labels import Label
from models.data.texts import Texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.store.folder import ModelFolder
from models.task import Kind
from models.train.loop import TrainingConfig

MEAN = 20.0  # of a regression's numbers, far from where a new head begins


def make_texts(kind: Kind = "single", count: int = 96, seed: int = 0, pair: bool = False) -> Texts:
    """Rows with up to three good and three bad words; what of them the label tells is the kind's."""
    draw = np.random.default_rng(seed)
    rows, labels = [], []
    for _ in range(count):
        good, bad = (int(n) for n in draw.integers(0, 4, 2))
        words = [*draw.choice(GOOD, good), *draw.choice(BAD, bad), *draw.choice(OTHER, 3)]
        text = " ".join(str(word) for word in draw.permutation(words))
        rows.append((text, "it was so") if pair else (text,))
        labels.append(_label(kind, good, bad))
    return Texts(rows, labels, "made up", kind)


def write_csv(path: Path, texts: Texts) -> Path:
    """Write the rows as a person would: several labels are joined by `|`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "text_pair", "label"] if texts.pair else ["text", "label"])
        for row, label in zip(texts.rows, texts.require_labels(), strict=True):
            writer.writerow([*row, "|".join(label) if isinstance(label, tuple) else label])
    return path


def make_learned(folder: Path, train: Texts, dev: Texts) -> tuple[Path, ModelFolder]:
    """Fine-tune a tiny model; return the folder of `train.csv`, `dev.csv` and `store`, and the classifier's own."""
    make_tiny_checkpoint(folder / "encoder")
    write_csv(folder / "train.csv", train)
    write_csv(folder / "dev.csv", dev)
    config = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=8, batch_size=16, learning_rate=2e-3))
    return folder, finetune(str(folder / "encoder"), Splits(train, dev), config, folder / "store").folder


def compress_learned(folder: Path, classifier: ModelFolder) -> tuple[object, ...]:
    """Return the command that compresses what `make_learned` returned."""
    return (
        "compress", classifier.path, "--train", folder / "train.csv", "--validation", folder / "dev.csv", "--size-mb",
        0.1, "--tolerance", 0.1, "--max-loss", 100, "--epochs", 2, "--store", folder / "store",
    )  # fmt: skip


def _label(kind: Kind, good: int, bad: int) -> Label:
    if kind == "single":
        return "mixed" if good == bad else "positive" if good > bad else "negative"
    if kind == "multi":
        return tuple(name for name, given in (("bad", bad), ("good", good), ("rich", good + bad > 4)) if given)
    return MEAN + good - bad
