"""open_source(): what is compressed; check_inputs(): refuses, before any long work, what cannot work."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from bench.correlation import score_numbers
from bench.judging import METRICS, judge
from bench.recall import chance_of, informedness
from compress.provenance import OnTrainingRows
from compress.suited import check_texts
from export.stock import check_stock
from models import task as task_file
from models import tokens
from models.checkpoint import (
    CONFIG,
    PROBLEMS,
    WEIGHTS,
    label_names,
    load_checkpoint,
    read_architecture,
    read_config,
    save_checkpoint,
)
from models.console import say
from models.data.roles import RowRoles
from models.data.texts import Texts
from models.errors import FolderError, InputError
from models.fit import check_fit, check_tokenizer
from models.folder import MANIFEST, REPORT, ModelFolder
from models.stage import Stage, run_stage
from models.task import Kind, Task
from models.tokens import Tokenizer
from models.train.predict import predict
from models.train.source import load_source_id

VERSION = 2  # 1 left tensors out without a word
MOST_TOKENS = 512  # of a model that has positions for more, or none (ModernBERT), unless more are asked for
PLAIN_LABELS = ("LABEL_0", "LABEL_1")  # what transformers takes a config.json without names to have
LEARNED = 0.001  # chance that a model is so much better on rows it has not seen
CHANCE = 0.1  # of answers that ignore the text to be as good: more, and a model is taken for one of them
LONG_SHARE = 0.01  # of the training texts must be as long as the median served one


@dataclass(frozen=True, slots=True)
class Inputs:
    """A classifier and its texts."""

    source: ModelFolder
    train: Texts  # the student learns from them; labels are not needed
    validation: Texts  # labelled rows, as they are served: shapes are timed on them, and they choose
    test: Texts | None = None  # labelled rows that choose nothing: what is reported; None: `validation` is
    on_training_rows: OnTrainingRows = "unknown"  # whether the source learned from these rows

    @property
    def roles(self) -> RowRoles:
        """Which labelled rows choose, and which are reported."""
        return RowRoles(self.validation, self.test)

    def summary(self) -> dict[str, Any]:
        """Return the keys that say where the reported rows come from."""
        return {**self.roles.summary(), "judged_on_training_rows": self.on_training_rows}


def source_kind(path: Path) -> Kind:
    """Return how the labels of a classifier folder, ours or Hugging Face's, are read."""
    if (path / task_file.FILE).is_file():
        return Task.read(path / task_file.FILE).kind
    config = read_config(path)
    return _kind(config, len(config.get("id2label") or PLAIN_LABELS), path)


def open_source(path: Path, store: Path, pair: bool = False, max_tokens: int | None = None) -> ModelFolder:
    """Return a classifier folder of ours, or import a fine-tuned Hugging Face folder into the store.

    Args:
        path: the folder.
        store: finished work.
        pair: whether its rows are two texts: a Hugging Face folder does not say so, one of ours knows.
        max_tokens: longest input of a Hugging Face folder, in tokens; None: what it has positions for, 512 at most.

    Raises:
        FolderError: the folder holds no classifier that can be cut.
        InputError: `max_tokens` was given for a folder of ours, or is more than the model has positions for; or the
            tokenizer makes tokens that the model does not know.
    """
    if (path / MANIFEST).is_file():
        return _open_own(path, max_tokens)
    if not (path / CONFIG).is_file():
        raise FolderError(f"{path} has no {CONFIG}: wanted a fine-tuned Hugging Face folder, or one of prunella's")
    shape = read_architecture(path)
    longest = max_tokens or min(MOST_TOKENS, shape.positions)
    check_tokenizer(path, Tokenizer.open(path, longest), shape, pair)
    settings: dict[str, Any] = {"source": load_source_id(path), "max_tokens": max_tokens}
    if pair:
        settings |= {"pair": True}

    def make(target: Path) -> None:
        model = load_checkpoint(path)
        config = read_config(path)
        kind = _kind(config, model.labels, path)
        task = Task(kind=kind, labels=label_names(config, model.labels), pair=pair, max_tokens=longest)
        rows = "pairs" if pair else "single texts"
        say(f"{path}: taken as a model of {rows} of at most {longest} tokens; longer ones are cut (--max-tokens)")
        save_checkpoint(model, task, target)
        task.write(target / task_file.FILE)
        shutil.copyfile(path / tokens.FILE, target / tokens.FILE)

    return run_stage(Stage("import", VERSION, settings), [], store, make).folder


