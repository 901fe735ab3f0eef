"""Clock: how fast and how large a graph is, beside the unpruned model in fp32, in fresh processes.

The reference is optimum's export of the source on ONNX Runtime, the `ort_fp32` of every report. Speed is measured by
`bench.openings`, as in reports: what is searched for, confirmed, judged and reported has one definition
(`bench.timing`). Each purpose has texts of its own: a shape that was chosen because it was lucky on some texts and in
some processes is measured again on other texts in other processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from bench.engines import EngineSpec
from bench.openings import Conditions, combine, measure_openings
from bench.timing import SETTLE
from compress.calibrate import calibrate
from compress.calibration import lengths_of
from compress.source import Inputs
from export.onnx import write_int8
from export.precision import Precision
from models import task as task_file
from models.classifier import Classifier
from models.console import say
from models.folder import ModelFolder
from models.processor import cpu_flags, cpu_name
from models.record import Record
from models.task import Task
from models.tokens import Row, TokenBatch, Tokenizer

Purpose = Literal["search", "confirmation", "judgement"]
PURPOSES: tuple[Purpose, ...] = ("search", "confirmation", "judgement")
OPENINGS: dict[Purpose, int] = {"search": 2, "confirmation": 4, "judgement": 8}  # fresh processes of each model
SECONDS: dict[Purpose, float] = {"search": 20.0, "confirmation": 60.0, "judgement": 120.0}  # then no more are opened
TIMED_TEXTS = 24  # for each purpose
FEWEST_BATCHES = 6


class Load(Record):
    """How a model is served, where its speed counts."""

    batch: int = Field(1, ge=1, description="texts that are answered together")
    threads: int = Field(1, ge=1, description="inside one operator")

    @property
    def pause(self) -> float:
        """Seconds before a model's turn: the threads of the one before may spin on its cores."""
        return SETTLE if self.threads > 1 else 0.0

    def told(self) -> str:
        """Return it for people."""
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return threads if self.batch == 1 else f"{self.batch} texts at once, {threads}"


ALONE = Load()


class Sized(Record):
    """How large a model is."""

    bytes: int = Field(description="graph and tokenizer")


class Measured(Sized):
    """How fast a model is on this machine, besides. Times are geometric means over texts and over fresh processes."""

    ours_ms: float = Field(description="milliseconds a text; of a batch, its time over its texts")
    reference_ms: float
    speedup: float = Field(description="reference_ms / ours_ms")
    interval: tuple[float, float] | None = Field(None, description="95 %, of the speed-up")
    speedups: tuple[float, ...] = Field((), description="one a fresh process")
    load: Load = ALONE

    def pooled(self, other: "Measured") -> "Measured":
        """Return what both measurements say together: each fresh process counts alike."""
        counts = [max(1, len(one.speedups)) for one in (self, other)]
        speedups = self.speedups + other.speedups

        def mean(name: str) -> float:
            logs = np.log([getattr(one, name) for one in (self, other)])
            return float(np.exp(np.average(logs, weights=counts)))

        return self.model_copy(update={
            "ours_ms": mean("ours_ms"), "reference_ms": mean("reference_ms"), "speedup": mean("speedup"),
            "speedups": speedups, "interval": combine(speedups)[1] if len(speedups) > 1 else None,
        })  # fmt: skip


def times_belong_to(load: Load = ALONE) -> dict[str, Any]:
    """Return what measured times are true of: the processor, the runtime that uses it, and the load."""
    return {
        "processor": cpu_name(), "flags": sorted(cpu_flags()), "onnxruntime": version("onnxruntime"),
        **load.model_dump(),
    }  # fmt: skip


def write_served(
    model: Classifier, path: Path, pair: bool, batches: Sequence[TokenBatch], precision: Precision
) -> Precision:
    """Write `model` to `path` in the form that is served, calibrated on `batches`.

    Returns:
        The precision with the inputs that are smoothed by an operator of their own: where the bundle smooths the same
        inputs, its graph has the same operators, and takes the same time.
    """
    smooth = True if precision.smoothed is None else precision.smoothed
    scales = calibrate(model, batches, bits=precision.weight_bits, smooth=smooth)
    write_int8(model, path, pair, scales, precision)
    smoothed = tuple(sorted(name for name, activation in scales.items() if activation.smoothing is not None))
    return precision.model_copy(update={"smoothed": smoothed})


@dataclass(frozen=True, slots=True)
class Clock:
    """Times graphs against one reference, on the same texts, under the load that is expected."""

    reference: EngineSpec
    ours: EngineSpec  # without its graph
    texts: Mapping[Purpose, Sequence[Row]]  # a whole number of batches each
    load: Load

    def time(self, path: Path, size: int, purpose: Purpose) -> Measured:
        """Return the figures of a graph whose model takes `size` bytes.

        Raises:
            OpeningError: a process of one of the two models failed.
        """
        found = measure_openings(
            self.reference, replace(self.ours, file=str(path.resolve())), self.texts[purpose], OPENINGS[purpose],
            Conditions(self.load.batch, SECONDS[purpose], show=False),
        )  # fmt: skip
        ours, reference = (
            float(np.exp(np.log(ms).mean())) / self.load.batch for ms in (found.ours_ms, found.reference_ms)
        )
        return Measured(
            bytes=size, ours_ms=ours, reference_ms=reference, speedup=found.speedup, interval=found.interval,
            speedups=found.speedups, load=self.load,
        )  # fmt: skip


def choose_batches(lengths: Sequence[int], size: int, purpose: Purpose) -> list[list[int]]:
    """Return batches of `size` rows of nearly equal length, at even steps of the length.

    Each purpose has other rows, where there are enough; rows come again where there are fewer than a batch.

    Args:
        lengths: of the rows, in tokens.
        size: rows of a batch.
        purpose: what the batches are timed for.
    """
    order = np.argsort(lengths, kind="stable")
    order = np.repeat(order, -(-size // len(order)))  # neighbours stay neighbours
    count = max(TIMED_TEXTS // size, FEWEST_BATCHES)
    shift = (PURPOSES.index(purpose) + 0.5) / len(PURPOSES)
    places = ((np.arange(count) + shift) / count * (len(order) - size + 1)).astype(int)
    return [[int(i) for i in order[place : place + size]] for place in places]


def open_clock(inputs: Inputs, base: ModelFolder, reference: Path, load: Load) -> Clock:
    """Return a clock on the validation rows.

    Args:
        inputs: the source, by whose tokenizer the reference reads, and the rows.
        base: the source with its vocabulary as it is served.
        reference: the source's graph in fp32.
        load: under which models are timed.
    """
    source, rows = inputs.source.path, inputs.validation.rows
    task = Task.read(source / task_file.FILE)
    if len(rows) < load.batch:
        say(f"{inputs.validation.source} has {len(rows)} rows, fewer than a batch of {load.batch}: they come again")
    lengths = lengths_of(Tokenizer.open(source, task.max_tokens).encode(rows))
    texts = {
        purpose: [rows[i] for batch in choose_batches(lengths, load.batch, purpose) for i in batch]
        for purpose in PURPOSES
    }
    theirs = EngineSpec("ort_fp32", source, task, file=str(reference.resolve()), threads=load.threads)
    ours = EngineSpec("graph", base.path, Task.read(base.path / task_file.FILE), threads=load.threads)
    return Clock(theirs, ours, texts, load)
