"""prepare() and compress_to(): the stages from a fine-tuned classifier to the bundle that reaches a target.

The stages are trim → analyse → (for each target) prune → heal → bundle → evaluate. Each stage but the evaluation is a
folder in the store: stages that several targets share run once, and a killed run resumes at its first unfinished
stage.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from compress.candidates import Candidate
from compress.config import CompressConfig, DistillConfig
from compress.context import CompressionContext
from compress.healing.heal import heal, taught_by, teach_texts
from compress.inputs.inputs import CompressionInputs
from compress.inputs.length_matching import pad_texts
from compress.make_bundle import BundleConfig, make_bundle
from compress.pruning.analysis import analyse
from compress.quantization.calibration_texts import CALIBRATION_ROWS, JUDGED_ROWS, BundleTexts
from compress.search.latency_meter import timing_environment
from compress.search.prune import prune
from compress.search.search_to_target import Target
from compress.vocabulary.trim import trim_source
from export.baseline.stock_export import FP32, stock_export
from models.checkpoint import read_architecture
from models.classifier_folder import open_classifier
from models.data.roles import RowRoles
from models.data.sampling import choose_texts
from models.data.texts import Texts
from models.errors import DisagreementError, FallBackError, NoEffectError, TargetError, UntrimmableError
from models.finetuning.finetune_config import TeachingConfig
from models.messages import say
from models.store.folder import MANIFEST, Manifest, ModelFolder
from models.store.stage import Stage, StageResult, run_stage
from models.store.stage_seconds import StageSeconds
from models.teachers.open_teachers import OpenTeachers

VERSION = 5
BASELINE = "baseline"  # setting of `prune`: the id of the large model that the pruned one was distilled from
ATTEMPTS = 3  # of pruning, for one target
T = TypeVar("T")


def prepare(
    inputs: CompressionInputs,
    config: CompressConfig,
    store: Path,
    teachers: OpenTeachers | None = None,
    seconds: StageSeconds | None = None,
) -> CompressionContext:
    """Trim the vocabulary, analyse the model, and store the teachers' answers.

    The time of each stage, also of the later ones, is added to `seconds`.
    """
    seconds = seconds or StageSeconds()
    with seconds.of("reference"):  # first, because it rejects a model that cannot be exported
        reference = stock_export(inputs.compared, store).folder.path / FP32
    guidance = None
    if teachers is not None:
        temperature = (config.heal or DistillConfig()).temperature
        with seconds.of("teachers"):
            guidance = teachers.teach(inputs.splits, TeachingConfig(temperature=temperature), store)
    with seconds.of("trim"):
        base = trimmed_source(inputs, config, store)
    with seconds.of("analyse"):
        analysis, teacher = _analysis(base, inputs, config, store), None
    if config.heal is not None:
        with seconds.of("teach"):
            teacher = teach_texts(base, inputs, config, store)
        if teachers is not None and guidance is not None:
            teacher = taught_by(guidance, teachers, inputs, teacher)
    return CompressionContext(inputs, base, analysis, teacher, reference, guidance, config.load, seconds=seconds)


def compress_to(target: Target, context: CompressionContext, config: CompressConfig, store: Path) -> StageResult:
    """Return the bundle that reaches `target`.

    Raises:
        TargetError: no architecture reaches it on this machine.
    """
    student = _prune_and_heal(target, context, config, store)
    is_cut = read_architecture(student.folder.path) != read_architecture(context.base.path)
    bundle = BundleConfig(recipe="static", max_loss=config.int8_loss(is_cut), metric=config.metric)
    with context.seconds.of("bundle"):
        return make_bundle(student.folder, _bundle_texts(context, config), bundle, store, any_text=True)


def compress_with_fp32_retry(
    build: Callable[[frozenset[str]], StageResult], evaluate: Callable[[StageResult], Candidate]
) -> tuple[StageResult, Candidate]:
    """Build and evaluate a bundle; if it misses the target because sublayers went back to fp32, prune again.

    The next search then plans these sublayers in fp32 from the start.

    Args:
        build: returns the bundle for a set of sublayers that must stay in fp32.
        evaluate: returns the evaluation of a bundle.

    Raises:
        FallBackError: in each of ATTEMPTS attempts, further sublayers went back to fp32.
    """
    keep_fp32: frozenset[str] = frozenset()
    for left in reversed(range(ATTEMPTS)):
        result = build(keep_fp32)
        try:
            return result, evaluate(result)
        except FallBackError as error:
            if not left:
                raise
            keep_fp32 |= set(error.sublayers)
            say(f"{error}: cut again, with {', '.join(sorted(keep_fp32))} in fp32 from the start")
    raise AssertionError("the last attempt returns or raises")


def compress_all(targets: Sequence[Target], compress_one: Callable[[Target], T]) -> tuple[list[T], dict[str, str]]:
    """Compress to each target; with several targets, continue after one that cannot be reached.

    Returns:
        The results of `compress_one`, and the error message of each target that could not be reached.

    Raises:
        TargetError: no target can be reached.
        DisagreementError: with a single target: two forms of the model answer differently.
    """
    results, unreached = [], {}
    for target in targets:
        try:
            results.append(compress_one(target))
        except (TargetError, DisagreementError) as error:
            if len(targets) == 1:
                raise
            unreached[target.describe()] = str(error)
            say(f"{target.describe()} is left out: {error}")
    if not results:
        raise TargetError(f"none of {', '.join(unreached)} can be reached: {'; '.join(unreached.values())}")
    return results, unreached


def prune_settings(target: Target, context: CompressionContext, config: CompressConfig) -> dict[str, Any]:
    """Return the settings of the prune stage: what decides its result besides the model and the analysis."""
    settings = {
        **target.model_dump(mode="json"), "served": context.inputs.validation.sha256,
        "tolerance": config.tolerance, "refit": config.refit, "load": context.load.model_dump(),
    }  # fmt: skip
    if target.timed:  # another machine, or another graph of the full model, gives another architecture
        reference = Manifest.read(context.reference.parent / MANIFEST).content_id()
        settings |= {**timing_environment(context.load), "reference": reference}
    elif config.embedding_bits is None:  # other texts than those of the analysis decide the bits
        settings |= {"texts": context.inputs.train.sha256}
    if target.kind == "size_mb" or config.embedding_bits == 4:
        settings |= {"embedding_bits": config.embedding_bits}
    if config.hidden_width:
        settings |= {"hidden_width": config.hidden_width}
    if context.keep_fp32:
        settings |= {"held": sorted(context.keep_fp32)}
    if context.inputs.baseline is not None:
        settings |= {BASELINE: context.inputs.baseline.id}
    return settings


def _prune_and_heal(target: Target, context: CompressionContext, config: CompressConfig, store: Path) -> StageResult:
    settings = prune_settings(target, context, config)
    with context.seconds.of("prune"):
        student = run_stage(
            Stage("prune", VERSION, settings), [context.base, context.analysis], store,
            lambda folder: prune(target, context, config, store, folder),
        )  # fmt: skip
    is_cut = read_architecture(student.folder.path) != read_architecture(context.base.path)
    if config.heal is not None and not is_cut and context.guidance is not None and context.inputs.baseline is None:
        say("WARNING: nothing is pruned, so nothing is trained: the model learns nothing from the teachers")
    if config.heal is not None and is_cut:
        assert context.teacher is not None
        with context.seconds.of("heal"):
            student = heal(student.folder, context.teacher, config, store)
    return student


def _analysis(base: ModelFolder, inputs: CompressionInputs, config: CompressConfig, store: Path) -> ModelFolder:
    settings = {
        "texts": inputs.train.sha256, "served": inputs.validation.sha256, "seed": config.seed,
        **config.analysis.model_dump(mode="json"),
    }  # fmt: skip
    stage = Stage("analyse", VERSION, settings)
    return run_stage(stage, [base], store, lambda target: _analyse(base, inputs, config, target)).folder


def trimmed_source(inputs: CompressionInputs, config: CompressConfig, store: Path) -> ModelFolder:
    """Return the source, with a trimmed vocabulary if `config.vocabulary` says so.

    Raises:
        DisagreementError: with "trim": the trimmed tokenizer tokenizes a training text differently.
        UntrimmableError: with "trim": tokens of this tokenizer cannot be removed.
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
        say(f"WARNING: the vocabulary stays whole, and its table is part of the bundle's size: {error}")
    return inputs.source


