"""Clock: how fast and how large a model is in the form that is served, beside the unpruned model in fp32.

The reference is optimum's export of the source on ONNX Runtime: the `ort_fp32` of every report, so that what is
asked for, what is searched for and what is reported are one number.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from bench.timing import interleave
from compress.calibrate import calibrate
from compress.quantize import int8_variant
from export.onnx import write_int8
from export.precision import Precision
from models.classifier import Classifier
from models.record import Record
from models.tokens import TokenBatch
from service.engine import run_session
from service.runtime import open_session

ROUNDS = 15
SECONDS = 8.0  # after which a shape is known well enough: on a slow processor each round is long


class Measured(Record):
    """What a model is on this machine."""

    ours_ms: float  # a text, mean over the texts, median over the rounds
    reference_ms: float
    speedup: float
    bytes: int  # graph and tokenizer


def served_graph(
    model: Classifier, path: Path, pair: bool, batches: Sequence[TokenBatch], precision: Precision
) -> Path:
    """Write `model` to `path` in the form that is served, calibrated on `batches`, and return the path."""
    write_int8(model, path, pair, calibrate(model, batches, bits=precision.weight_bits), precision)
    return path


@dataclass(frozen=True, slots=True)
class Job:
    """A model that runs, and the texts as its own tokenizer splits them, one a batch."""

    session: ort.InferenceSession
    samples: Sequence[TokenBatch]


class Clock:
    """Times models against one reference, on the same texts, one text at a time, one thread, in turn."""

    def __init__(self, reference: Job, samples: Sequence[TokenBatch], pair: bool) -> None:
        self._reference, self._samples, self._pair = reference, samples, pair

    def measure(self, model: Classifier, precision: Precision, more_bytes: int) -> Measured:
        """Return the figures of a model in `precision`; beside its graph it takes `more_bytes`, the tokenizer's."""
        with tempfile.TemporaryDirectory() as scratch:
            path = served_graph(model, Path(scratch) / "model.onnx", self._pair, self._samples, precision)
            return self.time(path, path.stat().st_size + more_bytes)

    def time(self, path: Path, size: int, rounds: int = ROUNDS, within: float = SECONDS) -> Measured:
        """Return the figures of a graph whose model takes `size` bytes, from rounds that begin `within` seconds."""
        jobs = {"reference": self._reference, "ours": Job(open_session(path, variant=int8_variant()), self._samples)}
        calls = {name: lambda j=job: [run_session(j.session, one) for one in j.samples] for name, job in jobs.items()}
        times = {name: np.asarray(found) for name, found in interleave(calls, rounds, within=within).items()}
        per_text = {name: float(np.median(found)) / len(self._samples) * 1e3 for name, found in times.items()}
        return Measured(
            ours_ms=per_text["ours"],
            reference_ms=per_text["reference"],
            speedup=float(np.median(times["reference"] / times["ours"])),
            bytes=size,
        )
