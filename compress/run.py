"""compress(): `prunella compress` as a function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.measure.accuracy.task_metric import choose_metric
from compress.candidate_report import summary, write_candidates
from compress.candidates import Candidate, CandidateEvaluator, missed_target, select_best
from compress.cascade.add_gate import add_gate
from compress.cascade.gate_plan import GatePlan, plan_gate
from compress.config import CompressConfig
from compress.inputs.inputs import CompressionInputs
from compress.inputs.read import Files, LongTexts, read_inputs
from compress.inputs.source import check_inputs, source_kind
from compress.modes import make_config, read_targets, read_trim
from compress.pipeline import compress_all, compress_to, compress_with_fp32_retry, prepare
from compress.pruning.hidden_width import narrowed
from compress.remeasure import forget_times
from compress.search.search_to_target import Target
from compress.student import AUTO, CUT, Outcome, choose_way, distil
from compress.teachers import check_teaching, open_teachers, ways_of
from models.checkpoint import read_architecture
from models.data.label_map import LabelMap
from models.data.texts import Columns
from models.distributed import by_main
from models.errors import DisagreementError, InputError, TargetError
from models.finetuning.finetune_config import Teachers
from models.forms.adapter import resolve_model
from models.messages import say
from models.schema import Record, wrong_values
from models.store.delivery import check_target
from models.store.folder import ModelFolder, identity
from models.store.results import Delivered, deliver
from models.store.stage import StageResult
from models.store.stage_seconds import StageSeconds
from models.task import MOST_WINDOWS, Combine
from models.teachers.open_teachers import OpenTeachers
from service.process.cores import usable_cores


class Compressed(Record):
    """The delivered bundle and its report."""

    delivered: Delivered
    missed: str | None = None  # message if the final measurement misses the target; None: within the tolerance

    @property
    def folder(self) -> Path:
        """The bundle's folder."""
        return Path(self.delivered.folder)

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object that the command prints as its last line."""
        return self.delivered.summary("compress")


def compress(  # noqa: PLR0913 (the options of the command)
    model: str | Path,
    train: str,
    validation: str | None = None,
    test: str | None = None,
    *,
    texts: str | None = None,
    nearest: int | None = None,
    teacher: Sequence[str | Path] | str | Path | None = None,
    teacher_scores: str | Path | None = None,
    teacher_logits: bool = False,
    student: str | None = None,
    student_minutes: float | None = None,
    speedup: float | None = None,
    latency_ms: float | None = None,
    size_mb: float | None = None,
    family: Sequence[float] | str | None = None,
    max_loss: float = 1.0,
    metric: str | None = None,
    mode: str = "standard",
    epochs: int | None = None,
    minutes: float | None = None,
    learning_rate: float | None = None,
    augment: int | None = None,
    tolerance: float = 0.05,
    batch: int = 1,
    threads: int = 1,
    max_tokens: int | None = None,
    windows: int | None = None,
    windows_combine: Combine | None = None,
    text_column: str = "text",
    pair_column: str = "text_pair",
    label_column: str = "label",
    labels: str | Mapping[str, str] | None = None,
    trim_vocabulary: bool | None = None,
    embedding_bits: int | str = "auto",
    hidden_width: int | None = None,
    base: str | Path | None = None,
    weak_teacher: bool = False,
    any_text: bool = False,
    remeasure: bool = False,
    cascade: bool = False,
    cascade_loss: float = 0.5,
    seed: int = 0,
    store: str | Path = "store",
    out: str | Path | None = None,
) -> Compressed:
    """Compress a fine-tuned classifier, with the options and the result of `prunella compress`.

    Example:
        >>> from compress import compress
        >>> result = compress("my-model", train="train.csv", validation="validation.csv", speedup=4)
        >>> result.report["speedup"], result.report["loss_points"], result.missed
        >>> from prunella import Classifier
        >>> Classifier(result.folder)("a good film")

    Args:
        model: a classifier folder, or a fine-tuned Hugging Face folder.
        train: training texts (CSV, TSV, JSONL, Parquet); labels are not needed.
        validation: labelled rows that no model was trained on; None: a tenth of `train`.
        test: labelled rows on which the loss is reported; None: one half of `validation`.
        texts: further training texts, without labels.
        nearest: take only so many of `texts`, the nearest to `train`.
        teacher: folders of better classifiers, whose mean answers are learned in healing instead of the model's.
        teacher_scores: a file with the scores of a teacher: the text or `row`, and one column for each label.
        teacher_logits: `teacher_scores` has logits; False: probabilities.
        student: a small encoder (a folder or a built-in name) that learns the model's answers, and is then cut in its
            place; `auto`: whichever loses less, this with MiniLM, or cutting the model itself.
        student_minutes: time limit of the training of `student`.
        speedup: target: speed-up over the unpruned fp32 model on ONNX Runtime. 4 if no target is given.
        latency_ms: target, instead of `speedup`: milliseconds per text.
        size_mb: target, instead of `speedup`: megabytes of the bundle with its tokenizer.
        family: several target speed-ups in one run; the fastest bundle within `max_loss` is delivered.
        max_loss: points of `metric` that may be lost.
        metric: `accuracy`, `macro_f1` and others, depending on the task; None: the default of the task.
        mode: `instant` (no healing), `standard` or `max`.
        epochs: epochs of distillation; None: the default of the mode.
        minutes: time limit of distillation for each target; None: the default of the mode.
        learning_rate: learning rate of distillation; None: 1e-4.
        augment: number of variants of each training text.
        tolerance: share by which a measurement may miss its target.
        batch: batch size when speed is measured.
        threads: threads of ONNX Runtime when speed is measured.
        max_tokens: maximum input length of a Hugging Face folder; longer inputs are truncated.
        windows: most overlapping windows of a text that is too long; the loss is measured with them, and the bundle
            serves with them. 1: such a text is truncated; None: as the classifier's task says.
        windows_combine: `mean` or `max` of the scores of a text's windows; None: mean.
        text_column: column of the text, or of the first text of a pair.
        pair_column: column of the second text of a pair.
        label_column: column of the label.
        labels: the model's name for each label of the files: `{"0": "negative"}`, or as text, `0=negative`.
        trim_vocabulary: whether unused tokens are removed; None: only for `size_mb`.
        embedding_bits: bits of the token table: 8, 4, or `auto`.
        hidden_width: reduced hidden width, a multiple of 32.
        base: model of an adapter (LoRA) folder; None: the folder that the adapter names.
        weak_teacher: continue with a model that is not better than guessing, or a teacher that is not better than
            one constant answer.
        any_text: continue with texts whose tokens are mostly unknown to the tokenizer.
        remeasure: measure latency again instead of using the measurements of this machine in the store.
        cascade: whether the bundle gets a gate, which answers easy texts before the compressed model. Half of the
            labelled rows that would choose then decides the gate's threshold only.
        cascade_loss: points of accuracy that the gate may lose against the compressed model, with 95 % confidence.
        seed: seed of all random choices.
        store: folder that keeps finished stages for reuse.
        out: folder to which the bundle is copied; None: it stays in the store.

    Raises:
        InputError: an option or a file is invalid; the message says what is expected.
        TargetError: no architecture reaches the target, or every bundle loses more than `max_loss`.
    """
    store = Path(store)
    if out is not None:
        check_target(Path(out))
    model = resolve_model(Path(model), None if base is None else Path(base), store)
    speedups = family if family is None or isinstance(family, str) else ",".join(f"{value:g}" for value in family)
    targets = read_targets(speedup, latency_ms, size_mb, speedups)
    _check_limits(max_loss, threads, windows)
    healing = {"epochs": epochs, "minutes": minutes, "learning_rate": learning_rate, "augment": augment}
    settings = {
        "tolerance": tolerance, "vocabulary": read_trim(trim_vocabulary, size_mb is not None),
        "hidden_width": hidden_width, "max_loss": max_loss,
        "metric": choose_metric(source_kind(model), metric),
        "load": {"batch": batch, "threads": threads}, "seed": seed,
        "embedding_bits": None if embedding_bits == "auto" else int(embedding_bits),
    }  # fmt: skip
    with wrong_values():
        config = make_config(mode, healing, settings, len(targets))
        names = LabelMap.parse(labels)
        columns = Columns(
            text=text_column, text_pair=pair_column, label=label_column, labels=names.names if names else None
        )
    check_teaching(
        {
            "teacher": teacher, "teacher_scores": teacher_scores, "teacher_logits": teacher_logits,
            "student": student, "student_minutes": student_minutes, "nearest": nearest, "texts": texts,
        },
        config,
    )  # fmt: skip
    seconds = StageSeconds()
    with seconds.of("read"):
        files = Files(train, validation, test, texts, nearest, columns)
        inputs = read_inputs(model, files, store, LongTexts(max_tokens, windows, windows_combine), seed)
    named = Teachers(
        _paths(teacher), None if teacher_scores is None else Path(teacher_scores), teacher_logits, columns,
        inputs.numbered, weak_teacher,
    )  # fmt: skip
    gate = plan_gate(inputs, cascade_loss, seed) if cascade else None
    if gate is not None:
        inputs = replace(inputs, validation=gate.choosing)
    teachers = open_teachers(inputs, named) if named.all else None  # bad ones are refused before any work

    def check(given: CompressionInputs) -> None:
        if config.hidden_width is not None:
            narrowed(read_architecture(given.source.path), config.hidden_width)  # checks the width
        with seconds.of("check"):
            by_main(lambda: check_inputs(given, weak_teacher, any_text))
        by_main(lambda: forget_times(store, given.source) if remeasure else None)

    check(inputs)
    outcomes = []
    for way in ways_of(student):
        given, learned = inputs, teachers
        if way != CUT:
            learned = teachers or open_teachers(inputs, replace(named, folders=(inputs.source.path,)))
            with seconds.of("distil"):
                given = distil(inputs, way, learned.named, student_minutes, seed, store)
            check(given)
        run = _Run(targets, given, config, store, learned, seconds)
        outcomes.append(_outcome(way, run, alone=student != AUTO))
    results, unreached, choice = choose_way(outcomes, max_loss)
    rows = inputs.summary() | ({"student": {"asked": student, **choice}} if student is not None else {})
    end = _End(results, unreached, rows, Path(out) if out is not None else None, speedups is not None, gate)
    more = {"stage_seconds": seconds.report()}
    return by_main(lambda: _deliver(end, more, inputs.source.path, config, store), Compressed)


@dataclass(frozen=True, slots=True)
class _Run:
    """What one way of compressing works with."""

    targets: Sequence[Target]
    inputs: CompressionInputs
    config: CompressConfig
    store: Path
    teachers: OpenTeachers | None
    seconds: StageSeconds


def _outcome(way: str, run: _Run, alone: bool) -> Outcome:
    """Compress to all targets in one way; unless it is alone, a way that reaches none is part of the comparison."""
    distilled = None if way == CUT else str(run.inputs.source.path)
    try:
        results, unreached = compress_to_all(
            run.targets, run.inputs, run.config, run.store, run.teachers, run.seconds
        )
    except (TargetError, DisagreementError) as error:
        if alone:
            raise
        say(f"'{way}' reaches no target: {error}")
        return Outcome(way, (), {target.describe(): str(error) for target in run.targets}, distilled)
    return Outcome(way, results, unreached, distilled)


def compress_to_all(  # noqa: PLR0913
    targets: Sequence[Target],
    inputs: CompressionInputs,
    config: CompressConfig,
    store: Path,
    teachers: OpenTeachers | None = None,
    seconds: StageSeconds | None = None,
) -> tuple[list[tuple[StageResult, Candidate]], dict[str, str]]:
    """Return each bundle with its evaluation, and the error message of each target that cannot be reached.

    The time of each stage is added to `seconds`.
    """
    seconds = seconds or StageSeconds()
    context = prepare(inputs, config, store, teachers, seconds)
    evaluator = cache(lambda: CandidateEvaluator(context, config.metric))  # created in the main process only

    def evaluated(folder: ModelFolder, target: Target) -> Candidate:
        with seconds.of("evaluate"):
            return by_main(lambda: evaluator().evaluate(folder, target, config.tolerance), Candidate)

    def compress_one(target: Target) -> tuple[StageResult, Candidate]:
        return compress_with_fp32_retry(
            lambda keep_fp32: compress_to(target, replace(context, keep_fp32=keep_fp32), config, store),
            lambda result: evaluated(result.folder, target),
        )

    return compress_all(targets, compress_one)


@dataclass(frozen=True, slots=True)
class _End:
    """What is delivered, and what the report says besides the settings."""

    results: Sequence[tuple[StageResult, Candidate]]
    unreached: dict[str, str]
    rows: dict[str, Any]
    out: Path | None
    is_family: bool
    gate: GatePlan | None


def _deliver(end: _End, more: dict[str, Any], full_model: Path, config: CompressConfig, store: Path) -> Compressed:
    """Report the candidates, and deliver the best; `more` are keys of the report."""
    candidates, max_loss = [candidate for _, candidate in end.results], config.max_loss
    parents = [candidate.id for candidate in candidates]
    report = store / f"family-{identity(parents, 'family', 1, {'max_loss': max_loss})}"
    write_candidates(candidates, None, max_loss, report, end.rows)
    best = select_best(candidates, max_loss)
    write_candidates(candidates, best, max_loss, report, end.rows)
    more = {"report": str(report), **more}
    if end.is_family:
        more["family"] = [summary(c, max_loss) | {"folder": c.folder} for c in candidates]
        more["unreached"] = end.unreached
    result = end.results[candidates.index(best)][0]
    if end.gate is not None:
        cascade = add_gate(result.folder, end.gate.texts, full_model, end.gate.config, store)
        result, more = cascade.result or result, more | cascade.summary
    delivered = deliver(result, end.out, more)
    return Compressed(delivered=delivered, missed=missed_target(candidates, best, config.tolerance))


def _paths(given: Sequence[str | Path] | str | Path | None) -> tuple[Path, ...]:
    """Return the folders of --teacher; one may be given without a list."""
    return (Path(given),) if isinstance(given, str | Path) else tuple(Path(one) for one in given or ())


def _check_limits(max_loss: float, threads: int, windows: int | None) -> None:
    if windows is not None and not 1 <= windows <= MOST_WINDOWS:
        raise InputError(f"--windows is {windows}: wanted 1 to {MOST_WINDOWS}")
    if not max_loss >= 0:  # nor NaN
        raise InputError(f"--max-loss is {max_loss:g}: wanted 0 or more points")
    if threads > (cores := usable_cores()):
        raise InputError(f"--threads is {threads}, and there are only {cores} cores: measure where it will be served")
