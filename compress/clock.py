"""Clock: how fast and how large a model is in the form that is served, beside the unpruned model in fp32.

The reference is optimum's export of the source on ONNX Runtime: the `ort_fp32` of every report, so that what is
asked for, what is searched for and what is reported are one number.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from pydantic import Field

from bench.timing import SETTLE, interleave
from compress.calibrate import calibrate
from compress.quantize import int8_variant
from export.onnx import write_int8
from export.precision import Precision
from models.classifier import Classifier
from models.processor import cpu_flags, cpu_name
from models.record import Record
from models.tokens import TokenBatch
from service.engine import run_session
from service.runtime import open_session

ROUNDS = 15
SECONDS = 8.0  # after which a shape is known well enough: on a slow processor each round is long


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


class Measured(Record):
    """What a model is on this machine."""

    ours_ms: float  # a text, mean over the texts, median over the rounds; of a batch, its time over its texts
    reference_ms: float
    speedup: float
    bytes: int  # graph and tokenizer
    load: Load = ALONE


def times_belong_to() -> dict[str, Any]:
    """Return what measured times are true of: the processor, and the runtime that uses it."""
    return {
        "processor": cpu_name(), "flags": sorted(cpu_flags()), "onnxruntime": version("onnxruntime"),
    }  # fmt: skip


def served_graph(
    model: Classifier, path: Path, pair: bool, batches: Sequence[TokenBatch], precision: Precision
) -> Path:
    """Write `model` to `path` in the form that is served, calibrated on `batches`, and return the path."""
    write_int8(model, path, pair, calibrate(model, batches, bits=precision.weight_bits), precision)
    return path


@dataclass(frozen=True, slots=True)
class Job:
    """A model that runs, and the texts as its own tokenizer splits them, in batches."""

    session: ort.InferenceSession
    samples: Sequence[TokenBatch]


class Clock:
    """Times models against one reference, on the same texts, in turn, under the load that is expected."""

    def __init__(self, reference: Job, samples: Sequence[TokenBatch], pair: bool, load: Load) -> None:
        self._reference, self._samples, self._pair, self._load = reference, samples, pair, load

    def measure(self, model: Classifier, precision: Precision, more_bytes: int) -> Measured:
        """Return the figures of a model in `precision`; beside its graph it takes `more_bytes`, the tokenizer's."""
        with tempfile.TemporaryDirectory() as scratch:
            path = served_graph(model, Path(scratch) / "model.onnx", self._pair, self._samples, precision)
            return self.time(path, path.stat().st_size + more_bytes)

    def time(self, path: Path, size: int, rounds: int = ROUNDS, within: float = SECONDS) -> Measured:
        """Return the figures of a graph whose model takes `size` bytes, from rounds that begin `within` seconds."""
        session = open_session(path, self._load.threads, variant=int8_variant())
        jobs = {"reference": self._reference, "ours": Job(session, self._samples)}
        calls = {name: lambda j=job: [run_session(j.session, one) for one in j.samples] for name, job in jobs.items()}
        found = interleave(calls, rounds, within=within, pause=self._load.pause)
        times = {name: np.asarray(seconds) for name, seconds in found.items()}
        texts = sum(batch.rows for batch in self._samples)
        per_text = {name: float(np.median(seconds)) / texts * 1e3 for name, seconds in times.items()}
        return Measured(
            ours_ms=per_text["ours"],
            reference_ms=per_text["reference"],
            speedup=float(np.median(times["reference"] / times["ours"])),
            bytes=size,
            load=self._load,
        )
