"""compress(): a fine-tuned classifier, texts and a target → the smaller, healed, quantized bundle that reaches it.

trim → analyse → (for each target) prune → heal → bundle → judge. Every stage is a folder in the store: what several
targets share is made once, and a killed run goes on where it was.
"""

from pathlib import Path
from typing import Any

from compress.analysis import analyse
from compress.bundle import CALIBRATION_ROWS, JUDGED_ROWS, BundleConfig, BundleTexts, make_bundle
from compress.calibration import choose_texts, lengths_of, pad_texts
from compress.clock import times_belong_to
from compress.config import CompressConfig
from compress.healing import heal, open_classifier, teach_texts
from compress.prune import Prepared, prune
from compress.source import Inputs
from compress.target import Target
from compress.trim import trim_source
from export.stock import FP32, stock_export
from models import task as task_file
from models.checkpoint import read_architecture
from models.console import say
from models.data.texts import Texts
from models.errors import NoEffectError
from models.folder import ModelFolder
from models.stage import Made, Stage, run_stage
from models.task import Task
from models.tokens import Tokenizer

VERSION = 4


def prepare(inputs: Inputs, config: CompressConfig, store: Path) -> Prepared:
    """Trim, analyse, and let the teacher answer."""
    base = _trimmed(inputs, store) if config.vocabulary else inputs.source
    analysis, teacher = _analysed(base, inputs, config, store), None
    if config.heal is not None:
        teacher = teach_texts(base, inputs, config, store)
    reference = stock_export(inputs.source, store).folder.path / FP32
    return Prepared(inputs, base, analysis, teacher, reference, config.load)


def compress_to(target: Target, ready: Prepared, config: CompressConfig, store: Path) -> Made:
    """Return the bundle that reaches `target`.

    Raises:
        TargetError: no shape does on this machine.
    """
    student = _cut_and_heal(target, ready, config, store)
    texts = BundleTexts.of(_served_like(ready, config))
    return make_bundle(student.folder, texts, BundleConfig(recipe="static"), store)


def prune_settings(target: Target, ready: Prepared, config: CompressConfig) -> dict[str, Any]:
    """Return what decides the shape that a target gets, beside the model and what is known of it."""
    settings = {
        **target.model_dump(mode="json"), "served": ready.inputs.validation.sha256,
        "tolerance": config.tolerance, "refit": config.refit, "load": ready.load.model_dump(),
    }  # fmt: skip
    if target.timed:  # another machine would choose another shape
        settings |= times_belong_to(ready.load)
    if target.kind == "size_mb" or config.embedding_bits == 4:
        settings |= {"embedding_bits": config.embedding_bits}
    if config.hidden_width:
        settings |= {"hidden_width": config.hidden_width}
    if ready.held:
        settings |= {"held": sorted(ready.held)}
    return settings


def _cut_and_heal(target: Target, ready: Prepared, config: CompressConfig, store: Path) -> Made:
    settings = prune_settings(target, ready, config)
    student = run_stage(
        Stage("prune", VERSION, settings), [ready.base, ready.analysis], store,
        lambda folder: prune(target, ready, config, store, folder),
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
    chosen = choose_texts(lengths_of(encoded), lengths_of(served), asked.texts + asked.cost_texts, config.seed)
    count = min(asked.cost_texts, len(chosen) // 2)  # no text for both: corrections would flatter their own costs
    fitted, judged = (pad_texts(encoded, rows, tokenizer) for rows in (chosen[count:], chosen[:count]))
    analyse(model, fitted, judged, asked, task).save(target)


def _served_like(ready: Prepared, config: CompressConfig) -> Texts:
    """Return training texts as long as those that are served, without labels: int8 is made and judged on them."""
    tokenizer = Tokenizer.open(ready.base.path, Task.read(ready.base.path / task_file.FILE).max_tokens)
    train, served = (lengths_of(tokenizer.encode(t.rows)) for t in (ready.inputs.train, ready.inputs.validation))
    chosen = ready.inputs.train.take(choose_texts(train, served, CALIBRATION_ROWS + JUDGED_ROWS, config.seed))
    return Texts(chosen.rows, None, chosen.source, chosen.kind)
