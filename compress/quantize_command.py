"""The verbs `prunella quantize` and `prunella export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.console import STORE, MaxTokens, Out, Store, finish, need
from models.errors import FolderError, InputError

if TYPE_CHECKING:
    from compress.bundle_texts import BundleTexts
    from models.task import Kind

Model = Annotated[Path, typer.Argument(help="a classifier folder, or a fine-tuned Hugging Face folder")]
MaxLoss = Annotated[float, typer.Option(help="points that int8 may lose against fp32; sublayers stay fp32 for it")]
Rows = Annotated[
    str | None,
    typer.Option(
        help="labelled rows: a half of them chooses precisions and recipe, the loss is reported on the other"
    ),
]
Test = Annotated[
    str | None, typer.Option(help="labelled rows on which the loss is reported; then all of --data choose")
]
MetricName = Annotated[
    str | None,
    typer.Option(
        help="of which a loss is one: accuracy or macro_f1; several labels: subset_accuracy, micro_f1 or macro_f1"
    ),
]
AnyText = Annotated[bool, typer.Option(help="go on with texts of which the tokenizer knows hardly a token")]
MOST_JUDGED = 2000  # rows of --data, a half of which chooses; `prunella bench` and `evaluate` answer all of them
VARIANTS = ("cpu-fp32", "cpu-int8", "gpu-fp16")
CalibrationRows = Annotated[int, typer.Option(min=1, help="texts that ranges are taken from, drawn from the file")]


def quantize(
    model: Model,
    calibration: Annotated[str, typer.Option(help="texts like those that will be served; labels are not needed")],
    data: Rows = None,
    test: Test = None,
    recipe: Annotated[
        Literal["auto", "static", "dynamic", "fp32"],
        typer.Option(help="auto: the fastest inside --max-loss, measured"),
    ] = "auto",
    calibrator: Annotated[
        Literal["mse", "minmax", "percentile", "entropy"], typer.Option(help="where ranges of activations are cut")
    ] = "mse",
    smooth: Annotated[bool, typer.Option(help="bring columns of outliers nearer to the rest where it pays")] = True,
    calibration_rows: CalibrationRows = 256,
    weight_bits: Annotated[
        int, typer.Option(min=7, max=8, help="7: for other programs that serve the file on processors without VNNI")
    ] = 8,
    embedding_bits: Annotated[
        Literal["8", "4"] | None, typer.Option(help="of the token table; 4 halve it (8, or what compress chose)")
    ] = None,
    max_loss: MaxLoss = 0.5,
    metric: MetricName = None,
    max_tokens: MaxTokens = None,
    any_text: AnyText = False,
    remeasure: Annotated[bool, typer.Option(help="time the recipes again, although the store has times")] = False,
    store: Store = STORE,
    out: Out = None,
) -> None:
    """A classifier folder → a bundle in int8 and fp32, checked against torch, timed and inside the loss.

    Exit code 1 when the recipe that was asked for is not inside --max-loss, on the rows that choose or (the whole
    interval) on those that are reported; or when a form answers otherwise than wanted.
    """
    need("torch", "train")
    from bench.judging import choose_metric
    from compress.bundle import BundleConfig, make_bundle
    from compress.remeasure import forget_times
    from compress.source import open_source, source_kind

    refuse_finished(model)
    kind = source_kind(model)
    texts = read_rows(kind, calibration, data, calibration_rows, test)
    texts.roles.announce("precisions and recipe")
    source = open_source(model, store, texts.calibration.pair, max_tokens)
    config = BundleConfig.model_validate({
        "recipe": recipe, "method": calibrator, "smooth": smooth, "max_loss": max_loss, "weight_bits": weight_bits,
        "embedding_bits": int(embedding_bits) if embedding_bits else None, "timed": True,
        "metric": choose_metric(kind, metric),
    })  # fmt: skip
    if remeasure:
        forget_times(store, source)
    finish("quantize", make_bundle(source, texts, config, store, any_text), out)


def export(
    model: Model,
    variant: Annotated[
        list[str] | None, typer.Option(help="cpu-fp32, cpu-int8, gpu-fp16; several: give it again")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="texts for the checks, and for cpu-int8's scales; default: made up")
    ] = None,
    pair: Annotated[bool, typer.Option(help="without --data: a Hugging Face folder's rows are two texts")] = False,
    max_loss: MaxLoss = 0.5,
    max_tokens: MaxTokens = None,
    any_text: AnyText = False,
    store: Store = STORE,
    out: Out = None,
) -> None:
    """A classifier folder → a bundle of ONNX files, each checked against torch; cpu-fp32 is in every bundle."""
    need("torch", "train")
    from compress.bundle import BundleConfig, make_bundle
    from compress.bundle_texts import CALIBRATION_ROWS, BundleTexts
    from compress.source import open_source, source_kind
    from compress.suited import made_up_texts
    from models import task as task_file
    from models.task import Task

    asked = set(variant or ["cpu-fp32"])
    if unknown := sorted(asked - set(VARIANTS)):
        raise InputError(f"--variant is {unknown[0]!r}: there are {', '.join(VARIANTS)}")
    refuse_finished(model)
    texts = read_rows(source_kind(model), data, None, CALIBRATION_ROWS) if data else None
    if texts is None and "cpu-int8" in asked:
        raise InputError("--variant cpu-int8 needs --data FILE: texts like those that will be served")
    source = open_source(model, store, texts.calibration.pair if texts else pair, max_tokens)
    if texts is None:
        made_up = made_up_texts(source.path, Task.read(source.path / task_file.FILE).pair)
        texts = BundleTexts.of(made_up)
    recipe: Literal["static", "fp32"] = "static" if "cpu-int8" in asked else "fp32"
    config = BundleConfig(recipe=recipe, max_loss=max_loss, gpu="gpu-fp16" in asked)
    finish("export", make_bundle(source, texts, config, store, any_text), out)


def refuse_finished(path: Path) -> None:
    """Refuse what holds no classifier any more, but a graph.

    Raises:
        InputError: it is an ONNX file, or a folder of one.
        FolderError: it is a bundle.
    """
    from export.foreign import refuse_onnx
    from service.bundle import FILE

    if path.is_file():
        refuse_onnx(path)
    if (path / FILE).is_file():
        raise FolderError(
            f"{path} is a bundle, exported and quantized already: give the classifier that it came from"
        )
    graphs = sorted(path.glob("*.onnx"))
    if graphs and not (path / "config.json").is_file():
        refuse_onnx(graphs[0])


def read_rows(kind: "Kind", calibration: str, data: str | None, count: int, test: str | None = None) -> "BundleTexts":
    """Return `count` rows drawn from `calibration`, and the rows that choose and that are reported.

    They are the two halves of `data`; or all of `data`, and `test`; or rows of `calibration` that were not drawn.

    Raises:
        InputError: `test` is given and `data` is not.
    """
    import numpy as np

    from compress.bundle_texts import BundleTexts
    from models.data.roles import RowRoles
    from models.data.texts import Columns, Texts, read_texts

    def read(source: str, most: int) -> Texts:
        rows = read_texts(source, Columns(), kind)
        return rows.take(np.random.default_rng(0).permutation(len(rows))[:most])

    if test and not data:
        raise InputError("--test is given without --data: give --data FILE, labelled rows that choose")
    if not data:
        rows = read(calibration, 3 * count)
        return BundleTexts.of(Texts(rows.rows, None, rows.source, kind), count)
    if test:
        roles = RowRoles(read(data, MOST_JUDGED // 2), read(test, MOST_JUDGED // 2))
    else:
        roles = RowRoles.of(read(data, MOST_JUDGED))
    for rows in (roles.choosing, roles.judged):
        rows.require_labels()
    return BundleTexts(read(calibration, count), roles)
