"""The commands `prunella quantize` and `prunella export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.errors import FolderError, InputError
from models.store.results import Delivered, deliver
from prunella.cli.options import (
    STORE,
    Base,
    LabelColumn,
    Labels,
    MaxTokens,
    Out,
    PairColumn,
    Store,
    TextColumn,
    merged,
    read_columns,
)
from prunella.cli.output import need

if TYPE_CHECKING:
    from compress.quantization.calibration_texts import BundleTexts
    from models.data.columns import Columns
    from models.task import Kind

Model = Annotated[Path, typer.Argument(help="a classifier folder, or a fine-tuned Hugging Face folder")]
MaxLoss = Annotated[
    float, typer.Option(help="points that int8 may lose against fp32; sublayers stay in fp32 where necessary")
]
Rows = Annotated[
    str | None,
    typer.Option(
        help="labelled rows: one half selects precisions and recipe, the loss is reported on the other half"
    ),
]
Test = Annotated[
    str | None, typer.Option(help="labelled rows on which the loss is reported; then all rows of --data select")
]
MetricName = Annotated[
    str | None,
    typer.Option(help="metric of the loss: accuracy or macro_f1; multi-label: subset_accuracy, micro_f1 or macro_f1"),
]
AnyText = Annotated[bool, typer.Option(help="continue with texts whose tokens are mostly unknown to the tokenizer")]
MAX_ROWS = 2000  # of --data; `prunella bench` and `evaluate` use all rows
VARIANTS = ("cpu-fp32", "cpu-int8", "gpu-fp16")
CalibrationRows = Annotated[int, typer.Option(min=1, help="number of calibration texts, sampled from the file")]


def quantize(
    model: Model,
    calibration: Annotated[
        str, typer.Option(help="calibration texts, similar to those that will be served; labels are not needed")
    ],
    data: Rows = None,
    test: Test = None,
    recipe: Annotated[
        Literal["auto", "static", "dynamic", "fp32"],
        typer.Option(help="how activations are quantized; auto: the fastest measured recipe within --max-loss"),
    ] = "auto",
    calibrator: Annotated[
        Literal["mse", "minmax"],
        typer.Option(help="method that sets the clipping range of activations"),
    ] = "mse",
    smooth: Annotated[
        bool, typer.Option(help="scale down outlier columns of activations if that reduces the error")
    ] = True,
    calibration_rows: CalibrationRows = 256,
    weight_bits: Annotated[
        int, typer.Option(min=7, max=8, help="bits of weights; 7: for other runtimes on processors without VNNI")
    ] = 8,
    embedding_bits: Annotated[
        Literal["8", "4"] | None,
        typer.Option(help="bits of the token table; 4 halves it; default: 8, or what `compress` chose"),
    ] = None,
    max_loss: MaxLoss = 0.5,
    metric: MetricName = None,
    max_tokens: MaxTokens = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
    label_column: LabelColumn = "label",
    labels: Labels = None,
    any_text: AnyText = False,
    base: Base = None,
    remeasure: Annotated[
        bool, typer.Option(help="measure the recipes again; default: use the measurements in the store")
    ] = False,
    store: Store = STORE,
    out: Out = None,
) -> Delivered:
    """Quantize a classifier: write a bundle in int8 and fp32, check it against torch, and measure speed and loss.

    Exit code 1: the requested recipe loses more than --max-loss on the rows that select, or with its whole interval
    on the reported rows; or the ONNX answers differ from those of torch.
    """
    need("torch", "train")
    from bench.measure.accuracy.task_metric import choose_metric
    from compress.inputs.source import open_source, source_kind
    from compress.make_bundle import BundleConfig, make_bundle
    from compress.remeasure import forget_times
    from models import task as task_file
    from models.task import Task

    refuse_bundle(model)
    model = merged(model, base, store)
    kind = source_kind(model)
    columns = read_columns(text_column, pair_column, label_column, labels)
    texts = read_rows(kind, calibration, data, calibration_rows, test, columns)
    texts.roles.announce("precisions and recipe")
    source = open_source(model, store, texts.calibration.pair, max_tokens)
    for rows in (texts.roles.choosing, texts.roles.judged):
        if rows.labels is not None:
            rows.targets(Task.read(source.path / task_file.FILE))  # raises for a label that the model does not have
    config = BundleConfig.model_validate({
        "recipe": recipe, "method": calibrator, "smooth": smooth, "max_loss": max_loss, "weight_bits": weight_bits,
        "embedding_bits": int(embedding_bits) if embedding_bits else None, "timed": True,
        "metric": choose_metric(kind, metric),
    })  # fmt: skip
    if remeasure:
        forget_times(store, source)
    return deliver(make_bundle(source, texts, config, store, any_text), out)


def export(
    model: Model,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="variant to write: cpu-fp32, cpu-int8 or gpu-fp16; repeat the option for several"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="texts for the checks and for the calibration of cpu-int8; default: synthetic texts"),
    ] = None,
    pair: Annotated[
        bool, typer.Option(help="without --data: the rows of a Hugging Face folder are pairs of texts")
    ] = False,
    max_loss: MaxLoss = 0.5,
    max_tokens: MaxTokens = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
    any_text: AnyText = False,
    base: Base = None,
    store: Store = STORE,
    out: Out = None,
) -> Delivered:
    """Export a classifier to a bundle of ONNX files, each checked against torch; every bundle contains cpu-fp32."""
    need("torch", "train")
    from compress.inputs.source import open_source, source_kind
    from compress.inputs.validate_texts import made_up_texts
    from compress.make_bundle import BundleConfig, make_bundle
    from compress.quantization.calibration_texts import CALIBRATION_ROWS, BundleTexts
    from models import task as task_file
    from models.data.columns import Columns
    from models.task import Task

    variants = set(variant or ["cpu-fp32"])
    if unknown := sorted(variants - set(VARIANTS)):
        raise InputError(f"--variant is {unknown[0]!r}: choose from {', '.join(VARIANTS)}")
    refuse_bundle(model)
    model = merged(model, base, store)
    columns = Columns(text=text_column, text_pair=pair_column)
    texts = read_rows(source_kind(model), data, None, CALIBRATION_ROWS, columns=columns) if data else None
    if texts is None and "cpu-int8" in variants:
        raise InputError("--variant cpu-int8 needs --data FILE: texts like those that will be served")
    source = open_source(model, store, texts.calibration.pair if texts else pair, max_tokens)
    if texts is None:
        pair = Task.read(source.path / task_file.FILE).pair
        texts = BundleTexts.of(made_up_texts(source.path, pair))
    recipe: Literal["static", "fp32"] = "static" if "cpu-int8" in variants else "fp32"
    config = BundleConfig(recipe=recipe, max_loss=max_loss, gpu="gpu-fp16" in variants)
    return deliver(make_bundle(source, texts, config, store, any_text), out)


def refuse_bundle(path: Path) -> None:
    """Reject a path that contains an ONNX graph instead of a classifier.

    Raises:
        InputError: it is an ONNX file, or a folder with one.
        FolderError: it is a bundle.
    """
    from export.reject_onnx import refuse_onnx
    from service.model.bundle import FILE

    if path.is_file():
        refuse_onnx(path)
    if (path / FILE).is_file():
        raise FolderError(
            f"{path} is a bundle, exported and quantized already: give the classifier that it came from"
        )
    graphs = sorted(path.glob("*.onnx"))
    if graphs and not (path / "config.json").is_file():
        refuse_onnx(graphs[0])


def read_rows(
    kind: "Kind",
    calibration: str,
    data: str | None,
    count: int,
    test: str | None = None,
    columns: "Columns | None" = None,
) -> "BundleTexts":
    """Return `count` rows sampled from `calibration`, the rows that select, and the reported rows.

    The latter two are the halves of `data`; or all of `data` and `test`; or, without labels, further rows of
    `calibration`.

    Raises:
        InputError: `test` is given and `data` is not.
    """
    import numpy as np

    from compress.quantization.calibration_texts import BundleTexts
    from models.data.columns import Columns
    from models.data.roles import RowRoles
    from models.data.texts import Texts, read_texts

    labelled = columns or Columns()
    unlabelled = labelled.unlabelled()

    def read(source: str, limit: int, columns: Columns) -> Texts:
        rows = read_texts(source, columns, kind)
        return rows.take(np.random.default_rng(0).permutation(len(rows))[:limit])

    if test and not data:
        raise InputError("--test is given without --data: give --data FILE, the labelled rows that select")
    if not data:
        rows = read(calibration, 3 * count, unlabelled)
        return BundleTexts.of(Texts(rows.rows, None, rows.source, kind), count)
    if test:
        roles = RowRoles(read(data, MAX_ROWS // 2, labelled), read(test, MAX_ROWS // 2, labelled))
    else:
        roles = RowRoles.of(read(data, MAX_ROWS, labelled))
    for rows in (roles.choosing, roles.judged):
        rows.require_labels()
    return BundleTexts(read(calibration, count, unlabelled), roles)
