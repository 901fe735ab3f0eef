"""Schema of report.json. `schema_version` is raised when an older reader would misinterpret a newer file."""

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.measure.accuracy.difference import Difference, Metric
from bench.measure.accuracy.error_analysis import Quality
from bench.measure.accuracy.task_metric import METRICS, AnyScore
from bench.measure.latency.interference import Interference
from bench.measure.latency.request_batches import Grouping, resolved
from bench.report.cascade_report import CascadeReport
from models.architecture import Architecture
from models.schema import Record
from models.store.units import rounded
from models.task import Kind

# label indices, numbers, or 0 and 1 for each label of each row
Listed = tuple[int, ...] | tuple[float, ...] | tuple[tuple[int, ...], ...]
PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class Setting(Record):
    """The setting in which a time was measured. Times are comparable only if their whole settings are equal."""

    batch: int = Field(description="texts of one request")
    tokens: int | None = Field(description="exact length of every text; None: own lengths")
    threads: int = Field(description="threads inside one operator")
    grouping: Grouping | None = Field(
        None,
        description="how a request of several texts is split into batches: by length, as the service does, or as "
        "received, in one padded batch. None: schema 2, where ours ran by length and others as received",
    )

    def words(self) -> str:
        """Return the setting in words."""
        text = "one text at a time" if self.batch == 1 else f"{self.batch} texts at once"
        text += f", {self.grouping}" if self.batch > 1 and self.grouping else ""
        text += f", {self.tokens} tokens each" if self.tokens else ""
        return text + (f", {self.threads} threads" if self.threads > 1 else "")


class Timing(Setting):
    """Time of one engine in one setting: medians over rounds and requests, in milliseconds a request."""

    requests: int | None = Field(None, description="number of different requests; None: a report of schema 2")
    mean_tokens: float | None = Field(
        None, description="tokens per request; None: the engine reads no tokens, or schema 2"
    )
    mean_padded_tokens: float | None = Field(
        None, description="tokens per request with padding, as the model computes them"
    )
    p50_ms: float
    p50_interval: tuple[float, float] = Field(description="95 % bootstrap over texts and rounds")
    p95_ms: float | None = Field(description="None: too few requests for this percentile")
    percentiles_ms: tuple[float | None, ...] = Field(
        description="percentiles PERCENTS; None where fewer than three different requests lie beyond it"
    )
    spread: float = Field(description="variation between rounds: interquartile range over median of their medians")
    noisy: bool = Field(description="the variation is so large that the time is not reliable")


class EngineReport(Record):
    """One engine's row."""

    name: str
    description: str
    status: Literal["ok", "absent", "failed"] = "ok"
    timed: Literal["model", "text"] = Field(
        "model", description="what is timed. model: from token ids to logits, padding included; text: from text"
    )
    problem: str | None = Field(None, description="why there are no numbers: not installed, or failed")
    bytes: int | None = Field(None, description="size of the files that it needs")
    cold_start_seconds: float | None = Field(
        None, description="from the start of the process to ready, imports included"
    )
    peak_bytes: int | None = Field(None, description="peak memory of its process")
    score: AnyScore | None = Field(None, description="None: the data has no labels")
    quality: Quality | None = None
    answers: Listed | None = Field(None, description="of ours only: answers that --compare compares row by row")
    operators_ms: dict[str, float] | None = Field(None, description="milliseconds per text by operator, where known")
    difference: Difference | None = Field(None, description="against the reference, on the same rows")
    timings: tuple[Timing, ...] = ()
    speedup: float | None = Field(
        None,
        description="over the reference, as bench.measure.latency.timing defines it, in the setting of the headline; "
        "for ours, if that is one text at a time, the speed-up of the openings",
    )
    speedup_interval: tuple[float, float] | None = Field(None, description="95 %")

    def timing(self, batch: int) -> Timing | None:
        """Return the timing of `batch` texts at their own lengths, with the first number of threads."""
        return next((t for t in self.timings if t.batch == batch and t.tokens is None), None)

    def at(self, setting: Setting | None) -> Timing | None:
        """Return the timing in a setting; None if it was not measured."""
        return next((t for t in self.timings if setting is not None and same_setting(t, setting)), None)


def _without_unresolved(timing: dict[str, Any], texts: int) -> dict[str, Any]:
    """Remove from a timing of schema 1 or 2 the percentiles for which `texts` timed texts are too few requests."""
    if timing.get("requests") is not None:  # a report of an older schema that was written by this version
        return timing
    requests = texts // timing["batch"]
    percentiles = [
        ms if resolved(p, requests) else None for p, ms in zip(PERCENTS, timing["percentiles_ms"], strict=True)
    ]
    return {**timing, "p95_ms": timing["p95_ms"] if resolved(95, requests) else None, "percentiles_ms": percentiles}


