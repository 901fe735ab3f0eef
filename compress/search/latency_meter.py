"""LatencyMeter: the paired latency of a graph and of the unpruned fp32 model, measured in fresh processes.

The reference is optimum's export of the source on ONNX Runtime, called `ort_fp32` in every report. Search,
confirmation, final evaluation and reports share one definition of speed (`bench.measure.latency.process_restarts` and
`bench.measure.latency.timing`). Each purpose has its own texts. So an architecture that was chosen because of a lucky
measurement is measured again on other texts and in other processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from bench.measure.engine_spec import EngineSpec
from bench.measure.latency.process_restarts import Conditions, TextTimes, combine, measure_openings
from compress.config import ALONE, Workload
from compress.inputs.inputs import CompressionInputs
from compress.quantization.calibration import calibrate
from export.graph_precision import Precision
from export.writer import write_int8
from models import task as task_file
from models.classifier import Classifier
from models.messages import say
from models.processor import cpu_flags, cpu_name
from models.schema import Record
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Row, TokenBatch

Purpose = Literal["search", "confirmation", "judgement"]
PURPOSES: tuple[Purpose, ...] = ("search", "confirmation", "judgement")
OPENINGS: dict[Purpose, int] = {"search": 2, "confirmation": 4, "judgement": 8}  # fresh processes for each model
SECONDS: dict[Purpose, float] = {"search": 20.0, "confirmation": 60.0, "judgement": 120.0}  # then no more are started
TIMED_TEXTS = 24  # for each purpose
FEWEST_BATCHES = 6


class Sized(Record):
    """The size of a model."""

    bytes: int = Field(description="graph and tokenizer")


class Measured(Sized):
    """Size and speed of a model on this machine. Times are geometric means over texts and fresh processes."""

    ours_ms: float = Field(description="milliseconds per text: the time of a batch divided by its number of texts")
    reference_ms: float
    speedup: float = Field(description="reference_ms / ours_ms")
    interval: tuple[float, float] | None = Field(None, description="95 % confidence interval of the speed-up")
    speedups: tuple[float, ...] = Field((), description="speed-up in each fresh process")
    load: Workload = ALONE
    text: TextTimes | None = Field(None, description="per text, from text to answer; None: not measured")

    def pooled(self, other: "Measured") -> "Measured":
        """Return both measurements combined, with the same weight for each fresh process."""
        weights = [max(1, len(one.speedups)) for one in (self, other)]
        speedups = self.speedups + other.speedups

        def mean(name: str) -> float:
            logs = np.log([getattr(one, name) for one in (self, other)])
            return float(np.exp(np.average(logs, weights=weights)))

        return self.model_copy(update={
            "ours_ms": mean("ours_ms"), "reference_ms": mean("reference_ms"), "speedup": mean("speedup"),
            "speedups": speedups, "interval": combine(speedups)[1] if len(speedups) > 1 else None,
            "text": None,
        })  # fmt: skip


def timing_environment(load: Workload = ALONE) -> dict[str, Any]:
    """Return the conditions under which measured times are valid: processor, runtime and workload."""
    return {
        "processor": cpu_name(), "flags": sorted(cpu_flags()), "onnxruntime": version("onnxruntime"),
        **load.model_dump(),
    }  # fmt: skip


def write_served(
    model: Classifier, path: Path, pair: bool, batches: Sequence[TokenBatch], precision: Precision
) -> Precision:
    """Write `model` to `path` in the form that is served, calibrated on `batches`.

    Returns:
        The precision with the names of the inputs that are smoothed by a separate operator. A bundle that smooths the
        same inputs has the same operators, and therefore the same latency.
    """
    smooth = True if precision.smoothed is None else precision.smoothed
    scales = calibrate(model, batches, bits=precision.weight_bits, smooth=smooth)
    write_int8(model, path, pair, scales, precision)
    smoothed = tuple(sorted(name for name, activation in scales.items() if activation.smoothing is not None))
    return precision.model_copy(update={"smoothed": smoothed})


@dataclass(frozen=True, slots=True)
class LatencyMeter:
    """Measures graphs against one reference, on the same texts and with the expected workload."""

    reference: EngineSpec
    ours: EngineSpec  # without the path of its graph
    texts: Mapping[Purpose, Sequence[Row]]  # a whole number of batches for each purpose
    load: Workload

    def time(self, path: Path, size: int, purpose: Purpose) -> Measured:
        """Return the measurement of a graph whose model has `size` bytes.

        Raises:
            OpeningError: a process of one of the two models failed.
        """
        result = measure_openings(
            self.reference, replace(self.ours, file=str(path.resolve())), self.texts[purpose], OPENINGS[purpose],
            Conditions(self.load.batch, SECONDS[purpose], show=False),
        )  # fmt: skip
        ours, reference = (
            float(np.exp(np.log(ms).mean())) / self.load.batch for ms in (result.ours_ms, result.reference_ms)
        )
        return Measured(
            bytes=size, ours_ms=ours, reference_ms=reference, speedup=result.speedup, interval=result.interval,
            speedups=result.speedups, load=self.load, text=self._per_text(result.text),
        )  # fmt: skip

    def _per_text(self, times: TextTimes | None) -> TextTimes | None:
        if times is None:
            return None
        batch = self.load.batch
        return times.model_copy(
            update={"ours_ms": times.ours_ms / batch, "reference_ms": times.reference_ms / batch}
        )  # fmt: skip


def choose_batches(lengths: Sequence[int], size: int, purpose: Purpose) -> list[list[int]]:
    """Return batches of `size` rows of nearly equal length, evenly spaced over the rows sorted by length.

    Different purposes get different rows if there are enough rows. Fewer rows than a batch are repeated.

    Args:
        lengths: lengths of the rows in tokens.
        size: rows in a batch.
        purpose: the purpose of the measurement.
    """
    order = np.argsort(lengths, kind="stable")
    order = np.repeat(order, -(-size // len(order)))  # each row beside its copies
    count = max(TIMED_TEXTS // size, FEWEST_BATCHES)
    shift = (PURPOSES.index(purpose) + 0.5) / len(PURPOSES)
    places = ((np.arange(count) + shift) / count * (len(order) - size + 1)).astype(int)
    return [[int(i) for i in order[place : place + size]] for place in places]


def open_latency_meter(inputs: CompressionInputs, base: ModelFolder, reference: Path, load: Workload) -> LatencyMeter:
    """Return a latency meter that uses the validation rows.

    Args:
        inputs: the rows, and the model that is compared with, whose tokenizer the reference uses.
        base: the source with the vocabulary that is served.
        reference: the fp32 graph of that model.
        load: workload of the measurements.
    """
    compared, rows = inputs.compared.path, inputs.validation.rows
    task = Task.read(compared / task_file.FILE)
    if len(rows) < load.batch:
        say(f"{inputs.validation.source} has {len(rows)} rows, fewer than a batch of {load.batch}: they are repeated")
    lengths = inputs.encoded(inputs.compared).validation.lengths
    texts = {
        purpose: [rows[i] for batch in choose_batches(lengths, load.batch, purpose) for i in batch]
        for purpose in PURPOSES
    }
    theirs = EngineSpec("ort_fp32", compared, task, file=str(reference.resolve()), threads=load.threads)
    ours = EngineSpec("graph", base.path, Task.read(base.path / task_file.FILE), threads=load.threads)
    return LatencyMeter(theirs, ours, texts, load)
