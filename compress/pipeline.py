"""compress(): a fine-tuned classifier, texts and a target → the smaller, healed, quantized bundle that reaches it.

trim → analyse → (for each target) prune → heal → bundle → judge. Every stage is a folder in the store: what several
targets share is made once, and a killed run goes on where it was.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.analysis import Analysis, analyse
from compress.budget import size_table
from compress.bundle import CALIBRATION_ROWS, JUDGED_ROWS, BundleConfig, BundleTexts, make_bundle
from compress.calibration import choose_texts, pad_texts
from compress.clock import Clock, Job, Measured
from compress.config import CompressConfig
from compress.healing import CHANNELS, Taught, copy_texts, heal, open_classifier, teach_texts
from compress.latency import load_latency
from compress.narrow import Channels, choose_channels, narrow, narrowed, refit_narrow
from compress.refit import refit
from compress.search import Plan, make_frontier
from compress.source import Inputs
from compress.surgery import choose_rungs, cut
from compress.target import Cut, Space, Target, approach, meet
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
from models.errors import NoEffectError
from models.folder import ModelFolder
from models.stage import Made, Stage, run_stage
from models.task import Task
from models.tokens import Encoded, Tokenizer
from service.runtime import open_session

VERSION = 3
LENGTHS = 5  # quantiles of the served lengths at which sublayers are timed
TIMED_TEXTS = 24  # served texts on which a shape is timed


@dataclass(frozen=True, slots=True)
class Prepared:
    """What every target shares."""

    inputs: Inputs
    full: ModelFolder  # the source, or the source with fewer tokens: it teaches
    base: ModelFolder  # what is cut: the full model, or a student that is cut again
    analysis: ModelFolder
    teacher: Taught | None
    reference: Path  # the source's graph in fp32, as optimum exports it


def prepare(inputs: Inputs, config: CompressConfig, store: Path) -> Prepared:
    """Trim, analyse, and let the teacher answer."""
    base = _trimmed(inputs, store) if config.vocabulary else inputs.source
    analysis, teacher = _analysed(base, inputs, config, store), None
    if config.heal is not None:
        teacher = teach_texts(base, inputs.train, config, store)
    reference = stock_export(inputs.source, store).folder.path / FP32
    return Prepared(inputs, base, base, analysis, teacher, reference)


def compress_to(target: Target, ready: Prepared, config: CompressConfig, store: Path) -> Made:
    """Return the bundle that reaches `target`.

    Raises:
        TargetError: no shape does on this machine.
    """
    for left in range(config.cuts, 1, -1):
        healed = _cut_and_heal(Cut(target, left), ready, config, store).folder
        if read_architecture(healed.path) != read_architecture(ready.base.path):
            ready = replace(ready, base=healed, analysis=_analysed(healed, ready.inputs, config, store))
    student = _cut_and_heal(Cut(target), ready, config, store)
    texts = BundleTexts.of(_served_like(ready, config))
    return make_bundle(student.folder, texts, BundleConfig(recipe="static"), store)


def _cut_and_heal(asked: Cut, ready: Prepared, config: CompressConfig, store: Path) -> Made:
    settings = {
        **asked.target.model_dump(mode="json"), "served": ready.inputs.validation.sha256,
        "tolerance": config.tolerance, "refit": config.refit,
    }  # fmt: skip
    if asked.left > 1:
        settings |= {"cuts_left": asked.left}
    elif config.hidden_width:
        settings |= {"hidden_width": config.hidden_width}
    student = run_stage(
        Stage("prune", VERSION, settings), [ready.base, ready.analysis], store,
        lambda folder: _prune(asked, ready, config, store, folder),
    )  # fmt: skip
    is_cut = read_architecture(student.folder.path) != read_architecture(ready.base.path)
    if config.heal is not None and is_cut:
        assert ready.teacher is not None
        student = heal(student.folder, ready.teacher, config, store)
    return student


def _analysed(base: ModelFolder, inputs: Inputs, config: CompressConfig, store: Path) -> ModelFolder:
    settings = {
        "texts": inputs.train.sha256, "served": inputs.validation.sha256, "seed": config.seed,
        **config.analysis.model_dump(mode="json"),
    }  # fmt: skip
    stage = Stage("analyse", VERSION, settings)
    return run_stage(stage, [base], store, lambda target: _analyse(base, inputs, config, target)).folder


def _trimmed(inputs: Inputs, store: Path) -> ModelFolder:
    try:
        return trim_source(inputs, store).folder
    except NoEffectError as error:
        say(f"the vocabulary stays as it is: {error}")
        return inputs.source


def _analyse(base: ModelFolder, inputs: Inputs, config: CompressConfig, target: Path) -> None:
    model, task, tokenizer = open_classifier(base)
    encoded, served = tokenizer.encode(inputs.train.rows), tokenizer.encode(inputs.validation.rows)
    asked = config.analysis
    chosen = choose_texts(_lengths(encoded), _lengths(served), asked.texts + asked.cost_texts, config.seed)
    count = min(asked.cost_texts, len(chosen) // 2)  # no text for both: corrections would flatter their own costs
    fitted, judged = (pad_texts(encoded, rows, tokenizer) for rows in (chosen[count:], chosen[:count]))
    analyse(model, fitted, judged, asked, task).save(target)


def _prune(asked: Cut, ready: Prepared, config: CompressConfig, store: Path, folder: Path) -> None:
    target = asked.target
    model, task, tokenizer = open_classifier(ready.base)
    analysis = Analysis.open(ready.analysis.path)
    served = tokenizer.encode(ready.inputs.validation.rows)
    clock, more = open_clock(ready, tokenizer, task.pair), (ready.base.path / tokens.FILE).stat().st_size
    narrows = config.hidden_width if asked.left == 1 else None  # last, after all other cuts
    full = narrowed(model.architecture, narrows) if narrows else model.architecture

    def build(shape: Architecture) -> Classifier:
        uncut = shape.layers == model.architecture.layers
        return model if uncut else cut(model, choose_rungs(analysis.ladders, shape))

    def measure(plan: Plan) -> Measured:
        built = build(plan.architecture)
        timed = built if full is model.architecture else narrow(built, Channels.first(full.width))
        return clock.measure(timed, plan.precision, more)

    empty = full.with_layers([(0, 0)] * len(full.layers))
    bare = measure(Plan(empty, Precision.all_int8(empty)))
    if target.kind == "size_mb":
        table = size_table(full, bare.bytes)
    else:
        lengths = [int(q) for q in np.quantile(_lengths(served), np.linspace(0.1, 0.9, LENGTHS))]
        table = load_latency(full, lengths, store)
    space = Space(full, make_frontier(full, analysis.costs, analysis.rounding, table), table)
    if asked.left > 1:
        plan = approach(asked, space, bare.reference_ms)
        measured = measure(plan)
    else:
        plan, measured = meet(target, space, bare.reference_ms, measure, config.tolerance)
    student = build(plan.architecture)
    if student is model and full is model.architecture:
        say(f"int8 alone gives {target.told(measured)}: nothing is cut")
    else:
        encoded = tokenizer.encode(ready.inputs.train.rows)
        rows = choose_texts(_lengths(encoded), _lengths(served), config.analysis.texts, config.seed)
        texts = [TensorBatch(batch) for batch in pad_texts(encoded, rows, tokenizer)]
        wide = None if full is model.architecture else folder
        teacher = model if ready.full.path == ready.base.path else load_checkpoint(ready.full.path)
        student = _fit(student, teacher, texts, config, wide)
    save_checkpoint(student, task, folder)
    plan.precision.write(folder / precision.FILE)
    copy_texts(ready.base, task, folder)
    predicted = table.total(plan.architecture, plan.precision)
    told: dict[str, Any] = {
        "target": target.model_dump(), "measured": measured.model_dump(), "predicted": predicted,
        "plan": plan.summary(), "table": table.model_dump(),
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _fit(
    student: Classifier, full: Classifier, texts: list[TensorBatch], config: CompressConfig, folder: Path | None
) -> Classifier:
    """Return what was cut, fitted to the full model's residual stream; where a folder is given, with fewer channels.

    Which channels are left is written there.
    """
    if config.refit and student.architecture != full.architecture:
        refit(student, full, texts)
    if folder is None or config.hidden_width is None:
        return student
    channels = choose_channels(student, texts, config.hidden_width)
    np.save(folder / CHANNELS, channels.stream)
    narrower = narrow(student, channels)
    if config.refit:
        refit_narrow(narrower, student, full, texts, channels)
    return narrower


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
