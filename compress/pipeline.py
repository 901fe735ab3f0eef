"""compress(): a fine-tuned classifier, texts and a target → the smaller, healed, quantized bundle that reaches it.

trim → analyse → (for each target) prune → heal → bundle → judge. Every stage is a folder in the store: what several
targets share is made once, and a killed run goes on where it was.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from compress.analysis import Analysis, AnalysisConfig, analyse
from compress.budget import size_table
from compress.bundle import CALIBRATION_ROWS, JUDGED_ROWS, BundleConfig, BundleTexts, make_bundle
from compress.calibration import choose_texts, pad_texts
from compress.clock import Clock, Job, Measured
from compress.distill import DistillConfig, Lessons, distill
from compress.latency import load_latency
from compress.refit import refit
from compress.search import Plan, make_frontier
from compress.source import Inputs
from compress.surgery import choose_rungs, cut
from compress.target import Space, Target, meet
from compress.teacher import Teacher, teach
from compress.trim import trim_source
from export import precision
from export.precision import Precision
from export.stock import FP32, stock_export
from models import task as task_file
from models import tokens
from models.architecture import Architecture
from models.checkpoint import load_checkpoint, read_architecture, save_checkpoint
from models.classifier import Classifier, TensorBatch
from models.console import say
from models.data.texts import Texts
from models.distributed import processes
from models.errors import NoEffectError
from models.folder import REPORT, ModelFolder
from models.record import Record
from models.stage import Made, Stage, run_stage, scratch_folder
from models.task import Task
from models.tokens import Encoded, Tokenizer
from service.runtime import open_session

VERSION = 3
LENGTHS = 5  # quantiles of the served lengths at which sublayers are timed
TIMED_TEXTS = 24  # served texts on which a shape is timed


class CompressConfig(Record):
    """Settings of compression."""

    tolerance: float = Field(0.05, gt=0, lt=1, description="share by which a measured figure may miss the target")
    vocabulary: bool = Field(True, description="whether tokens that the texts do not use are dropped")
    analysis: AnalysisConfig = AnalysisConfig()
    heal: DistillConfig | None = Field(DistillConfig(), description="None: nothing is trained")
    refit: bool = Field(True, description="whether the cut model is fitted to the full one's residual stream")
    state_layers: int = Field(2, ge=0, description="layers whose hidden states the student learns from")
    seed: int = Field(0, ge=0, description="of the texts that are measured on")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What every target shares."""

    inputs: Inputs
    base: ModelFolder  # the source, or the source with fewer tokens: teacher and starting point of every student
    analysis: ModelFolder
    teacher: ModelFolder | None
    reference: Path  # the source's graph in fp32, as optimum exports it


def prepare(inputs: Inputs, config: CompressConfig, store: Path) -> Prepared:
    """Trim, analyse, and let the teacher answer."""
    base = _trimmed(inputs, store) if config.vocabulary else inputs.source
    texts = {"texts": inputs.train.sha256, "served": inputs.validation.sha256, "seed": config.seed}
    analysis = run_stage(
        Stage("analyse", VERSION, {**texts, **config.analysis.model_dump(mode="json")}),
        [base],
        store,
        lambda target: _analyse(base, inputs, config, target),
    ).folder
    teacher = None
    if config.heal is not None:
        layers = _state_layers(config, len(load_checkpoint(base.path).architecture.layers))
        stage = Stage("teach", VERSION, {"texts": inputs.train.sha256, "layers": layers})
        teacher = run_stage(stage, [base], store, lambda target: _teach(base, inputs, layers, target)).folder
    return Prepared(inputs, base, analysis, teacher, stock_export(inputs.source, store).folder.path / FP32)


def compress_to(target: Target, ready: Prepared, config: CompressConfig, store: Path) -> Made:
    """Return the bundle that reaches `target`.

    Raises:
        TargetError: no shape does on this machine.
    """
    settings = {
        **target.model_dump(mode="json"), "served": ready.inputs.validation.sha256, "tolerance": config.tolerance,
        "refit": config.refit,
    }  # fmt: skip
    student = run_stage(
        Stage("prune", VERSION, settings), [ready.base, ready.analysis], store,
        lambda folder: _prune(target, ready, config, store, folder),
    )  # fmt: skip
    is_cut = read_architecture(student.folder.path) != read_architecture(ready.base.path)
    if config.heal is not None and is_cut:
        assert ready.teacher is not None
        decides = config.heal.model_dump(mode="json", exclude={"training": {"snapshot_minutes"}})
        pruned = student.folder
        student = run_stage(
            Stage("heal", VERSION, {**decides, **processes()}), [pruned, ready.teacher], store,
            lambda folder: _heal(pruned, ready, config, folder), together=True,
        )  # fmt: skip
    texts = BundleTexts.of(_served_like(ready, config))
    return make_bundle(student.folder, texts, BundleConfig(recipe="static"), store)


def _trimmed(inputs: Inputs, store: Path) -> ModelFolder:
    try:
        return trim_source(inputs, store).folder
    except NoEffectError as error:
        say(f"the vocabulary stays as it is: {error}")
        return inputs.source


def _opened(folder: ModelFolder) -> tuple[Classifier, Task, Tokenizer]:
    task = Task.read(folder.path / task_file.FILE)
    return load_checkpoint(folder.path), task, Tokenizer.open(folder.path, task.max_tokens)