def _analyse(base: ModelFolder, inputs: CompressionInputs, config: CompressConfig, target: Path) -> None:
    model, task, tokenizer = open_classifier(base)
    encoded = inputs.encoded(base)
    settings, lengths, served = config.analysis, encoded.train.lengths, encoded.validation.lengths
    rows = choose_texts(lengths, served, settings.texts + settings.cost_texts, config.seed)
    # the corrections reduce the loss on their own texts, so costs are measured on others
    count = min(settings.cost_texts, len(rows) // 2)
    fit_batches = pad_texts(encoded.train.tokens, rows[count:], tokenizer)
    cost_batches = pad_texts(encoded.train.tokens, rows[:count], tokenizer)
    analyse(model, fit_batches, cost_batches, settings, task).save(target)


def _bundle_texts(context: CompressionContext, config: CompressConfig) -> BundleTexts:
    """Return unlabelled training texts for calibration, and unlabelled validation texts for the fp32 fallback.

    The training texts have the lengths of the texts that are served. The fallback uses texts that the student did not
    learn from: on its training texts it is more confident than on others, so the loss of int8 would seem smaller.
    """
    train, validation, encoded = context.inputs.train, context.inputs.validation, context.inputs.encoded(context.base)
    chosen = choose_texts(encoded.train.lengths, encoded.validation.lengths, CALIBRATION_ROWS, config.seed)
    calibration = train.take(chosen)
    learned = set(train.rows)
    unseen = [i for i, row in enumerate(validation.rows) if row not in learned]
    if len(unseen) < len(validation):
        say(f"WARNING: {len(validation) - len(unseen)} of {len(validation)} validation texts are also training texts")
    sample = np.random.default_rng(config.seed).permutation(unseen or len(validation))[:JUDGED_ROWS]
    choosing = validation.take(sample.tolist())
    return BundleTexts(_unlabelled(calibration), RowRoles(_unlabelled(choosing), None))


def _unlabelled(texts: Texts) -> Texts:
    return Texts(texts.rows, None, texts.source, texts.kind)
