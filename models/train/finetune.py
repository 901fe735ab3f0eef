"""finetune(): an encoder and labelled texts → a classifier folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import nn

from models import task as task_file
from models.atomic import write_text
from models.checkpoint import PROBLEMS, label_names, load_checkpoint, read_config, save_checkpoint
from models.classifier import Classifier
from models.console import say
from models.data.roles import RowRoles
from models.data.texts import Texts, check_labels
from models.distributed import join, processes, rank
from models.errors import InputError
from models.fit import check_tokenizer
from models.folder import REPORT, ModelFolder
from models.record import Settings
from models.stage import Made, Stage, run_stage, scratch_folder
from models.task import Kind, Task
from models.tokens import Encoded, Tokenizer
from models.train.history import History, keep_logs
from models.train.loop import Run, TrainingConfig, fit
from models.train.losses import LossConfig, check_loss, loss_for
from models.train.metrics import LOWER_IS_BETTER, Score, check_metric, choose_thresholds, score, watchable
from models.train.precision import computed_on, settle_precision
from models.train.predict import predict
from models.train.source import PADDED_ROWS, copy_tokenizer, load_source_id, resolve_encoder
from models.train.text_objective import TextObjective

VERSION = 3


class FinetuneConfig(Settings):
    """Settings of fine-tuning."""

    max_tokens: int = Field(128, ge=4, description="longest input in tokens; longer texts are cut, and counted")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of activations set to zero while training")
    one_of_several: bool = Field(False, description="whether the best of several models is taken")
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows to learn from, rows to watch, and rows that are looked at once, when all is decided.

    Where a step, thresholds or one of several models are chosen on the rows to watch, a half of these chooses and the
    score of the other is reported (`RowRoles`).
    """

    train: Texts
    validation: Texts
    test: Texts | None = None


def finetune(encoder: str, splits: Splits, config: FinetuneConfig, store: Path) -> Made:
    """Return the folder of a classifier trained on `splits.train`; what it scores is in its report.json.

    What chooses (a step by `training.metric`, thresholds of several labels a row) are not the rows of that score.

    A run that was killed goes on from its last snapshot. Another test set gives no new training.

    Raises:
        InputError: the data, the encoder or the settings do not fit together.
        CheckError: the training broke down.
    """
    folder = resolve_encoder(encoder)
    train, validation = splits.train, splits.validation
    for judged in (validation, splits.test):
        if judged is not None:
            check_labels(train, judged)
    _check_settings(train.kind, config)
    config = config.model_copy(update={"training": settle_precision(config.training, store)})
    task = Task(kind=train.kind, labels=train.label_names(), pair=train.pair, max_tokens=config.max_tokens)
    settings = {
        "encoder": load_source_id(folder), "train": train.sha256, "held_out": validation.sha256,
        "task": task.model_dump(mode="json"),
        **config.model_dump(mode="json", exclude={"one_of_several": True, "training": {"snapshot_minutes"}}),
        **processes(), **computed_on(),
    }  # fmt: skip
    if _chooses(train.kind, config):
        settings |= {"choosing": "half"}
    made = run_stage(
        Stage("finetune", VERSION, settings), [], store,
        lambda target: _make(target, folder, splits, task, config), together=True,
    )  # fmt: skip
    if splits.test is not None and rank() == 0:
        _report_test(made.folder, splits.test)
    return made


def _check_settings(kind: Kind, config: FinetuneConfig) -> None:
    """Refuse a setting that the training would pass over."""
    training = config.training
    known = check_metric(kind, training.metric)
    check_loss(kind, config.loss)
    if training.patience is not None and training.metric is None:
        raise InputError(
            f"--patience is {training.patience} and no metric is watched: give one, such as --metric {known}"
        )


def _chooses(kind: Kind, config: FinetuneConfig) -> bool:
    """Return whether anything is chosen on the validation rows."""
    return kind == "multi" or config.training.metric is not None or config.one_of_several