def _analyse(base: ModelFolder, inputs: Inputs, config: CompressConfig, target: Path) -> None:
    model, task, tokenizer = _opened(base)
    encoded, served = tokenizer.encode(inputs.train.rows), tokenizer.encode(inputs.validation.rows)
    asked = config.analysis
    chosen = choose_texts(_lengths(encoded), _lengths(served), asked.texts + asked.cost_texts, config.seed)
    count = min(asked.cost_texts, len(chosen) // 2)  # no text for both: corrections would flatter their own costs
    fitted, judged = (pad_texts(encoded, rows, tokenizer) for rows in (chosen[count:], chosen[:count]))
    analyse(model, fitted, judged, asked, task).save(target)


def _teach(base: ModelFolder, inputs: Inputs, layers: list[int], target: Path) -> None:
    model, _, tokenizer = _opened(base)
    teach(model, tokenizer.encode(inputs.train.rows), tokenizer, layers, target)


def _state_layers(config: CompressConfig, layers: int) -> list[int]:
    """Return `state_layers` layers, the last among them, evenly apart."""
    count = min(config.state_layers, layers)
    return [round((i + 1) * layers / count) - 1 for i in range(count)]


def _prune(target: Target, ready: Prepared, config: CompressConfig, store: Path, folder: Path) -> None:
    model, task, tokenizer = _opened(ready.base)
    analysis = Analysis.open(ready.analysis.path)
    served = tokenizer.encode(ready.inputs.validation.rows)
    clock, more = open_clock(ready, tokenizer, task.pair), (ready.base.path / tokens.FILE).stat().st_size

    def build(shape: Architecture) -> Classifier:
        return model if shape == model.architecture else cut(model, choose_rungs(analysis.ladders, shape))

    def measure(plan: Plan) -> Measured:
        return clock.measure(build(plan.architecture), plan.precision, more)

    empty = model.architecture.with_layers([(0, 0)] * len(model.architecture.layers))
    bare = measure(Plan(empty, Precision.all_int8(empty)))
    if target.kind == "size_mb":
        table = size_table(model.architecture, bare.bytes)
    else:
        lengths = [int(q) for q in np.quantile(_lengths(served), np.linspace(0.1, 0.9, LENGTHS))]
        table = load_latency(model.architecture, lengths, store)
    frontier = make_frontier(model.architecture, analysis.costs, analysis.rounding, table)
    space = Space(model.architecture, frontier, table)
    plan, measured = meet(target, space, bare.reference_ms, measure, config.tolerance)
    student = build(plan.architecture)
    if student is model:
        say(f"int8 alone gives {target.told(measured)}: nothing is cut")
    elif config.refit:
        encoded = tokenizer.encode(ready.inputs.train.rows)
        rows = choose_texts(_lengths(encoded), _lengths(served), config.analysis.texts, config.seed)
        refit(student, model, [TensorBatch(b) for b in pad_texts(encoded, rows, tokenizer)])
    save_checkpoint(student, task, folder)
    plan.precision.write(folder / precision.FILE)
    _copy_texts(ready.base, task, folder)
    predicted = table.total(plan.architecture, plan.precision)
    told: dict[str, Any] = {
        "target": target.model_dump(), "measured": measured.model_dump(), "predicted": predicted,
        "plan": plan.summary(), "table": table.model_dump(),
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _heal(pruned: ModelFolder, ready: Prepared, config: CompressConfig, folder: Path) -> None:
    assert config.heal is not None
    assert ready.teacher is not None
    student, task, tokenizer = _opened(pruned)
    encoded = tokenizer.encode(ready.inputs.train.rows)
    lessons = Lessons(Teacher.open(ready.teacher.path, encoded), encoded, tokenizer, task.kind)
    healing = distill(student, lessons, config.heal, scratch_folder(folder))
    save_checkpoint(student, task, folder)
    shutil.copyfile(pruned.path / precision.FILE, folder / precision.FILE)
    _copy_texts(pruned, task, folder)
    told: dict[str, Any] = {
        "epoch_losses": healing.losses, "steps": healing.steps, "best_step": healing.best_step,
        "evaluations": [found.model_dump() for found in healing.evaluations], "seconds": round(healing.seconds, 1),
    }  # fmt: skip
    (folder / REPORT).write_text(json.dumps(told) + "\n", encoding="utf-8")


def open_clock(ready: Prepared, tokenizer: Tokenizer, pair: bool) -> Clock:
    """Return a clock on served texts at even steps of the length, split by `tokenizer` and by the reference's own."""
    source, rows = ready.inputs.source.path, ready.inputs.validation.rows
    own = Tokenizer.open(source, Task.read(source / task_file.FILE).max_tokens)
    order = np.argsort(_lengths(own.encode(rows)), kind="stable")
    places = np.linspace(0, len(order) - 1, min(TIMED_TEXTS, len(order))).round().astype(int)
    chosen = [rows[int(order[place])] for place in places]
    reference = Job(open_session(ready.reference), [own.batch([row]) for row in chosen])
    return Clock(reference, [tokenizer.batch([row]) for row in chosen], pair)


def _served_like(ready: Prepared, config: CompressConfig) -> Texts:
    """Return training texts as long as those that are served, without labels: int8 is made and judged on them."""
    tokenizer = Tokenizer.open(ready.base.path, Task.read(ready.base.path / task_file.FILE).max_tokens)
    train, served = (_lengths(tokenizer.encode(t.rows)) for t in (ready.inputs.train, ready.inputs.validation))
    chosen = ready.inputs.train.take(choose_texts(train, served, CALIBRATION_ROWS + JUDGED_ROWS, config.seed))
    return Texts(chosen.rows, None, chosen.source, chosen.kind)


def _lengths(encoded: list[Encoded]) -> list[int]:
    return [len(e.ids) for e in encoded]


def _copy_texts(source: ModelFolder, task: Task, target: Path) -> None:
    task.write(target / task_file.FILE)
    shutil.copyfile(source.path / tokens.FILE, target / tokens.FILE)