class TextTimes(Record):
    """Times from text to answer in the openings: the text is split into tokens, then the model answers."""

    ours_ms: float
    reference_ms: float
    speedup: float
    interval: tuple[float, float] = Field(description="95 %, from the variation between openings")

    def summary(self, reference: str) -> dict[str, Any]:
        """Return the JSON that commands print; `reference` is the name of the engine that is compared with."""
        return {
            "speedup": {reference: rounded(self.speedup)}, "speedup_interval": [rounded(x) for x in self.interval],
            "p50_ms": {"ours": rounded(self.ours_ms), reference: rounded(self.reference_ms)},
        }  # fmt: skip


class Openings(Record):
    """Times of ours and its reference in fresh processes, one text at a time; two runs are compared by them.

    An opening is one start of both processes and gives one entry of each list. Its times are geometric means over
    texts of medians over rounds.
    """

    texts: int
    threads: int
    rounds: int = Field(description="rounds of each opening")
    reference_ms: tuple[float, ...]
    ours_ms: tuple[float, ...]
    speedups: tuple[float, ...] = Field(min_length=2, description="reference over ours")
    speedup: float = Field(description="geometric mean of the openings")
    interval: tuple[float, float] = Field(description="95 %, from the variation between openings")
    quiet: Interference = Field(description="CPU time that others used during the openings")
    text: TextTimes | None = Field(None, description="from text to answer; None: a report of an older version")

    @property
    def spread(self) -> float:
        """Variation between openings: standard deviation of the log speed-ups."""
        return float(np.log(self.speedups).std(ddof=1))

    def sentence(self, reference: str) -> str:
        """Return the speed-up, its interval and the interference as a sentence."""
        low, high = self.interval
        return (
            f"Ours and {reference}, opened {len(self.speedups)} times more in fresh processes: "
            f"{self.speedup:.2f} times as fast, text by text (95 % interval {low:.2f} to {high:.2f}; openings differ "
            f"by {self.spread:.1%}); meanwhile {self.quiet.sentence()}.{self._text_sentence()}"
        )

    def _text_sentence(self) -> str:
        if self.text is None:
            return ""
        low, high = self.text.interval
        return (
            f" That is the model, from token ids to logits. From text to answer, with the time to split texts into "
            f"tokens: {self.text.speedup:.2f} times as fast (95 % interval {low:.2f} to {high:.2f}; "
            f"{self.text.ours_ms:.2f} ms instead of {self.text.reference_ms:.2f})."
        )


def same_setting(first: Setting, second: Setting) -> bool:
    """Return whether two settings are equal."""
    return all(getattr(first, name) == getattr(second, name) for name in Setting.model_fields)


class Report(Record):
    """All results of one run.

    Reports of older schemas can be read, so that their numbers can be shown. Schema 1 had no openings. In schema 2
    only ours was batched by length, and a 95th percentile could be that of four requests.
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
    truth: Listed | None = Field(None, description="true answers, in the order of the data")
    asked_speedup: float | None = Field(
        None, description="speed-up that the compression was asked for; None: not pruned for a speed-up"
    )
    data: str
    data_sha256: str
    rows: int
    texts_timed: int
    rounds: int
    engines: tuple[EngineReport, ...]
    cascade: CascadeReport | None = Field(None, description="None: the bundle has no gate, or an engine failed")
    openings: Openings | None = Field(None, description="None: there is no reference, or one of the two failed")
    verdicts: tuple[str, ...] = Field(description="findings in sentences")

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, data: Any) -> Any:
        """Remove outdated fields of schemas 1 and 2, and percentiles of too few requests."""
        if not isinstance(data, dict) or data.get("schema_version") not in (1, 2):
            return data
        dropped = {"paired_speedup", "paired_interval"}
        engines = [{k: v for k, v in e.items() if k not in dropped} for e in data.get("engines", ())]
        texts = data.get("texts_timed", 0)
        return {
            **data,
            "engines": [
                {**e, "timings": [_without_unresolved(t, texts) for t in e.get("timings", ())]} for e in engines
            ],
        }

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that were timed, in their order."""
        timings = [t for e in self.engines for t in e.timings]
        names = Setting.model_fields
        return tuple(dict.fromkeys(Setting(**{name: getattr(t, name) for name in names}) for t in timings))

    @property
    def headline(self) -> Setting | None:
        """The setting of `speedup`: the first, which is one text at a time where that was measured."""
        return next(iter(self.settings), None)

    @property
    def shown(self) -> tuple[Setting, ...]:
        """The settings that a table shows: those with the headline's lengths and threads."""
        first = self.headline
        return tuple(s for s in self.settings if first and (s.tokens, s.threads) == (first.tokens, first.threads))

    @property
    def metric(self) -> Metric:
        """The metric for the kind of task."""
        return METRICS[self.kind]

    def engine(self, name: str) -> EngineReport | None:
        """Return the row of the engine of that name; None if it did not run."""
        return next((e for e in self.engines if e.name == name and e.status == "ok"), None)
