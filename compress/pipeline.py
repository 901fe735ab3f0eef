"""compress(): a fine-tuned classifier, texts and a target → the smaller, healed, quantized bundle that reaches it.

trim → analyse → (for each target) prune → heal → bundle → judge. Every stage is a folder in the store: what several
targets share is made once, and a killed run goes on where it was.
"""

from pathlib import Path
from typing import Any

import numpy as np

from compress.analysis import analyse
from compress.bundle import BundleConfig, make_bundle
from compress.bundle_texts import CALIBRATION_ROWS, JUDGED_ROWS, BundleTexts
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
from models.data.roles import RowRoles
from models.data.texts import Texts
from models.errors import DisagreementError, NoEffectError, UntrimmableError
from models.folder import ModelFolder
from models.stage import Made, Stage, run_stage
from models.task import Task
from models.tokens import Tokenizer

VERSION = 4


def prepare(inputs: Inputs, config: CompressConfig, store: Path) -> Prepared:
    """Trim, analyse, and let the teacher answer."""
    reference = stock_export(inputs.source, store).folder.path / FP32  # first: it refuses what cannot be exported
    base = trimmed_source(inputs, config, store)
    analysis, teacher = _analysed(base, inputs, config, store), None
    if config.heal is not None:
        teacher = teach_texts(base, inputs, config, store)
    return Prepared(inputs, base, analysis, teacher, reference, config.load)


def compress_to(target: Target, ready: Prepared, config: CompressConfig, store: Path) -> Made:
    """Return the bundle that reaches `target`.

    Raises:
        TargetError: no shape does on this machine.
    """
    student = _cut_and_heal(target, ready, config, store)
    is_cut = read_architecture(student.folder.path) != read_architecture(ready.base.path)
    bundle = BundleConfig(recipe="static", max_loss=config.int8_loss(is_cut), metric=config.metric)
    return make_bundle(student.folder, _bundle_texts(ready, config), bundle, store, any_text=True)


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


def trimmed_source(inputs: Inputs, config: CompressConfig, store: Path) -> ModelFolder:
    """Return the source, with fewer tokens where `config.vocabulary` says so.

    Raises:
        DisagreementError: trimming was asked for, and splits a training text otherwise.
        UntrimmableError: it was asked for, and tokens of such a tokenizer cannot be dropped.
    """
    if config.vocabulary == "whole":
        return inputs.source
    try:
        return trim_source(inputs, store).folder
    except NoEffectError as error:
        say(f"the vocabulary stays as it is: {error}")
    except (DisagreementError, UntrimmableError) as error:
        if config.vocabulary == "trim":
            raise
        say(f"WARNING: the vocabulary stays whole, and the bundle as large as it makes it: {error}")
    return inputs.source


def _analyse(base: ModelFolder, inputs: Inputs, config: CompressConfig, target: Path) -> None:
    model, task, tokenizer = open_classifier(base)
    encoded, served = tokenizer.encode(inputs.train.rows), tokenizer.encode(inputs.validation.rows)
    asked = config.analysis
    chosen = choose_texts(lengths_of(encoded), lengths_of(served), asked.texts + asked.cost_texts, config.seed)
    count = min(asked.cost_texts, len(chosen) // 2)  # no text for both: corrections would flatter their own costs
    fitted, judged = (pad_texts(encoded, rows, tokenizer) for rows in (chosen[count:], chosen[:count]))
    analyse(model, fitted, judged, asked, task).save(target)


def _bundle_texts(ready: Prepared, config: CompressConfig) -> BundleTexts:
    """Return training texts as long as those that are served, which calibrate, and validation texts, which choose.

    Both are without labels. What goes back to fp32 is chosen on texts that the student did not learn from: on those
    it learned, it is surer than it will be, and int8 seems to cost less.
    """
    tokenizer = Tokenizer.open(ready.base.path, Task.read(ready.base.path / task_file.FILE).max_tokens)
    train, served = ready.inputs.train, ready.inputs.validation
    trained, wanted = (lengths_of(tokenizer.encode(t.rows)) for t in (train, served))
    calibration = train.take(choose_texts(trained, wanted, CALIBRATION_ROWS, config.seed))
    learned = set(train.rows)
    unseen = [place for place, row in enumerate(served.rows) if row not in learned]
    if len(unseen) < len(served):
        say(f"WARNING: {len(served) - len(unseen)} of {len(served)} validation texts are training texts, too")
    drawn = np.random.default_rng(config.seed).permutation(unseen or len(served))[:JUDGED_ROWS]
    choosing = served.take(drawn.tolist())
    return BundleTexts(_unlabelled(calibration), RowRoles(_unlabelled(choosing), None))


def _unlabelled(texts: Texts) -> Texts:
    return Texts(texts.rows, None, texts.source, texts.kind)