def _make(target: Path, folder: Path, splits: Splits, task: Task, config: FinetuneConfig) -> None:
    tokenizer = Tokenizer.open(folder, config.max_tokens)
    goes_on = _answers_alike(folder, task)
    model = load_checkpoint(folder, len(task.labels), config.training.seed, config.dropout, renewed=not goes_on)
    _check_tokenizer(folder, tokenizer, model, task.pair)
    roles = RowRoles(splits.validation, None)
    if chooses := _chooses(task.kind, config):
        roles = RowRoles.of(splits.validation)
        roles.announce("step, thresholds or seed")
    encoded, held_out = tokenizer.encode(splits.train.rows), tokenizer.encode(roles.choosing.rows)
    wanted, truth = splits.train.targets(task), roles.choosing.targets(task)
    if task.kind == "regression" and not goes_on:  # far targets are otherwise first learned by the whole encoder
        nn.init.constant_(model.head.out.bias, float(wanted.mean()))
    scratch = scratch_folder(target)
    run = Run(
        scratch=scratch,
        evaluate=lambda current: watchable(_judge(task, truth, predict(current, held_out, tokenizer))),  # type: ignore[arg-type]
        lower_is_better=config.training.metric in LOWER_IS_BETTER,
        describe="fine-tune",
    )
    history = fit(model, TextObjective(encoded, tokenizer, loss_for(task, wanted, config.loss)), config.training, run)
    logits = _predict(model, held_out, tokenizer)
    if task.kind == "multi":
        task = task.model_copy(update={"thresholds": choose_thresholds(truth, task.scores(logits))})
    save_checkpoint(model, task, target)
    task.write(target / task_file.FILE)
    copy_tokenizer(folder, target)
    keep_logs(scratch, target)
    chosen = watchable(_judge(task, truth, logits))
    if roles.reported is not None:
        truth = roles.reported.targets(task)
        logits = _predict(model, tokenizer.encode(roles.reported.rows), tokenizer)
    report = _report(task, truth, logits, history) | {"train_rows_at_max_tokens": _cut(encoded, config.max_tokens)}
    if chooses:
        report |= roles.summary()
        report["details"]["choosing"] = chosen
    write_text(target / REPORT, json.dumps(report, indent=2) + "\n")


def _predict(model: Classifier, encoded: list[Encoded], tokenizer: Tokenizer) -> np.ndarray:
    """Return logits (rows, labels), computed on the GPU if there is one; the model comes back from there."""
    logits = predict(model.to(join().device), encoded, tokenizer)
    model.to("cpu")
    return logits


def _answers_alike(folder: Path, task: Task) -> bool:
    """Return whether a checkpoint's outputs mean what this task's do; says so when only their number agrees."""
    config = read_config(folder)
    found = label_names(config, len(config.get("id2label") or {}))
    kind = config.get("problem_type")
    if kind == PROBLEMS[task.kind] and (found == task.labels or task.kind == "regression"):
        return True
    if kind is None and task.kind == "single" and found == task.labels:  # as many public checkpoints are
        return True
    if kind is not None and len(found) == len(task.labels):
        told = f"{', '.join(found[:5])} ({kind})"
        say(f"{folder} answers with {told}, these texts want {', '.join(task.labels[:5])}: a new output layer")
    return False


def _judge(task: Task, truth: np.ndarray, logits: np.ndarray) -> Score:
    return score(task, truth, task.scores(logits))


def _report(task: Task, truth: np.ndarray, logits: np.ndarray, history: History) -> dict[str, Any]:
    scores = _judge(task, truth, logits)
    return {
        **watchable(scores), "rows": len(truth), "steps": history.steps, "best_step": history.best_step,
        "seconds": round(history.seconds, 1), "tokens_per_second": round(history.tokens / history.seconds),
        "details": {"validation": scores.model_dump(mode="json"), "history": history.model_dump(mode="json")},
    }  # fmt: skip


def _report_test(folder: ModelFolder, test: Texts) -> None:
    """Add what the finished model scores on `test` to its report, unless it is there."""
    path = folder.path / REPORT
    report = json.loads(path.read_text(encoding="utf-8"))
    if report.get("test_sha256") == test.sha256:
        return
    task = Task.read(folder.path / task_file.FILE)
    tokenizer = Tokenizer.open(folder.path, task.max_tokens)
    logits = _predict(load_checkpoint(folder.path), tokenizer.encode(test.rows), tokenizer)
    scores = _judge(task, test.targets(task), logits)
    report |= {f"test_{name}": value for name, value in watchable(scores).items()}
    report |= {"test_rows": len(test), "test_sha256": test.sha256}
    report["details"]["test"] = scores.model_dump(mode="json")
    write_text(path, json.dumps(report, indent=2) + "\n")


def _check_tokenizer(folder: Path, tokenizer: Tokenizer, model: Classifier, pair: bool) -> None:
    check_tokenizer(folder, tokenizer, model.architecture, pair)
    rows, known = model.architecture.vocabulary, tokenizer.vocabulary
    if rows - known > PADDED_ROWS:
        raise InputError(f"{folder}: the tokenizer knows {known} tokens, the weights {rows}: two models were mixed")


def _cut(encoded: list[Encoded], max_tokens: int) -> float:
    return sum(len(e.ids) == max_tokens for e in encoded) / len(encoded)
