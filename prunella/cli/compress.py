"""The command `prunella compress`."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from models.errors import TargetError
from models.messages import say
from prunella.cli.config_file import ConfigFile, PrintConfig, print_config
from prunella.cli.options import NEAREST_HELP, SCORES_HELP, STORE, Out, Store
from prunella.cli.output import need, show


def _hidden(text: str, **limits: Any) -> Any:
    """Return an option that `--help` does not list; docs/compression.md describes it, and --config accepts it."""
    return typer.Option(help=text, hidden=True, **limits)


def compress(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="classifier folder, or a fine-tuned Hugging Face folder")],
    train: Annotated[str, typer.Option(help="training texts (CSV, TSV, JSONL, Parquet); labels are not needed")],
    validation: Annotated[
        str | None, typer.Option(help="labelled rows that no model was trained on; default: a tenth of --train")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="labelled rows for the reported loss; default: half of --validation")
    ] = None,
    texts: Annotated[str | None, typer.Option(help="further training texts, without labels")] = None,
    nearest: Annotated[int | None, _hidden(NEAREST_HELP)] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="better classifier, of Prunella or transformers, to learn from; may be repeated"),
    ] = None,
    teacher_scores: Annotated[Path | None, typer.Option(help=SCORES_HELP)] = None,
    teacher_logits: Annotated[bool, _hidden("--teacher-scores holds logits; default: probabilities")] = False,
    student: Annotated[
        str | None,
        typer.Option(
            help="small encoder that learns the model's answers and is cut instead; auto: whichever loses less"
        ),
    ] = None,
    student_minutes: Annotated[float | None, _hidden("time limit of the training of --student")] = None,
    speedup: Annotated[
        float | None, typer.Option(help="target speed-up over unpruned fp32 ONNX Runtime; default: 4")
    ] = None,
    latency_ms: Annotated[float | None, typer.Option(help="target latency in milliseconds per text")] = None,
    size_mb: Annotated[float | None, typer.Option(help="target size in megabytes, tokenizer included")] = None,
    family: Annotated[str | None, typer.Option(help="several target speed-ups in one run, such as 2,4,8")] = None,
    max_loss: Annotated[float, typer.Option(help="points of --metric that may be lost")] = 1.0,
    metric: Annotated[
        str | None, typer.Option(help="accuracy, macro_f1; multi-label: subset_accuracy, micro_f1, macro_f1")
    ] = None,
    mode: Annotated[str, typer.Option(help="instant (no healing), standard (within an hour), max")] = "standard",
    epochs: Annotated[int | None, _hidden("epochs of distillation; default: those of --mode")] = None,
    minutes: Annotated[
        float | None, _hidden("time limit of distillation for each target; default: that of --mode")
    ] = None,
    learning_rate: Annotated[float | None, _hidden("learning rate of distillation; default: 1e-4")] = None,
    augment: Annotated[int | None, _hidden("number of variants of each training text")] = None,
    tolerance: Annotated[float, _hidden("share by which a measurement may miss its target")] = 0.05,
    batch: Annotated[int, _hidden("batch size when speed is measured", min=1)] = 1,
    threads: Annotated[int, _hidden("threads of ONNX Runtime when speed is measured", min=1)] = 1,
    max_tokens: Annotated[
        int | None, _hidden("maximum input length of a Hugging Face folder in tokens", min=4)
    ] = None,
    windows: Annotated[
        int | None, _hidden("most overlapping windows of a text that is too long; 1: it is truncated", min=1, max=64)
    ] = None,
    windows_combine: Annotated[
        Literal["mean", "max"] | None, _hidden("how the scores of a text's windows are combined; default: mean")
    ] = None,
    text_column: Annotated[str, typer.Option(help="column of the texts")] = "text",
    pair_column: Annotated[str, _hidden("column of the second text of a pair")] = "text_pair",
    label_column: Annotated[str, typer.Option(help="column of the labels")] = "label",
    labels: Annotated[str | None, typer.Option(help="labels' names, such as 0=negative,1=positive")] = None,
    trim_vocabulary: Annotated[
        bool | None, _hidden("remove tokens that the texts do not use; default: only with --size-mb")
    ] = None,
    embedding_bits: Annotated[
        Literal["auto", "8", "4"], _hidden("bits of the token table; auto: 8, or 4 if that loses less for --size-mb")
    ] = "auto",
    hidden_width: Annotated[int | None, _hidden("width of the hidden state, a multiple of 32")] = None,
    base: Annotated[Path | None, _hidden("model of an adapter (LoRA) folder; default: the one it names")] = None,
    weak_teacher: Annotated[bool, _hidden("continue with a model that is not better than guessing")] = False,
    any_text: Annotated[bool, _hidden("continue with texts whose tokens are mostly unknown")] = False,
    remeasure: Annotated[
        bool, _hidden("measure latency again; default: use earlier measurements of this machine")
    ] = False,
    cascade: Annotated[bool, typer.Option("--cascade", help="add a gate, which answers easy texts first")] = False,
    cascade_loss: Annotated[
        float, _hidden("points of accuracy that the gate may lose against the compressed model")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="seed of all random choices")] = 0,
    store: Store = STORE,
    out: Out = None,
    config: ConfigFile = None,  # noqa: ARG001 (its callback reads the file)
    show_config: PrintConfig = False,
) -> None:
    """Prune a classifier to a target, heal it by distillation, quantize it, and report what was lost.

    Exit code 1: no architecture reaches the target, every bundle loses more than --max-loss, or the final
    measurement misses the target (the bundle is written). Further options are in docs/compression.md; they are
    flags, or keys of the file that --config names.
    """
    print_config(context, show_config)
    need("torch", "train")
    from compress.run import compress as run

    result = run(
        model, train, validation, test, texts=texts, nearest=nearest, teacher=teacher, teacher_scores=teacher_scores,
        teacher_logits=teacher_logits, student=student, student_minutes=student_minutes,
        speedup=speedup, latency_ms=latency_ms, size_mb=size_mb,
        family=family, max_loss=max_loss, metric=metric, mode=mode, epochs=epochs, minutes=minutes,
        learning_rate=learning_rate, augment=augment, tolerance=tolerance, batch=batch, threads=threads,
        max_tokens=max_tokens, windows=windows, windows_combine=windows_combine,
        text_column=text_column, pair_column=pair_column, label_column=label_column,
        labels=labels, trim_vocabulary=trim_vocabulary, embedding_bits=embedding_bits,
        hidden_width=hidden_width, base=base, weak_teacher=weak_teacher, any_text=any_text, remeasure=remeasure,
        cascade=cascade, cascade_loss=cascade_loss, seed=seed, store=store, out=out,
    )  # fmt: skip
    say(_ending(result.report))
    show(result.report)
    if result.missed:
        raise TargetError(result.missed)


def _ending(report: dict[str, Any]) -> str:
    """Return what was made, for people: speed, size and metric of the bundle, and the next command."""
    from bench.measure.accuracy.task_metric import NAMES, format_metric

    metric, interval = report["loss_is"], report.get("speedup_interval")
    sure = f" (95 % interval {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    ours, full = (format_metric(metric, report[name]) for name in (metric, f"reference_{metric}"))
    return (
        f"{report['folder']}: {report['speedup']['ort_fp32']:.2f} times as fast as the full model in fp32{sure}, "
        f"{report['bytes'] / 1e6:.1f} MB, {NAMES[metric]} {ours} instead of {full}; "
        f"prunella serve {shlex.quote(report['folder'])}"
    )
