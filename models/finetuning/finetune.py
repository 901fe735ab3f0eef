"""finetune(): trains a classifier from an encoder and labelled texts, and stores it as a model folder with a report.

The training itself is `models.train.loop.fit`. This file prepares the model, the rows and the task, selects the
decision thresholds of a multi-label task, and writes report.json.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from models import task as task_file
from models.checkpoint import (
    CONFIG,
    PROBLEMS,
    label_names,
    load_checkpoint,
    read_architecture,
    read_config,
    read_names,
    save_checkpoint,
)
from models.classifier import Classifier
from models.data.roles import RowRoles
from models.data.texts import Texts
from models.distributed import join, processes, rank
from models.finetuning.finetune_config import FinetuneConfig, Splits, TeachingConfig, check_encoder, complete
from models.finetuning.losses import loss_for
from models.finetuning.metrics import LOWER_IS_BETTER, Score, choose_thresholds, metric_values, score, standard_error
from models.finetuning.predict import predict
from models.finetuning.text_objective import TextObjective
from models.forms.embedding_classifier import EmbeddingClassifier
from models.messages import say
from models.store.atomic import write_text
from models.store.folder import REPORT, ModelFolder
from models.store.stage import Stage, StageResult, run_stage, scratch_folder
from models.task import Kind, Task
from models.teachers.guidance import Guidance
from models.teachers.open_teachers import OpenTeachers
from models.tokenizer import Encoded, Tokenizer
from models.train.history import History, keep_logs
from models.train.loop import Run, fit
from models.train.precision import computed_on, settle_precision
from models.train.starting_point import copy_tokenizer, load_source_id, resolve_encoder

__all__ = ["FinetuneConfig", "Splits", "check_teachers", "finetune"]
VERSION = 3
LATER = {"while_it_helps", "minutes", "pooling", "teaching"}  # settings that older folders in a store do not have


def finetune(encoder: str, splits: Splits, config: FinetuneConfig, store: Path) -> StageResult:
    """Return the folder of a classifier trained on `splits.train`; its scores are in its report.json.

    If enough validation rows are given, those that select something (a step by `training.metric`, the thresholds of
    a multi-label task) are not those whose score is reported, see `Splits`.

    A run that was killed resumes from its last snapshot. A different test set does not cause a new training.

    With `splits.teachers` the model learns their answers besides the labels; of `splits.texts`, their answers only.

    Raises:
        InputError: the data, the encoder or the settings do not fit together.
        CheckError: the loss is not finite, or a snapshot cannot be written.
    """
    folder, train = resolve_encoder(encoder, store), splits.train
    config = complete(encoder, splits, config, store)
    if config.pooling is None:
        _announce_pooling(Path(encoder))
    config = config.model_copy(update={"training": settle_precision(config.training, store)})
    task = Task(kind=train.kind, labels=splits.label_names, pair=train.pair, max_tokens=config.max_tokens)
    settings = {
        "encoder": load_source_id(folder), "train": train.sha256, "held_out": splits.validation.sha256,
        "task": task.model_dump(mode="json"), **_identity(config), **processes(), **computed_on(),
    }  # fmt: skip
    if _selects(train.kind, config):
        settings |= {"choosing": "half"}
    guidance = None
    if splits.teachers is not None:
        teachers, teaching = OpenTeachers.open(splits.teachers, task), config.teaching or TeachingConfig()
        settings |= {
            "teaching": teaching.model_dump(mode="json"), "teachers": teachers.identity(),
            "texts": splits.texts.sha256 if splits.texts else None,
        }  # fmt: skip
        guidance = teachers.teach(replace(splits, test=None), teaching, store)
    result = run_stage(
        Stage("finetune", VERSION, settings), [], store,
        lambda target: _train(target, folder, splits, task, config, guidance), together=True,
    )  # fmt: skip
    if splits.test is not None and rank() == 0:
        _add_test_scores(result.folder, splits.test)
    return result


def check_teachers(splits: Splits, max_tokens: int) -> None:
    """Open the teachers before texts are chosen for them, which takes long.

    Raises:
        FolderError: a folder has no classifier.
        InputError: a teacher has another task or other labels, or the file of scores has a bad row.
    """
    train = splits.train
    if splits.teachers is not None:
        task = Task(kind=train.kind, labels=splits.label_names, pair=train.pair, max_tokens=max_tokens)
        OpenTeachers.open(splits.teachers, task)


def _announce_pooling(encoder: Path) -> None:
    """Say if the new head reads something else than sentence-transformers does with this folder.

    Nothing is said of a built-in encoder, which is a name and no folder.
    """
    embedding = EmbeddingClassifier.open(encoder)
    if embedding is None or embedding.has_head():
        return
    ours, theirs = read_architecture(encoder).pooling, embedding.modules.pooling
    if ours != theirs:
        say(
            f"{encoder}: sentence-transformers pools '{theirs}'; a new head reads '{ours}', as transformers has it, "
            f"and --pooling {theirs} makes it do the same"
        )


def _error_of(config: FinetuneConfig, rows: int) -> Callable[[float], float] | None:
    """Return the function from a value of the watched metric on `rows` rows to its standard error."""
    metric = config.training.metric
    if metric is None or not config.while_it_helps:
        return None
    return lambda value: standard_error(metric, value, rows)


def _identity(config: FinetuneConfig) -> dict[str, Any]:
    """Return the settings that decide the result; those added later are left out unless they are used."""
    settings = config.model_dump(
        mode="json", exclude={"one_of_several": True, "automatic": True, "training": {"snapshot_minutes"}}
    )
    return {name: value for name, value in settings.items() if name not in LATER or value}


def _selects(kind: Kind, config: FinetuneConfig) -> bool:
    """Return whether a step, thresholds or one of several models is selected on the validation rows."""
    return kind == "multi" or config.training.metric is not None or config.one_of_several


def _train(  # noqa: PLR0913
    target: Path, folder: Path, splits: Splits, task: Task, config: FinetuneConfig, guidance: Guidance | None
) -> None:
    """Train the model of `folder` and fill `target` with the result."""
    tokenizer = Tokenizer.open(folder, config.max_tokens)
    keeps_output = _has_same_outputs(folder, task)
    seed = config.training.seed
    model = load_checkpoint(
        folder, len(task.labels), seed, config.dropout, new_output=not keeps_output, pooling=config.pooling
    )
    check_encoder(folder, tokenizer, model.architecture, task.pair)
    roles = RowRoles(splits.validation, None)
    if selects := _selects(task.kind, config):
        roles = RowRoles.of(splits.validation)
        roles.announce("step, thresholds or seed")
    encoded, held_out = tokenizer.encode(splits.training_rows), tokenizer.encode(roles.choosing.rows)
    train_targets, truth = splits.train.targets(task), roles.choosing.targets(task)
    if task.kind == "regression" and not keeps_output:
        # targets far from 0 would otherwise first be learned by the whole encoder
        nn.init.constant_(model.head.out.bias, float(train_targets.mean()))
    scratch = scratch_folder(target)
    run = Run(
        scratch=scratch,
        evaluate=lambda current: metric_values(_score(task, truth, predict(current, held_out, tokenizer))),  # type: ignore[arg-type]
        lower_is_better=config.training.metric in LOWER_IS_BETTER,
        minutes=config.minutes,
        while_it_helps=config.while_it_helps,
        error_of=_error_of(config, len(held_out)),
        describe="fine-tune",
    )
    loss_of = loss_for(task, train_targets, config.loss)
    if guidance is not None:
        loss_of = guidance.loss_for(task, splits, config.loss)
    history = fit(model, TextObjective(encoded, tokenizer, loss_of), config.training, run)
    logits = _predict(model, held_out, tokenizer)
    if task.kind == "multi":
        task = task.model_copy(update={"thresholds": choose_thresholds(truth, task.scores(logits))})
    save_checkpoint(model, task, target)
    task.write(target / task_file.FILE)
    copy_tokenizer(folder, target)
    keep_logs(scratch, target)
    selection_scores = metric_values(_score(task, truth, logits))
    if roles.reported is not None:
        truth = roles.reported.targets(task)
        logits = _predict(model, tokenizer.encode(roles.reported.rows), tokenizer)
    report = _report(task, truth, logits, history)
    if guidance is not None:
        report["teachers"] = guidance.report(task, roles.judged.rows, truth)
    report["train_rows_at_max_tokens"] = _share_at_max_tokens(encoded, config.max_tokens)
    if selects:
        report |= roles.summary()
        report["details"]["choosing"] = selection_scores
    write_text(target / REPORT, json.dumps(report, indent=2) + "\n")


def _predict(model: Classifier, encoded: list[Encoded], tokenizer: Tokenizer) -> np.ndarray:
    """Return logits (rows, labels), computed on the GPU if there is one; the model is on the CPU afterwards."""
    logits = predict(model.to(join().device), encoded, tokenizer)
    model.to("cpu")
    return logits


def _has_same_outputs(folder: Path, task: Task) -> bool:
    """Return whether the checkpoint has the outputs of this task; prints a message if only their number is equal."""
    config = read_config(folder)
    names = read_names(config, str(folder / CONFIG))
    labels = label_names(names, len(names))
    problem = config.get("problem_type")
    if problem == PROBLEMS[task.kind] and (labels == task.labels or task.kind == "regression"):
        return True
    if problem is None and task.kind == "single" and labels == task.labels:  # true of many public checkpoints
        return True
    if problem is not None and len(labels) == len(task.labels):
        say(
            f"{folder} answers with {', '.join(labels[:5])} ({problem}), the training texts have "
            f"{', '.join(task.labels[:5])}: the model gets a new output layer"
        )
    return False


def _score(task: Task, truth: np.ndarray, logits: np.ndarray) -> Score:
    return score(task, truth, task.scores(logits))


def _report(task: Task, truth: np.ndarray, logits: np.ndarray, history: History) -> dict[str, Any]:
    scores = _score(task, truth, logits)
    return {
        **metric_values(scores), "rows": len(truth), "steps": history.steps, "best_step": history.best_step,
        "seconds": round(history.seconds, 1), "tokens_per_second": round(history.tokens / history.seconds),
        "details": {"validation": scores.model_dump(mode="json"), "history": history.model_dump(mode="json")},
    }  # fmt: skip


def _add_test_scores(folder: ModelFolder, test: Texts) -> None:
    """Add the finished model's scores on `test` to its report, unless they are there."""
    path = folder.path / REPORT
    report = json.loads(path.read_text(encoding="utf-8"))
    if report.get("test_sha256") == test.sha256:
        return
    task = Task.read(folder.path / task_file.FILE)
    tokenizer = Tokenizer.open(folder.path, task.max_tokens)
    logits = _predict(load_checkpoint(folder.path), tokenizer.encode(test.rows), tokenizer)
    scores = _score(task, test.targets(task), logits)
    report |= {f"test_{name}": value for name, value in metric_values(scores).items()}
    report |= {"test_rows": len(test), "test_sha256": test.sha256}
    report["details"]["test"] = scores.model_dump(mode="json")
    write_text(path, json.dumps(report, indent=2) + "\n")


def _share_at_max_tokens(encoded: list[Encoded], max_tokens: int) -> float:
    return sum(len(e.ids) == max_tokens for e in encoded) / len(encoded)
