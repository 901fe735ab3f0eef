"""What report.json holds. `schema_version` rises when a reader of an older file would misread a newer one."""

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.accuracy import Difference, Metric
from bench.judging import METRICS, AnyScore
from bench.quality import Quality
from bench.quiet import Quiet
from models.architecture import Architecture
from models.record import Record
from models.task import Kind

# label indices, numbers, or for each row 0 or 1 a label
Listed = tuple[int, ...] | tuple[float, ...] | tuple[tuple[int, ...], ...]
PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class Timing(Record):
    """Time of one engine in one setting: medians over rounds and texts, in milliseconds a batch."""

    batch: int = Field(description="texts answered at once")
    tokens: int | None = Field(description="exact length of every text; None: each text at its own")
    threads: int
    p50_ms: float
    p50_interval: tuple[float, float] = Field(description="95 % bootstrap over texts and rounds")
    p95_ms: float
    percentiles_ms: tuple[float, ...] = Field(description="at each of PERCENTS")
    spread: float = Field(description="how far rounds differ: interquartile range over median of the rounds' medians")
    noisy: bool = Field(description="the spread is so large that this row should not be trusted")


class EngineReport(Record):
    """One engine's row."""

    name: str
    description: str
    status: Literal["ok", "absent", "failed"] = "ok"
    problem: str | None = Field(None, description="why there are no numbers: not installed, or failed")
    bytes: int | None = Field(None, description="files that it needs to answer")
    cold_start_seconds: float | None = Field(None, description="from a new process to ready, imports included")
    peak_bytes: int | None = Field(None, description="largest memory of its process")
    score: AnyScore | None = Field(None, description="None: the data has no labels")
    quality: Quality | None = None
    answers: Listed | None = Field(None, description="of ours only: what --compare pairs")
    operators_ms: dict[str, float] | None = Field(None, description="milliseconds a text by operator, where known")
    difference: Difference | None = Field(None, description="against the reference, on the same rows")
    timings: tuple[Timing, ...] = ()
    speedup: float | None = Field(
        None, description="over the reference, as bench.timing defines it; of ours from fresh processes (openings)"
    )
    speedup_interval: tuple[float, float] | None = Field(None, description="95 %")

    def timing(self, batch: int) -> Timing | None:
        """Return the time at own lengths for `batch` texts, with the first number of threads."""
        found = [t for t in self.timings if t.batch == batch and t.tokens is None]
        return found[0] if found else None


class Openings(Record):
    """Ours and its reference in fresh processes, one text at a time: what two runs are compared by.

    Times are geometric means over texts of medians over rounds; one entry an opening.
    """

    texts: int
    threads: int
    rounds: int = Field(description="of each opening")
    reference_ms: tuple[float, ...]
    ours_ms: tuple[float, ...]
    speedups: tuple[float, ...] = Field(min_length=2, description="reference over ours")
    speedup: float = Field(description="geometric mean of the openings")
    interval: tuple[float, float] = Field(description="95 %, from how openings differ")
    quiet: Quiet

    @property
    def spread(self) -> float:
        """How much one opening differs from the next: the standard deviation of the log speed-ups."""
        return float(np.log(self.speedups).std(ddof=1))

    def sentence(self, reference: str) -> str:
        """Say the speed-up, how sure it is and how quiet the machine was."""
        low, high = self.interval
        return (
            f"Ours and {reference}, opened {len(self.speedups)} times more in fresh processes: "
            f"{self.speedup:.2f} times as fast, text by text (95 % interval {low:.2f} to {high:.2f}; openings differ "
            f"by {self.spread:.1%}); meanwhile {self.quiet.sentence()}."
        )


class Report(Record):
    """All that was measured in one run. Schema 1 had no openings, and is read so that its numbers can be shown."""

    schema_version: Literal[1, 2] = 2
    command: str
    started: str
    seconds: float
    machine: dict[str, Any]
    load_after: float
    bundle: str = Field(description="id of the bundle")
    architecture: Architecture
    reference: str | None = Field(description="the engine that others are compared with")
    reference_architecture: Architecture
    labels: tuple[str, ...]
    kind: Kind = Field("single", description="of the model's task")
    truth: Listed | None = Field(None, description="what should be answered, in the data's order")
    asked_speedup: float | None = Field(None, description="what compression was asked for; None: nothing was pruned")
    data: str
    data_sha256: str
    rows: int
    texts_timed: int
    rounds: int
    engines: tuple[EngineReport, ...]
    openings: Openings | None = Field(None, description="None: there is no reference, or one of the two failed")
    verdicts: tuple[str, ...] = Field(description="what a reader should know before the numbers")

    @model_validator(mode="before")
    @classmethod
    def _read_schema_1(cls, found: Any) -> Any:
        """Drop what schema 1 compared runs by: it came from one process, which says too little."""
        if not isinstance(found, dict) or found.get("schema_version") != 1:
            return found
        dropped = {"paired_speedup", "paired_interval"}
        engines = [{k: v for k, v in e.items() if k not in dropped} for e in found.get("engines", ())]
        return {**found, "engines": engines}

    @property
    def metric(self) -> Metric:
        """What answers are judged by."""
        return METRICS[self.kind]

    def engine(self, name: str) -> EngineReport | None:
        """Return the row of that name, when it ran."""
        return next((e for e in self.engines if e.name == name and e.status == "ok"), None)
