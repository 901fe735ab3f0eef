"""quantize(): a classifier → its int8 graph by one recipe, inside the loss that is allowed.

`static`: fixed activation scales from calibration texts; an answer never depends on its batch. `dynamic`: a scale for
each batch, as it comes; it needs no texts, and is answered row by row to keep the same promise.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.accuracy import Metric
from bench.judging import choose_metric, judge
from compress.bundle_texts import BundleTexts
from compress.calibrate import TextBatches, calibrate
from compress.histogram import Method
from compress.sensitivity import Fallen, fall_back
from export import precision as precision_file
from export.agreement import Agreement, Logits, Scorer, measure_agreement
from export.graph import check_fused
from export.onnx import write_int8
from export.precision import EmbeddingBits, Precision, Scales
from models import task as task_file
from models.checkpoint import load_checkpoint
from models.classifier import Classifier
from models.data.texts import Texts
from models.record import Record
from models.task import Task
from models.tokens import Tokenizer
from models.train.predict import predict
from service.bundle import Variant
from service.engine import run_session
from service.runtime import open_session

Recipe = Literal["auto", "static", "dynamic", "fp32"]
Int8Recipe = Literal["static", "dynamic"]
USUAL_LARGEST, USUAL_SPREAD = 10.0, 2.0  # of a classifier's logits, and their standard deviation; a regression's: 1


class QuantizeConfig(Record):
    """How int8 is made, and what it may cost."""

    recipe: Recipe = Field("auto", description="auto measures static, dynamic and fp32, and takes the fastest inside")
    method: Method = Field("mse", description="where the ranges of activations are cut")
    smooth: bool = Field(True, description="whether columns of outliers are brought nearer to the rest where it pays")
    weight_bits: Literal[7, 8] = Field(8, description="7 never saturates without VNNI, and is less true")
    embedding_bits: EmbeddingBits | None = Field(None, description="of the token table; None: as searched, or 8")
    max_loss: float = Field(0.5, ge=0, description="points that int8 may lose against fp32")
    metric: Metric | None = Field(None, description="what a loss is a loss of; None: the task's own")


def int8_variant(recipe: Int8Recipe = "static", bits: int = 8) -> Variant:
    """Return how an int8 graph made here stands in a bundle; sessions are opened as it says."""
    return Variant(
        file="onnx/cpu-int8.onnx", device="cpu", precision="int8", recipe=recipe, weight_bits=bits,
        golden_tolerance=0.25,
    )  # fmt: skip


class JudgedRows:
    """Rows on which forms of a model are compared, and what the model in fp32 answers."""

    def __init__(self, texts: Texts, model: Classifier, tokenizer: Tokenizer, task: Task) -> None:
        self.texts = texts
        self.encoded = tokenizer.encode(texts.rows)
        self.wanted: Logits = predict(model, self.encoded, tokenizer)
        self.truth: NDArray[Any] | None = None if texts.labels is None else texts.targets(task)


class Subject:
    """A classifier in fp32, and the texts by which it is quantized and judged."""

    def __init__(self, source: Path, texts: BundleTexts, metric: Metric | None = None) -> None:
        self.model, self.task = load_checkpoint(source), Task.read(source / task_file.FILE)
        self.tokenizer = Tokenizer.open(source, self.task.max_tokens)
        searched = source / precision_file.FILE
        shape = self.model.architecture
        self.start = Precision.read(searched) if searched.is_file() else Precision.all_int8(shape)
        self.calibration, self.roles = texts.calibration.rows, texts.roles
        self.choosing = JudgedRows(texts.roles.choosing, self.model, self.tokenizer, self.task)
        other = texts.roles.reported
        self.reported = self.choosing if other is None else JudgedRows(other, self.model, self.tokenizer, self.task)
        name = choose_metric(self.task.kind, metric)
        self.metric: Metric = name
        self._scorer = Scorer(name, partial(judge, self.task.kind, metric=name))

    @property
    def magnitude(self) -> float:
        """How large logits are, over what is usual: rounding in floats grows with it. 1 or more."""
        usual = 1.0 if self.task.kind == "regression" else USUAL_LARGEST
        return max(1.0, float(np.abs(self.choosing.wanted).max()) / usual)

    @property
    def spread(self) -> float:
        """How far logits differ, likewise: int8's error grows with it. 1 or more."""
        usual = 1.0 if self.task.kind == "regression" else USUAL_SPREAD
        return max(1.0, float(self.choosing.wanted.std()) / usual)

    @property
    def mean_tokens(self) -> float:
        """Mean length of the texts that choose."""
        return float(np.mean([len(e.ids) for e in self.choosing.encoded]))

    def answers(self, path: Path, rows: JudgedRows, count: int | None = None, bits: int = 8) -> Logits:
        """Return the logits (rows, labels) of the graph at `path` for the first `count` rows, each text alone.

        `bits` is the width of its int8 weights.
        """
        session = open_session(path, variant=int8_variant(bits=bits))
        return np.concatenate([run_session(session, self.tokenizer.pad([e])) for e in rows.encoded[:count]])

    def agreement(self, rows: JudgedRows, found: Logits) -> Agreement:
        """Compare logits of the first of `rows` with those of the model in fp32."""
        count = len(found)
        truth = None if rows.truth is None else rows.truth[:count]
        return measure_agreement(self.task, rows.wanted[:count], found, truth, self._scorer)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A graph, how it was made, and how near to fp32 it is on the rows that choose."""

    recipe: Literal["static", "dynamic", "fp32"]
    path: Path
    fallen: Fallen

    @property
    def bits(self) -> int:
        """Width of its int8 weights, if it has any."""
        return self.fallen.precision.weight_bits

    @property
    def loss(self) -> float:
        """Points lost against fp32."""
        return self.fallen.agreement.loss_points


def quantize(
    subject: Subject, recipe: Int8Recipe, config: QuantizeConfig, path: Path
) -> tuple[Candidate, Scales | None]:
    """Write the int8 form of a model to `path`; sublayers stay in fp32 where the loss would not be inside else.

    Returns:
        The candidate, which may still be outside the loss, and the activation scales of a static one.

    Raises:
        InputError: the texts cannot calibrate this model.
    """
    bits = config.weight_bits
    start, scales = subject.start.model_copy(update={"weight_bits": bits}), None
    if config.embedding_bits is not None:
        start = start.model_copy(update={"embedding_bits": config.embedding_bits})
    if recipe == "static":
        batches = TextBatches(subject.calibration, subject.tokenizer)
        searched = start.smoothed  # the search has timed a graph with these operators
        smooth = config.smooth if searched is None or not config.smooth else searched
        scales = calibrate(subject.model, batches, config.method, bits, smooth)

    def measure(precision: Precision, rows: int | None) -> Agreement:
        write_int8(subject.model, path, subject.task.pair, scales, precision)
        return subject.agreement(subject.choosing, subject.answers(path, subject.choosing, rows, bits))

    shape = subject.model.architecture
    fallen = fall_back(shape, start, measure, config.max_loss, subject.mean_tokens)
    check_fused(path, shape, fallen.precision, static=recipe == "static")
    return Candidate(recipe, path, fallen), scales
