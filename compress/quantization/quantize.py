"""quantize(): write the int8 graph of a classifier by one recipe, with a loss within `max_loss` if possible.

`static`: fixed activation scales from calibration texts, so a prediction never depends on its batch. `dynamic`: one
scale per batch, computed at inference. It needs no calibration texts, and rows are run one by one, so that a
prediction does not depend on its batch here either.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.measure.accuracy.difference import Metric
from bench.measure.accuracy.task_metric import choose_metric, metric_value
from compress.quantization.calibration import TextBatches, calibrate
from compress.quantization.calibration_texts import BundleTexts
from compress.quantization.fp32_fallback import FallbackResult, fall_back_to_fp32
from compress.quantization.histogram import Method
from export import graph_precision as precision_file
from export.agreement import Agreement, Logits, Scorer, measure_agreement
from export.fused_operators import check_fused
from export.graph_precision import EmbeddingBits, Precision, Scales
from export.row_logits import logits_of_rows
from export.writer import write_int8
from models import task as task_file
from models.checkpoint import load_checkpoint
from models.classifier import Classifier
from models.data.texts import Texts
from models.finetuning.predict import predict
from models.schema import Record
from models.task import Task
from models.tokenizer import Tokenizer
from service.model.bundle import Variant
from service.model.engine import run_session
from service.model.session import open_session

Recipe = Literal["auto", "static", "dynamic", "fp32"]
Int8Recipe = Literal["static", "dynamic"]
USUAL_LARGEST, USUAL_SPREAD = 10.0, 2.0  # largest |logit| of a classifier, and standard deviation; regression: 1


class QuantizeConfig(Record):
    """Settings of int8 quantization, and the loss that is allowed."""

    recipe: Recipe = Field("auto", description="auto tries static, dynamic, fp32; takes the fastest within max_loss")
    method: Method = Field("mse", description="how the activation ranges are chosen")
    smooth: bool = Field(True, description="scale down input columns with outliers where it reduces the error")
    weight_bits: Literal[7, 8] = Field(8, description="7 never saturates without VNNI, but is less accurate")
    embedding_bits: EmbeddingBits | None = Field(None, description="of the token embeddings; None: as searched, or 8")
    max_loss: float = Field(0.5, ge=0, description="points that int8 may lose against fp32")
    metric: Metric | None = Field(None, description="metric of the loss; None: the default metric of the task")


def int8_variant(recipe: Int8Recipe = "static", bits: int = 8) -> Variant:
    """Return the entry of an int8 graph in a bundle; sessions are opened with its settings."""
    return Variant(
        file="onnx/cpu-int8.onnx", device="cpu", precision="int8", recipe=recipe, weight_bits=bits,
        golden_tolerance=0.25,
    )  # fmt: skip


class EvaluationRows:
    """Rows on which quantized graphs are compared with the fp32 model, and the logits of the fp32 model."""

    def __init__(self, texts: Texts, model: Classifier, tokenizer: Tokenizer, task: Task) -> None:
        self.texts = texts
        self.encoded = tokenizer.encode(texts.rows)
        self.fp32_logits: Logits = predict(model, self.encoded, tokenizer)
        self.truth: NDArray[Any] | None = None if texts.labels is None else texts.targets(task)


class QuantizationContext:
    """A classifier in fp32, its calibration texts, and the rows on which its quantized graphs are evaluated."""

    def __init__(self, source: Path, texts: BundleTexts, metric: Metric | None = None) -> None:
        self.model, self.task = load_checkpoint(source), Task.read(source / task_file.FILE)
        self.tokenizer = Tokenizer.open(source, self.task.max_tokens)
        searched = source / precision_file.FILE
        shape = self.model.architecture
        self.start = Precision.read(searched) if searched.is_file() else Precision.all_int8(shape)
        self.calibration, self.roles = texts.calibration.rows, texts.roles
        self.choosing = EvaluationRows(texts.roles.choosing, self.model, self.tokenizer, self.task)
        other = texts.roles.reported
        self.reported = (
            self.choosing if other is None else EvaluationRows(other, self.model, self.tokenizer, self.task)
        )
        self.metric: Metric = choose_metric(self.task.kind, metric)
        self._scorer = Scorer(self.metric, partial(metric_value, self.task.kind, metric=self.metric))

    @property
    def magnitude(self) -> float:
        """Largest |logit| divided by the usual one, at least 1: the error of fp32 and fp16 grows with it."""
        usual = 1.0 if self.task.kind == "regression" else USUAL_LARGEST
        return max(1.0, float(np.abs(self.choosing.fp32_logits).max()) / usual)

    @property
    def spread(self) -> float:
        """Standard deviation of the logits divided by the usual one, at least 1: the error of int8 grows with it."""
        usual = 1.0 if self.task.kind == "regression" else USUAL_SPREAD
        return max(1.0, float(self.choosing.fp32_logits.std()) / usual)

    @property
    def mean_tokens(self) -> float:
        """Mean length of the rows that choose."""
        return float(np.mean([len(e.ids) for e in self.choosing.encoded]))

    def logits(self, path: Path, rows: EvaluationRows, count: int | None = None, bits: int = 8) -> Logits:
        """Run a graph on rows, one row per batch.

        Args:
            path: the ONNX file.
            rows: the rows.
            count: number of rows, from the first; None: all.
            bits: width of the graph's int8 weights.

        Returns:
            Logits (rows, labels).
        """
        session = open_session(path, variant=int8_variant(bits=bits))
        return logits_of_rows(lambda one: run_session(session, self.tokenizer.pad([one])), rows.encoded[:count])

    def agreement(self, rows: EvaluationRows, logits: Logits) -> Agreement:
        """Compare the logits of the first of `rows` with those of the fp32 model."""
        count = len(logits)
        truth = None if rows.truth is None else rows.truth[:count]
        return measure_agreement(self.task, rows.fp32_logits[:count], logits, truth, self._scorer)


@dataclass(frozen=True, slots=True)
class RecipeCandidate:
    """A graph, its recipe, and its agreement with fp32 on the rows that choose."""

    recipe: Literal["static", "dynamic", "fp32"]
    path: Path
    fallback: FallbackResult

    @property
    def bits(self) -> int:
        """Width of its int8 weights, if it has any."""
        return self.fallback.precision.weight_bits

    @property
    def loss(self) -> float:
        """Loss against fp32, in points."""
        return self.fallback.agreement.loss_points


def quantize(
    context: QuantizationContext, recipe: Int8Recipe, config: QuantizeConfig, path: Path
) -> tuple[RecipeCandidate, Scales | None]:
    """Write the int8 graph of a model to `path`; sublayers stay in fp32 if the loss would otherwise be too large.

    Returns:
        The candidate, whose loss may still be larger than allowed, and the activation scales of a static graph.

    Raises:
        InputError: the texts cannot calibrate this model.
    """
    bits = config.weight_bits
    start, scales = context.start.model_copy(update={"weight_bits": bits}), None
    if config.embedding_bits is not None:
        start = start.model_copy(update={"embedding_bits": config.embedding_bits})
    if recipe == "static":
        batches = TextBatches(context.calibration, context.tokenizer)
        searched = start.smoothed  # the search measured the latency of a graph with these smoothing operators
        smooth = config.smooth if searched is None or not config.smooth else searched
        scales = calibrate(context.model, batches, config.method, bits, smooth)

    def measure(precision: Precision, rows: int | None) -> Agreement:
        write_int8(context.model, path, context.task.pair, scales, precision)
        return context.agreement(context.choosing, context.logits(path, context.choosing, rows, bits))

    shape = context.model.architecture
    fallback = fall_back_to_fp32(shape, start, measure, config.max_loss, context.mean_tokens)
    check_fused(path, shape, fallback.precision, static=recipe == "static")
    return RecipeCandidate(recipe, path, fallback), scales
