"""add_gate(): give a bundle a gate, with a bound on what the cascade of gate and student loses.

The stages are: learn the gate (folder `gate`), find its threshold on rows that chose nothing else, and write the
bundle with its gate (folder `cascade`). Losses and times are then measured on test rows, and are part of the report.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.measure.accuracy.difference import compare
from compress.cascade.cascade_answers import Floats, FullModel, Student
from compress.cascade.cascade_time import time_cascade
from compress.cascade.learn_gate import LearnConfig, Lesson, answers, check_count, learn_gate
from compress.cascade.row_checks import name_unseen, rows_apart, say_of_threshold, unseen_labels
from compress.cascade.threshold import CONFIDENCE, Chosen, GateRows, NoThreshold, choose_threshold, path_of
from compress.inputs.validate_texts import check_texts
from export.baseline.stock_export import FP32, stock_export
from models import tokenizer as tokenizer_file
from models.data.texts import Texts
from models.errors import InputError
from models.messages import WARNING, say
from models.schema import Settings
from models.store.atomic import write_text
from models.store.folder import MANIFEST, REPORT, ModelFolder, sha256_of
from models.store.stage import Stage, StageResult, run_stage
from models.task import Task
from models.tokenizer import Encoded, Row
from service.cascade.gate import Gate, GateInfo
from service.model import bundle as bundle_file
from service.model.bundle import Bundle, CascadeInfo

VERSION = 2
PATH = "thresholds.json"  # of a learned gate: the thresholds to test, the strictest first
UNSEEN = "unseen.json"  # of a learned gate: the labels that no training text has


class CascadeConfig(Settings):
    """Settings of a cascade."""

    max_loss: float = Field(0.5, gt=0, lt=100, description="points of accuracy that the cascade may lose")
    against: Literal["student", "full model"] = Field("student", description="the model against which they are lost")
    learn: LearnConfig = LearnConfig()
    seed: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True)
class CascadeTexts:
    """The rows of a cascade, by role."""

    train: Texts  # the gate learns from them; labels are not needed
    threshold: Texts  # labelled rows on which nothing else was chosen: they decide the threshold, and only that
    test: Texts | None = None  # labelled rows that choose nothing: losses and times are reported on them
    extra: Texts | None = None  # more texts to learn from, without labels


@dataclass(frozen=True, slots=True)
class Cascade:
    """A bundle with a gate, or the reason why there is none."""

    result: StageResult | None  # None: no threshold qualifies
    summary: dict[str, Any]  # the keys `cascade` and, without a gate, `cascade_problem`


def add_gate(  # noqa: PLR0913
    bundle: ModelFolder,
    texts: CascadeTexts,
    model: Path | None,
    config: CascadeConfig,
    store: Path,
    measure: bool = True,
) -> Cascade:
    """Learn a gate for a bundle, find its threshold, and return the bundle with the gate.

    Args:
        bundle: the folder of the bundle.
        texts: the rows by role.
        model: the classifier that the bundle was made from: the gate learns from its answers, and losses and times
            are compared with its. None: the gate learns from the student's, and losses are against those.
        config: the loss that is allowed, and how the gate is learned.
        store: folder of finished stages.
        measure: whether losses and times are measured; without it the summary has the bound only.

    Raises:
        InputError: the task has no gate (pairs, several labels, numbers), rows lack labels or are too few to learn
            from, or the full model is not at hand and the loss is to be bounded against it.
    """
    opened = Bundle.open(bundle.path)
    _check(opened.task, texts, bundle.path)
    texts = _apart(texts)
    say_of_threshold(texts.threshold, opened.task, config.max_loss)
    if model is None and config.against == "full model":
        raise InputError("the loss is to be bounded against the full model, and there is none: give --model FOLDER")
    if model is None:
        say("--model is not given: the gate learns from the student, and losses are against the student")
    full = None if model is None else FullModel.open(model, opened.task, store)
    if full is not None and not _made_from(bundle, full.folder):
        say(f"{WARNING}{model} is not the model that {bundle.path} was made from: losses and times are against it")
    models = CascadeModels(Student(opened), full, store)
    learned = _learned_gate(bundle, models, texts, config.learn)
    gate = Gate.open(learned.path)
    path = [tuple(one) for one in json.loads((learned.path / PATH).read_text(encoding="utf-8"))]
    rows = texts.threshold
    judged = models.judge(gate, rows, config.against == "full model")
    chosen = choose_threshold(judged, path, config.max_loss)
    if isinstance(chosen, NoThreshold):
        kept = "" if opened.gate is None else ", and keeps the one that it has"
        say(f"{WARNING}the bundle gets no gate{kept}: {chosen.problem}")
        return Cascade(None, {"cascade": None, "cascade_problem": chosen.problem})
    gate = _opened_gate(gate, chosen, judged, config)
    stage = Stage("cascade", VERSION, {"gate": gate.info.model_dump(mode="json"), "rows": rows.sha256})
    result = run_stage(stage, [bundle, learned], store, lambda target: _write(opened, gate, target))
    if not measure:
        return Cascade(result, {"cascade": _bound(gate)})
    summary = {"cascade": _bound(gate) | _measure(gate, models, texts, config.seed)}
    _write_report(bundle.path, result.folder.path, summary)
    return Cascade(result, summary)


@dataclass(frozen=True, slots=True)
class CascadeModels:
    """The models whose answers a cascade is learned and judged with."""

    student: Student
    full: FullModel | None
    store: Path

    def scores(self, rows: list[Row], encoded: list[Encoded]) -> Floats:
        """Return the probabilities that the gate learns: those of the full model, or of the student."""
        if self.full is not None:
            return self.full.scores(rows, self.store)
        return self.student.task.scores(self.student.logits(encoded))

    def judge(self, gate: Gate, rows: Texts, against_full: bool) -> GateRows:
        """Return the answers of gate, student and reference (the full model, or the student) to labelled rows."""
        encoded, truth = self.student.engine.tokenizer.encode(rows.rows), rows.targets(self.student.task)
        label, confidence = answers(gate, [one.ids for one in encoded])
        student = reference = self.student.logits(encoded).argmax(axis=1)
        if against_full:
            assert self.full is not None, "add_gate refuses a bound against a full model that is not given"
            reference = self.full.scores(rows.rows, self.store).argmax(axis=1)
        return GateRows(label, confidence, student, reference, np.asarray(truth, dtype=np.int64))


def check_task(task: Task, path: Path) -> None:
    """Refuse tasks that have no gate.

    Raises:
        InputError: the model at `path` reads pairs of texts, gives several labels, or a number, or has windows.
    """
    forms = {"single": "reads pairs of texts", "multi": "gives several labels", "regression": "gives a number"}
    if task.windows is not None:
        raise InputError(f"{path} cuts long texts into windows: a gate reads truncated texts, so it can have none")
    if task.kind != "single" or task.pair:
        raise InputError(f"{path} {forms[task.kind]}: a gate is for models that give one label to one text")


def _check(task: Task, texts: CascadeTexts, path: Path) -> None:
    """Refuse tasks without a gate and rows without labels, before any long work."""
    check_task(task, path)
    named = {"training": texts.train, "threshold": texts.threshold, "test": texts.test, "extra": texts.extra}
    for purpose, rows in named.items():
        if rows is None:
            continue
        check_texts(rows, task, path, purpose, any_text=True)
        if purpose in ("threshold", "test") or (purpose == "training" and rows.labels is not None):
            rows.targets(task)  # raises for missing labels, and for labels that the model does not have
    check_count(len(texts.train))


def _learned_gate(
    bundle: ModelFolder, models: CascadeModels, texts: CascadeTexts, config: LearnConfig
) -> ModelFolder:
    """Return the folder of the learned gate, which is closed, and of the thresholds that will be tested."""
    extra = texts.extra
    settings = {
        "train": texts.train.sha256, "texts": None if extra is None else extra.sha256,
        **config.model_dump(mode="json"),
    }  # fmt: skip
    parents = [bundle] if models.full is None else [bundle, models.full.folder]

    def make(target: Path) -> None:
        rows = [*texts.train.rows, *(() if extra is None else extra.rows)]
        tokenizer, task = models.student.engine.tokenizer, models.student.task
        encoded = tokenizer.encode(rows)
        truth = np.full(len(rows), -1, dtype=np.int64)
        if texts.train.labels is not None:
            truth[: len(texts.train)] = texts.train.targets(task)
        tokens, scores = [one.ids for one in encoded], models.scores(rows, encoded)
        lesson = Lesson(tokens, truth, scores, len(task.labels), tokenizer.vocabulary, len(texts.train))
        (target / UNSEEN).write_text(json.dumps(unseen_labels(task, lesson.targets())), encoding="utf-8")
        learned = learn_gate(lesson, config, sha256_of(bundle.path / tokenizer_file.FILE))
        learned.gate.save(target)
        (target / PATH).write_text(json.dumps(path_of(learned.confidence)), encoding="utf-8")

    folder = run_stage(Stage("gate", VERSION, settings), parents, models.store, make).folder
    if (folder.path / UNSEEN).is_file():  # a folder of an earlier version has none
        name_unseen(json.loads((folder.path / UNSEEN).read_text(encoding="utf-8")))
    return folder


def _made_from(bundle: ModelFolder, model: ModelFolder) -> bool:
    """Whether the lineage of a bundle names a model: the one that was cut, or a larger one that taught it."""
    steps = bundle.manifest.lineage
    return model.id in {one for step in steps for one in (*step.parents, step.config.get("baseline"))}


def _apart(texts: CascadeTexts) -> CascadeTexts:
    """Leave out threshold rows that are training texts, and test rows that are either: on those a gate is too good.

    Case, punctuation and spaces make no difference: a gate that has learned a text knows those variants as well.
    """
    learned = [*texts.train.rows, *(() if texts.extra is None else texts.extra.rows)]
    threshold = rows_apart(texts.threshold, learned, "training texts", "the threshold is found", "--validation")
    if texts.test is None:
        return replace(texts, threshold=threshold)
    seen = [*learned, *threshold.rows]
    test = rows_apart(texts.test, seen, "training or validation texts", "losses are measured", "--test")
    return replace(texts, threshold=threshold, test=test)


def _opened_gate(gate: Gate, chosen: Chosen, rows: GateRows, config: CascadeConfig) -> Gate:
    """Return the gate with its threshold, and with what is known of it."""
    bound = 100 * min(chosen.bound(), config.max_loss / 100)
    info = gate.info.model_copy(update={
        "thresholds": chosen.thresholds, "max_loss": config.max_loss, "bound_points": bound,
        "confidence": CONFIDENCE, "reference": config.against, "share": chosen.share, "rows": len(rows.truth),
        "disagreements": rows.disagreements(chosen.thresholds),
    })  # fmt: skip
    return Gate.of(info, gate.table)


def _write(bundle: Bundle, gate: Gate, target: Path) -> None:
    shutil.copytree(bundle.folder.path, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
    info = bundle.info.model_copy(update={"cascade": CascadeInfo.of(gate.info)})
    info.write(target / bundle_file.FILE)
    gate.save(target)


def _write_report(bundle: Path, target: Path, summary: dict[str, Any]) -> None:
    """Write the present report of the bundle, with the summary, into the bundle with the gate."""
    path = bundle / REPORT
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_text(target / REPORT, json.dumps(report | summary, indent=2) + "\n")


def _bound(gate: Gate) -> dict[str, Any]:
    """Return what the last line says of the rows that decided the threshold."""
    info = gate.info
    return {
        "share": info.share, "threshold": info.threshold, "bound_points": info.bound_points,
        "max_loss": info.max_loss, "bounded_against": info.reference, "confidence": info.confidence,
        "rows": info.rows, "bytes": gate.table.nbytes,
    }  # fmt: skip


def _measure(gate: Gate, models: CascadeModels, texts: CascadeTexts, seed: int) -> dict[str, Any]:
    """Return what the last line says of losses and times on the test rows."""
    full = models.full
    rows = texts.test or texts.threshold
    rows = rows.take(np.random.default_rng(seed).permutation(len(rows)).tolist())
    graph = None if full is None else stock_export(full.folder, models.store).folder.path / FP32
    encoded = models.student.engine.tokenizer.encode(rows.rows)
    times = time_cascade(models.student, gate, encoded, rows.rows, graph).model_dump()
    if texts.test is None:
        return times | {"test_rows": 0, "loss_points": None, "loss_interval": None}
    return times | _losses(models.judge(gate, rows, full is not None), gate.info, full is not None)


def _losses(rows: GateRows, info: GateInfo, against_full: bool) -> dict[str, Any]:
    """Return the losses on the test rows, and the accuracies of the two stages."""
    answered, cascade = rows.answered(info.thresholds), rows.cascade(info.thresholds)
    lost, added = compare(rows.truth, rows.reference, cascade), compare(rows.truth, rows.student, cascade)

    def accuracy(labels: NDArray[np.int64], where: NDArray[np.bool_]) -> float | None:
        return float((labels == rows.truth)[where].mean()) if where.any() else None

    everywhere = np.ones_like(answered)
    return {
        "test_rows": len(rows.truth), "test_share": float(answered.mean()),
        "loss_against": "full model" if against_full else "student",
        "loss_points": lost.loss_points, "loss_interval": list(lost.loss_interval),
        "student_loss_points": compare(rows.truth, rows.reference, rows.student).loss_points,
        "added_loss_points": added.loss_points, "added_loss_interval": list(added.loss_interval),
        "accuracy": accuracy(cascade, everywhere), "student_accuracy": accuracy(rows.student, everywhere),
        "answered_by_gate": {
            "gate_accuracy": accuracy(rows.label, answered), "student_accuracy": accuracy(rows.student, answered)
        },
        "answered_by_student": {"student_accuracy": accuracy(rows.student, ~answered)},
    }  # fmt: skip
