"""Telemetry: the metrics of one process, in Prometheus form. Labels are bounded: dialects and codes, never paths."""

import math
import os
from collections.abc import Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.engine import Engine
from service.runners import Outcome

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ITEMS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
PROCESS = (  # of all workers together
    ("process_resident_memory_bytes", "Resident memory size in bytes."),
    ("process_virtual_memory_bytes", "Virtual memory size in bytes."),
    ("process_open_fds", "Number of open file descriptors."),
)
CPU = ("process_cpu", "Total user and system CPU time spent in seconds.", (), "", "", "seconds")
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Telemetry:
    """Counters and histograms, and what /metrics says."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ  # set by the supervisor when there are several workers
        # in a registry of its own where workers add theirs up: its values are copied into metrics that can be added
        self._process = ProcessCollector(registry=None if self.shared else registry)
        self._process_gauges = [_gauge(*one, registry, "livesum") for one in PROCESS] if self.shared else []
        self._cpu = Counter(*CPU, registry=registry) if self.shared else None
        self._cpu_seconds = 0.0  # that were counted
        self.workers = _gauge("prunella_workers", "processes that accept requests", registry, "livesum")
        self._requests = Counter("prunella_requests", "answers", ["dialect", "code"], registry=registry)
        self._by_label: dict[tuple[str, int], Counter] = {}
        self.shed = Counter("prunella_shed", "requests refused or dropped", ["reason"], registry=registry)
        self.tokenize = _seconds("prunella_tokenize_seconds", "tokenizing a request", registry)
        self.queue = _seconds("prunella_queue_seconds", "a request's wait for the model", registry)
        self.infer = _seconds("prunella_infer_seconds", "a batch in the model", registry)
        self.items = Histogram("prunella_batch_items", "texts in a batch", buckets=ITEMS, registry=registry)
        self.tokens = Histogram(
            "prunella_batch_tokens", "tokens in a batch, padding counted", buckets=TOKENS, registry=registry
        )
        self.padding = Counter("prunella_padding_tokens", "tokens that were padding", registry=registry)
        self.failures = Counter("prunella_model_failures", "texts on which the model failed", registry=registry)
        self.depth = _gauge("prunella_queue_depth", "texts that wait", registry, "livesum")
        self.wait = _gauge("prunella_predicted_wait_seconds", "of a text that came now", registry, "livemax")
        self.fallback = _gauge("prunella_device_fallback", "1 when another device was asked for", registry, "livemax")
        self.info = _gauge("prunella_model_info", "the model", registry, "livemax", ["id", "variant", "device"])
        self.loss = _gauge(
            "prunella_model_loss_points",
            "its measured loss, in hundredths of accuracy or correlation; NaN: not measured",
            registry,
            "livemax",
        )
        self.speedup = _gauge(
            "prunella_model_speedup", "its measured speed-up; NaN: not measured", registry, "livemax"
        )
        self.swaps = Counter("prunella_swaps", "changes of the model", ["outcome"], registry=registry)
        self.shadowed = Counter("prunella_shadow_texts", "compared with the candidate", registry=registry)
        self.disagreed = Counter("prunella_shadow_disagreements", "other best label", registry=registry)
        self.shadow_skipped = Counter("prunella_shadow_skipped", "not compared: no room", registry=registry)
        self.shadow_failures = Counter(
            "prunella_shadow_failures", "texts on which the candidate failed", registry=registry
        )
        self.drift = Histogram(
            "prunella_shadow_drift", "largest change of a score", buckets=SHARES, registry=registry
        )
        self._served: tuple[str, str, str] | None = None
        self.dropped_logs = Counter("prunella_log_lines_dropped", "could not be written", registry=registry)

    def serves(self, engine: Engine) -> None:
        """Tell of the model that answers from now on."""
        report: dict[str, Any] = engine.bundle.report() or {}
        loss, speedup = report.get("loss_points"), (report.get("speedup") or {}).get(report.get("reference"))
        served = engine.bundle.id, engine.variant_name, engine.choice.got
        if not self.shared:
            self.info.clear()
        elif self._served is not None:
            self.info.labels(*self._served).set(0)  # a series cannot be removed from the files that workers add up
        self.info.labels(*served).set(1)
        self._served = served
        self.loss.set(math.nan if loss is None else loss)
        self.speedup.set(math.nan if speedup is None else speedup)
        self.fallback.set(engine.choice.reason is not None)

    def begin(self) -> None:
        """Count this process among the workers."""
        self.workers.set(1)
        self.look_at_process()

    def end(self) -> None:
        """Count it no more: it answers what it has, and ends."""
        self.workers.set(0)

    def look_at_process(self) -> None:
        """Bring what is known of this process up to date, where several workers add up."""
        if self._cpu is None:
            return
        values = {sample.name: sample.value for metric in self._process.collect() for sample in metric.samples}
        for (name, _), gauge in zip(PROCESS, self._process_gauges, strict=True):
            gauge.set(values.get(name, math.nan))
        seconds = values.get("process_cpu_seconds_total", 0.0)
        self._cpu.inc(max(0.0, seconds - self._cpu_seconds))
        self._cpu_seconds = seconds

    def forget(self, pid: int) -> None:
        """Take a worker that has died out of the gauges; what it counted stays."""
        if self.shared:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]

    def count(self, dialect: str, code: int) -> None:
        """Count an answer."""
        counter = self._by_label.get((dialect, code))
        if counter is None:
            counter = self._by_label[dialect, code] = self._requests.labels(dialect, str(code))
        counter.inc()

    def waited(self, tokenize: float, queue: float) -> None:
        """Take in the seconds of a request before the model."""
        self.tokenize.observe(tokenize)
        self.queue.observe(queue)

    def ran(self, outcome: Outcome) -> None:
        """Take in a batch."""
        batch = outcome.taken.batch
        padded = len(batch) * max(job.tokens for job in batch)
        self.infer.observe(outcome.ended - outcome.begun)
        self.items.observe(len(batch))
        self.tokens.observe(padded)
        self.padding.inc(padded - sum(job.tokens for job in batch))
        if None in outcome.answers:
            self.failures.inc(outcome.answers.count(None))

    def page(self) -> bytes:
        """Return what /metrics says, of all workers together."""
        if not self.shared:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        together.register(_Together())
        return generate_latest(together)


class _Together:
    """The metrics of all workers, without models that none of them serves any more."""

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        for metric in MultiProcessCollector(None).collect():  # type: ignore[no-untyped-call]
            if metric.name == "prunella_model_info":
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric


def _seconds(name: str, help_text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, help_text, buckets=SECONDS, registry=registry)


def _gauge(name: str, help_text: str, registry: CollectorRegistry, mode: Any, labels: Any = ()) -> Gauge:
    return Gauge(name, help_text, labels, registry=registry, multiprocess_mode=mode)