def _open_own(path: Path, max_tokens: int | None) -> ModelFolder:
    folder = ModelFolder.open(path)
    if not (folder.path / WEIGHTS).is_file() or not (folder.path / task_file.FILE).is_file():
        stage = folder.manifest.lineage[-1].stage
        raise FolderError(f"{path} is the result of '{stage}': wanted a classifier folder, as finetune makes it")
    check_fit(path, read_architecture(folder.path), Task.read(folder.path / task_file.FILE))
    if max_tokens is not None:
        known = Task.read(folder.path / task_file.FILE).max_tokens
        raise InputError(f"--max-tokens is for Hugging Face folders: {path} was trained on {known} tokens at most")
    return folder


def check_inputs(inputs: Inputs, weak_teacher: bool = False, any_text: bool = False) -> float:
    """Return what the source is worth on the labelled rows, when all fits together: accuracy, or a correlation.

    Warns where the model seems to have been trained on these rows.

    Raises:
        InputError: texts and model do not fit together (rows, labels, vocabulary, lengths), the model is pruned
            already, or what its answers tell about the labels may be chance (of a regression: its correlation).
    """
    source, labelled = inputs.source, inputs.roles.everything
    asked = Task.read(source.path / task_file.FILE)
    check_stock(source)
    for texts, what in ((inputs.train, "training"), (labelled, "validation")):
        check_texts(texts, asked, source.path, what, any_text)
    if inputs.train.labels is not None:
        inputs.train.targets(asked)  # a label that the model does not know
    truth = labelled.targets(asked)
    tokenizer = Tokenizer.open(source.path, asked.max_tokens)
    _check_lengths(inputs, tokenizer)
    logits = predict(load_checkpoint(source.path), tokenizer.encode(labelled.rows), tokenizer)
    answers = asked.decide(asked.scores(logits))
    weakness = _weakness(asked.kind, truth, answers)
    if weakness is not None:
        message = f"{source.path} {weakness} on {labelled.source}: there is nothing worth keeping in it"
        if not weak_teacher:
            raise InputError(
                f"{message}; fine-tune it better, give more labelled rows, or say --weak-teacher to go on"
            )
        say(f"WARNING: {message}")
    worth = judge(asked.kind, truth, answers)
    _warn_if_learned(source, asked.kind, worth, labelled)
    return worth


def _warn_if_learned(source: ModelFolder, kind: Kind, worth: float, labelled: Texts) -> None:
    """Say so where the model answers these rows better than rows that it had not seen."""
    path, metric = source.path / REPORT, METRICS[kind]
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kind == "regression" or not {metric, "rows"} <= report.keys():
        return
    shares, rows = np.array([worth, report[metric]]), np.array([len(labelled), report["rows"]])
    right = np.rint(shares * rows)
    if fisher_exact([right, rows - right], alternative="greater").pvalue < LEARNED:
        say(
            f"WARNING: the full model answers {worth:.1%} of {labelled.source} right, and "
            f"{report[metric]:.1%} of the rows that judged its training: it may have learned these by heart. A "
            "student cannot, and will seem to lose more than it does: give --validation rows it was not trained on"
        )


def _weakness(kind: Kind, truth: NDArray[Any], answers: NDArray[Any]) -> str | None:
    """Return what shows that answers may be no better than guessing, or None when they are."""
    if kind == "regression":
        found = score_numbers(truth, answers)
        (low, high), value = found.pearson_interval, found.pearson
        interval = f"has a correlation of {value:.2f} (95 % interval {low:.2f} to {high:.2f}), which may be chance,"
        return interval if low <= 0 else None
    told, chance = informedness(truth, answers), chance_of(truth, answers)
    if told > 0 and chance <= CHANCE:
        return None
    return (
        f"tells the labels apart no better than chance may (informedness {told:.2f}, 0 is any constant answer, 1 is "
        f"all right; answers that ignore the text reach it in {chance:.0%} of draws)"
    )


def _kind(config: dict[str, Any], outputs: int, path: Path) -> Kind:
    """Return the kind of task of a Hugging Face folder, by its config.json and as transformers tells them apart."""
    problem = config.get("problem_type")
    if problem == PROBLEMS["multi"]:
        return "multi"
    if problem == PROBLEMS["regression"] and outputs > 1:
        raise FolderError(f"{path} answers with {outputs} numbers: wanted labels, or one number")
    return "regression" if outputs == 1 else "single"


def _check_lengths(inputs: Inputs, tokenizer: Tokenizer) -> None:
    served = np.array([len(e.ids) for e in tokenizer.encode(inputs.validation.rows)])
    train = np.array([len(e.ids) for e in tokenizer.encode(inputs.train.rows)])
    if (train >= np.median(served)).mean() < LONG_SHARE:
        raise InputError(
            f"{inputs.train.source} has texts of {np.median(train):.0f} tokens (median), {inputs.validation.source} "
            f"of {np.median(served):.0f}: a student would not learn from texts of the length that is served; give "
            "longer ones by --texts FILE"
        )
