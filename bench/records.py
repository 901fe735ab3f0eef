"""What report.json holds. `schema_version` rises when a reader of an older file would misread a newer one."""

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.accuracy import Difference, Metric
from bench.judging import METRICS, AnyScore
from bench.quality import Quality
from bench.quiet import Quiet
from bench.requests import Grouping, resolved
from models.architecture import Architecture
from models.record import Record
from models.task import Kind

# label indices, numbers, or for each row 0 or 1 a label
Listed = tuple[int, ...] | tuple[float, ...] | tuple[tuple[int, ...], ...]
PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class Setting(Record):
    """What a time is of. Two times are compared only where all of it is the same."""

    batch: int = Field(description="texts of one request, answered at once")
    tokens: int | None = Field(description="exact length of every text; None: each text at its own")
    threads: int = Field(description="inside one operator")
    grouping: Grouping | None = Field(
        None,
        description="how a request of several texts is split into runs of the model: by length, as the service does, "
        "or as received, in one padded run. None: schema 2, where ours ran by length and others as received",
    )

    def words(self) -> str:
        """Return it for people."""
        told = "one text at a time" if self.batch == 1 else f"{self.batch} texts at once"
        told += f", {self.grouping}" if self.batch > 1 and self.grouping else ""
        told += f", {self.tokens} tokens each" if self.tokens else ""
        return told + (f", {self.threads} threads" if self.threads > 1 else "")


class Timing(Setting):
    """Time of one engine in one setting: medians over rounds and requests, in milliseconds a request."""

    requests: int | None = Field(None, description="different ones that were timed; None: a report of schema 2")
    mean_tokens: float | None = Field(
        None, description="tokens a request; None: the engine reads no tokens, or schema 2"
    )
    mean_padded_tokens: float | None = Field(None, description="the same with padding: what the model computes")
    p50_ms: float
    p50_interval: tuple[float, float] = Field(description="95 % bootstrap over texts and rounds")
    p95_ms: float | None = Field(description="None: too few requests to tell it")
    percentiles_ms: tuple[float | None, ...] = Field(
        description="at each of PERCENTS; None where fewer than three different requests lie beyond it"
    )
    spread: float = Field(description="how far rounds differ: interquartile range over median of the rounds' medians")
    noisy: bool = Field(description="the spread is so large that this row should not be trusted")


class EngineReport(Record):
    """One engine's row."""

    name: str
    description: str
    status: Literal["ok", "absent", "failed"] = "ok"
    timed: Literal["model", "text"] = Field(
        "model", description="what its times hold: model: from token ids to logits, padding included; text: from text"
    )
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
        None,
        description="over the reference, as bench.timing defines it, in the headline's setting; of ours from fresh "
        "processes (openings) where that is one text at a time",
    )
    speedup_interval: tuple[float, float] | None = Field(None, description="95 %")

    def timing(self, batch: int) -> Timing | None:
        """Return the time at own lengths for `batch` texts, with the first number of threads."""
        found = [t for t in self.timings if t.batch == batch and t.tokens is None]
        return found[0] if found else None

    def at(self, setting: Setting | None) -> Timing | None:
        """Return the time in a setting."""
        return next((t for t in self.timings if setting is not None and same_setting(t, setting)), None)


def _told(timing: dict[str, Any], texts: int) -> dict[str, Any]:
    """Return a time of schema 1 or 2 without the percentiles that its requests, `texts` in all, do not tell."""
    if timing.get("requests") is not None:  # such a report was read and written again
        return timing
    requests = texts // timing["batch"]
    percentiles = [
        ms if resolved(p, requests) else None for p, ms in zip(PERCENTS, timing["percentiles_ms"], strict=True)
    ]
    return {**timing, "p95_ms": timing["p95_ms"] if resolved(95, requests) else None, "percentiles_ms": percentiles}


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


def same_setting(first: Setting, second: Setting) -> bool:
    """Whether two times are of the same."""
    return all(getattr(first, name) == getattr(second, name) for name in Setting.model_fields)


class Report(Record):
    """All that was measured in one run.

    Older ones are read so that their numbers can be shown: schema 1 had no openings; in schema 2 only ours was given
    its batches by length, and a 95th percentile could be that of four requests.
    """

    schema_version: Literal[1, 2, 3] = 3
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
    def _read_older(cls, found: Any) -> Any:
        """Drop what says too little: what schema 1 compared runs by, and percentiles of too few requests."""
        if not isinstance(found, dict) or found.get("schema_version") not in (1, 2):
            return found
        dropped = {"paired_speedup", "paired_interval"}
        engines = [{k: v for k, v in e.items() if k not in dropped} for e in found.get("engines", ())]
        texts = found.get("texts_timed", 0)
        return {
            **found,
            "engines": [{**e, "timings": [_told(t, texts) for t in e.get("timings", ())]} for e in engines],
        }

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that were timed, in their order."""
        timings = [t for e in self.engines for t in e.timings]
        names = Setting.model_fields
        return tuple(dict.fromkeys(Setting(**{name: getattr(t, name) for name in names}) for t in timings))

    @property
    def headline(self) -> Setting | None:
        """The setting that `speedup` is of: the first, which is one text at a time where that was measured."""
        return next(iter(self.settings), None)

    @property
    def shown(self) -> tuple[Setting, ...]:
        """The settings of a table: those with the headline's lengths and threads."""
        first = self.headline
        return tuple(s for s in self.settings if first and (s.tokens, s.threads) == (first.tokens, first.threads))

    @property
    def metric(self) -> Metric:
        """What answers are judged by."""
        return METRICS[self.kind]

    def engine(self, name: str) -> EngineReport | None:
        """Return the row of that name, when it ran."""
        return next((e for e in self.engines if e.name == name and e.status == "ok"), None)
