"""compress(): `prunella compress` as a function."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.measure.accuracy.evaluate import check_windows
from bench.measure.accuracy.task_metric import choose_metric
from compress.best_bundle import Compressed, Ending, deliver_best
from compress.cascade.gate_plan import plan_gate
from compress.inputs.inputs import CompressionInputs
from compress.inputs.read import Files, LongTexts, read_inputs
from compress.inputs.source import check_inputs, source_kind
from compress.modes import make_config, read_targets, read_trim
from compress.pruning.hidden_width import narrowed
from compress.remeasure import forget_times
from compress.student import distil
from compress.teachers import check_teaching, find_teachers, open_teachers
from compress.ways import AUTO, CUT, Compression, check_encoders, choose_way, outcome_of, ways_of
from models.checkpoint import read_architecture
from models.data.columns import Columns
from models.data.label_map import LabelMap
from models.distributed import by_main
from models.errors import InputError
from models.finetuning.finetune_config import Teachers
from models.forms.adapter import resolve_model
from models.schema import wrong_values
from models.store.delivery import check_target
from models.store.stage_seconds import StageSeconds
from models.task import Combine
from service.process.cores import usable_cores


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
    ways = ways_of(student)
    check_encoders(ways, store)
    scores = None if teacher_scores is None else Path(teacher_scores)
    named = Teachers(_paths(teacher), scores, teacher_logits, columns, (), weak_teacher)
    seconds = StageSeconds()
    with seconds.of("read"):
        files = Files(train, validation, test, texts, nearest, columns)
        inputs = read_inputs(
            model, files, store, LongTexts(max_tokens, windows, windows_combine), seed,
            lambda given: find_teachers(given, replace(named, numbered=given.numbered)),
        )  # fmt: skip
    named = replace(named, numbered=inputs.numbered)
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
    for way in ways:
        given, learned = inputs, teachers
        if way != CUT:
            learned = teachers or open_teachers(inputs, replace(named, folders=(inputs.source.path,)))
            with seconds.of("distil"):
                given = distil(inputs, way, learned.named, student_minutes, seed, store)
        compression = Compression(targets, given, config, store, learned, seconds)
        outcomes.append(outcome_of(way, compression, student != AUTO, check))
    results, unreached, choice = choose_way(outcomes, max_loss)
    rows = inputs.summary() | ({"student": {"asked": student, **choice}} if student is not None else {})
    end = Ending(results, unreached, rows, Path(out) if out is not None else None, speedups is not None, gate)
    more = {"stage_seconds": seconds.report()}
    return by_main(lambda: deliver_best(end, more, inputs.source.path, config, store), Compressed)


def _paths(given: Sequence[str | Path] | str | Path | None) -> tuple[Path, ...]:
    """Return the folders of --teacher; one may be given without a list."""
    return (Path(given),) if isinstance(given, str | Path) else tuple(Path(one) for one in given or ())


def _check_limits(max_loss: float, threads: int, windows: int | None) -> None:
    check_windows(windows)
    if not max_loss >= 0:  # nor NaN
        raise InputError(f"--max-loss is {max_loss:g}: wanted 0 or more points")
    if threads > (cores := usable_cores()):
        raise InputError(f"--threads is {threads}, and there are only {cores} cores: measure where it will be served")
