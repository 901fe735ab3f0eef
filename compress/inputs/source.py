"""Open the classifier that is compressed, and check before any long work that it and the texts fit together.

open_source() returns a classifier folder, and imports a Hugging Face folder into the store. check_inputs() raises
InputError when the compression could not work, or its result could not be evaluated.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from bench.measure.accuracy.correlation import score_numbers
from bench.measure.accuracy.task_metric import METRICS, metric_value
from compress.inputs.inputs import CompressionInputs, EncodedInputs
from compress.inputs.validate_texts import check_texts
from export.baseline.stock_export import check_stock
from models import task as task_file
from models import tokenizer as tokenizer_file
from models.architecture import Architecture
from models.checkpoint import (
    load_checkpoint,
    read_architecture,
    read_config,
    save_checkpoint,
)
from models.compatibility import check_fit, check_tokenizer
from models.data.texts import Texts
from models.errors import FolderError, InputError
from models.families import FAMILIES
from models.finetuning.informedness import chance_of, informedness
from models.forms.config_refusals import without_head
from models.forms.head_task import HeadTask, read_head_task
from models.forms.tokenizer_check import model_max_length
from models.messages import say
from models.store.folder import MANIFEST, REPORT, ModelFolder
from models.store.stage import Stage, run_stage
from models.task import Combine, Kind, Task
from models.tokenizer import Tokenizer
from models.train.starting_point import load_source_id
from models.weights import SAFETENSORS

VERSION = 4  # 1 dropped tensors silently, 2 had no activation of the score, 3 took int8 and NaN weights
DEFAULT_MAX_TOKENS = 512  # of a model with more positions, or without position embeddings (ModernBERT)
MEMORIZED_P = 0.001  # p-value of Fisher's test below which a model seems to have been trained on the rows
GUESSING_P = 0.1  # p-value of the permutation test above which answers count as no better than guessing
FEWEST_TEXTS = 2  # for training: the loss of a width is not measured on the texts that correct its weights
LONG_SHARE = 0.01  # of the training texts must be as long as the median served text


def source_kind(path: Path) -> Kind:
    """Return the task kind of a classifier folder of Prunella or Hugging Face: it decides how labels are read."""
    if (path / task_file.FILE).is_file():
        return Task.read(path / task_file.FILE).kind
    return _head_task(path).kind


def open_source(path: Path, store: Path, pair: bool = False, max_tokens: int | None = None) -> ModelFolder:
    """Open a classifier folder of Prunella, or import a fine-tuned Hugging Face folder into the store.

    Args:
        path: the folder.
        store: folder of finished stages.
        pair: whether a row is a pair of texts; used for Hugging Face folders only, which do not record it.
        max_tokens: maximum input length of a Hugging Face folder; None: its number of positions, 512 at most.

    Raises:
        FolderError: the folder has no classifier that can be pruned.
        InputError: `max_tokens` was given for a folder of Prunella, or is more than the positions of the model; or
            the tokenizer returns ids that the model does not have.
    """
    if (path / MANIFEST).is_file():
        return _open_own(path, max_tokens)
    shape, head = read_architecture(path), _head_task(path)
    limit = max_tokens or default_max_tokens(path, shape)
    check_tokenizer(path, Tokenizer.open(path, limit), shape, pair)
    settings: dict[str, Any] = {"source": load_source_id(path), "max_tokens": max_tokens}
    settings |= FAMILIES[shape.family].revision
    if pair:
        settings |= {"pair": True}

    def make(target: Path) -> None:
        rows = "pairs" if pair else "single texts"
        say(
            f"{path}: imported as a model of {rows} of at most {limit} tokens; longer ones are cut (--max-tokens)"
            f"{head.score_sentence()}"
        )
        task = head.task(pair, limit)
        save_checkpoint(load_checkpoint(path), task, target)
        task.write(target / task_file.FILE)
        tokenizer_file.copy_file(path, target)

    return run_stage(Stage("import", VERSION, settings), [], store, make).folder


def with_windows(source: ModelFolder, store: Path, windows: int | None, combine: Combine | None) -> ModelFolder:
    """Return a classifier whose task says that long texts have windows; `source` itself if nothing is asked for.

    Raises:
        InputError: the model takes pairs.
    """
    if windows is None and combine is None:
        return source
    task = Task.read(source.path / task_file.FILE)
    chosen = windows or task.windows or 1
    if chosen > 1 and task.pair:
        raise InputError(f"--windows is for single texts, and {source.path} takes pairs: leave it out")
    changed = task.model_copy(update={"windows": None, "windows_combine": None})
    if chosen > 1:
        changed = task.model_copy(update={"windows": chosen, "windows_combine": combine or task.windows_combine})
    settings = {"windows": changed.windows, "combine": changed.windows_combine}

    def make(target: Path) -> None:
        for file in source.path.iterdir():
            if file.name not in (MANIFEST, task_file.FILE):
                shutil.copyfile(file, target / file.name)
        changed.write(target / task_file.FILE)

    return run_stage(Stage("windows", 1, settings), [source], store, make).folder


def default_max_tokens(path: Path, shape: Architecture) -> int:
    """Return the maximum input length of a Hugging Face folder: what its tokenizer says, within its positions."""
    return min(DEFAULT_MAX_TOKENS, shape.positions, model_max_length(path) or DEFAULT_MAX_TOKENS)


def _head_task(path: Path) -> HeadTask:
    head = read_head_task(path)
    if head is None:
        raise FolderError(without_head(path, read_config(path)))
    return head


def _open_own(path: Path, max_tokens: int | None) -> ModelFolder:
    folder = ModelFolder.open(path)
    if not (folder.path / SAFETENSORS).is_file() or not (folder.path / task_file.FILE).is_file():
        stage = folder.manifest.lineage[-1].stage
        raise FolderError(f"{path} is the result of '{stage}': wanted a classifier folder, such as one of finetune")
    task = Task.read(folder.path / task_file.FILE)
    check_fit(path, read_architecture(folder.path), task)
    if max_tokens is not None:
        raise InputError(
            f"--max-tokens is for Hugging Face folders: {path} was trained on {task.max_tokens} tokens at most"
        )
    return folder


def check_inputs(inputs: CompressionInputs, weak_teacher: bool = False, any_text: bool = False) -> float:
    """Check that the source and the texts fit together, and return the source's score on the labelled rows.

    The score is accuracy, or a correlation for a regression. A warning is printed if the model seems to have been
    trained on these rows.

    Raises:
        InputError: texts and model do not fit together (rows, labels, vocabulary, lengths), there are fewer than
            FEWEST_TEXTS training texts, the model is pruned already, or its answers may be no better than guessing
            (for a regression: its correlation may be 0).
    """
    source, labelled = inputs.source, inputs.roles.everything
    task = Task.read(source.path / task_file.FILE)
    check_stock(source)
    for texts, purpose in ((inputs.train, "training"), (labelled, "validation")):
        check_texts(texts, task, source.path, purpose, any_text)
    if len(inputs.train) < FEWEST_TEXTS:
        raise InputError(
            f"{inputs.train.source} has one training text: wanted {FEWEST_TEXTS} or more; give more with --texts FILE"
        )
    if inputs.train.labels is not None:
        inputs.train.targets(task)  # raises for a label that the model does not have
    truth = labelled.targets(task)
    encoded = inputs.encoded(source)
    _check_lengths(inputs, encoded)
    predictions = task.decide(task.scores(inputs.logits(inputs.source)))
    weakness = _weakness(task.kind, truth, predictions)
    if weakness is not None:
        message = f"the full model {weakness} on the {len(labelled)} rows of {labelled.source}"
        if not weak_teacher:
            raise InputError(
                f"{message}: the loss of a smaller model cannot be measured with these rows. Give more labelled "
                "rows, above all of rare labels, or fine-tune it better, or pass --weak-teacher to continue"
            )
        say(f"WARNING: {message}")
    score = metric_value(task.kind, truth, predictions)
    _warn_if_memorized(source, task.kind, score, labelled)
    return score


def _warn_if_memorized(source: ModelFolder, kind: Kind, score: float, labelled: Texts) -> None:
    """Warn if the model is much better on these rows than on the rows that evaluated its training."""
    path, metric = source.path / REPORT, METRICS[kind]
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kind == "regression" or not {metric, "rows"} <= report.keys():
        return
    shares, rows = np.array([score, report[metric]]), np.array([len(labelled), report["rows"]])
    correct = np.rint(shares * rows)
    if fisher_exact([correct, rows - correct], alternative="greater").pvalue < MEMORIZED_P:
        say(
            f"WARNING: the full model answers {score:.1%} of {labelled.source} right, but {report[metric]:.1%} of "
            "the rows on which its training was evaluated: it may have learned these by heart. A student cannot, so "
            "its reported loss will be too large: give --validation rows that it was not trained on"
        )


def _weakness(kind: Kind, truth: NDArray[Any], predictions: NDArray[Any]) -> str | None:
    """Return why the predictions may be no better than guessing, as a part of a sentence; None: they are better."""
    if kind == "regression":
        score = score_numbers(truth, predictions)
        low, high = score.pearson_interval
        interval = f"95 % interval {low:.2f} to {high:.2f}"
        return f"has a correlation of {score.pearson:.2f} ({interval}), which may be chance," if low <= 0 else None
    informed, p_value = informedness(truth, predictions), chance_of(truth, predictions)
    if informed > 0 and p_value <= GUESSING_P:
        return None
    return (
        f"is not better than guessing (informedness {informed:.2f}, where 0 is any constant answer and 1 is all "
        f"correct; its answers in random order are as good in {p_value:.0%} of draws)"
    )


def _check_lengths(inputs: CompressionInputs, encoded: EncodedInputs) -> None:
    served, train = np.array(encoded.validation.lengths), np.array(encoded.train.lengths)
    if (train >= np.median(served)).mean() < LONG_SHARE:
        raise InputError(
            f"{inputs.train.source} has texts of {np.median(train):.0f} tokens (median), {inputs.validation.source} "
            f"of {np.median(served):.0f}: a student would not learn from texts of the length that is served; give "
            "longer ones with --texts FILE"
        )
