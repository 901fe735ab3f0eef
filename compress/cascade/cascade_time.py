"""time_cascade(): the time from token ids to an answer, of a cascade, of its student, and of the full model.

Times are medians over rounds for each text, and then the mean and percentiles over texts: most texts take the gate's
time and some the student's, so that only the mean says what a text costs, and the 95th percentile is the student's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import Field

from bench.measure.latency.timing import time_texts
from compress.cascade.cascade_answers import Student
from models.schema import Record
from models.tokenizer import Encoded, Row, Tokenizer
from service.cascade.gate import Gate
from service.model.engine import run_session

TEXTS = 512  # that are timed; the slow full model answers the first FULL_TEXTS of them
FULL_TEXTS = 64
ROUNDS = 5


class CascadeTimes(Record):
    """Milliseconds of one text at a time on one thread, from token ids to an answer."""

    timed_texts: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    gate_ms: float = Field(description="median over texts of the time of the gate alone")
    student_mean_ms: float
    student_p95_ms: float
    reference_mean_ms: float | None = Field(description="of the full model in fp32; None: it is not at hand")
    speedup_mean: float | None = Field(description="reference_mean_ms over mean_ms")
    core_seconds_per_million: float = Field(description="of a million texts: mean_ms times 1000")


def time_cascade(
    student: Student, gate: Gate, encoded: Sequence[Encoded], rows: Sequence[Row], graph: Path | None
) -> CascadeTimes:
    """Return the times.

    Args:
        student: the network of the bundle.
        gate: the gate.
        encoded: tokens of `rows`.
        rows: texts in random order, of which the first ones are timed.
        graph: ONNX graph of the full model, with its tokenizer beside it; None: it is not at hand.
    """
    texts = encoded[:TEXTS]

    def by_gate(text: Encoded) -> Callable[[], object]:
        return lambda: gate.decide(text.ids)

    def by_student(text: Encoded) -> Callable[[], object]:
        return lambda: student.engine.infer([text])

    def by_cascade(text: Encoded) -> Callable[[], object]:
        return lambda: gate.decide(text.ids).answered or student.engine.infer([text])

    calls = {"gate": by_gate, "student": by_student, "cascade": by_cascade}
    seconds = time_texts({name: [call(text) for text in texts] for name, call in calls.items()}, ROUNDS)
    per_text = {name: 1e3 * np.median(one, axis=0) for name, one in seconds.items()}
    full = None if graph is None else _full_mean(graph, student.task.max_tokens, rows[:FULL_TEXTS])
    mean, (p50, p95, p99) = float(per_text["cascade"].mean()), np.percentile(per_text["cascade"], [50, 95, 99])
    return CascadeTimes(
        timed_texts=len(texts), mean_ms=mean, p50_ms=float(p50), p95_ms=float(p95), p99_ms=float(p99),
        gate_ms=float(np.median(per_text["gate"])), student_mean_ms=float(per_text["student"].mean()),
        student_p95_ms=float(np.percentile(per_text["student"], 95)), reference_mean_ms=full,
        speedup_mean=None if full is None else full / mean, core_seconds_per_million=1e3 * mean,
    )  # fmt: skip


def _full_mean(graph: Path, max_tokens: int, rows: Sequence[Row]) -> float:
    """Return the mean milliseconds of the full model in ONNX Runtime, as programs usually run it, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.open(graph.parent, max_tokens)

    def call(text: Encoded) -> Callable[[], NDArray[np.float32]]:
        return lambda: run_session(session, tokenizer.pad([text]))

    seconds = time_texts({"full": [call(text) for text in tokenizer.encode(rows)]}, ROUNDS)["full"]
    return float(1e3 * np.median(seconds, axis=0).mean())
