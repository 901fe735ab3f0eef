"""Telemetry: the Prometheus metrics of one process, and the aggregated metrics of all workers for /metrics.

The number of label values is bounded: responses are labelled by protocol and status code, never by path.
"""

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

from service.cascade.drift_detector import disagreement_bound
from service.inference.runners import Outcome
from service.model.engine import Engine

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ITEMS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
PROCESS = (  # of all workers together
    ("process_resident_memory_bytes", "Resident memory size in bytes."),
    ("process_virtual_memory_bytes", "Virtual memory size in bytes."),
    ("process_open_fds", "Number of open file descriptors."),
)
CPU = ("process_cpu", "Total user and system CPU time spent in seconds.", (), "", "", "seconds")
GATE_SECONDS = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.05)
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Telemetry:
    """Counters, gauges and histograms, and the text of /metrics."""

    def __init__(self, name: str = "") -> None:
        """Make the metrics; `name` is the model's where it is not the one in the bundle."""
        self._name = name
        self.registry = registry = CollectorRegistry()
        self.shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ  # set by the supervisor when there are several workers
        # the process metrics of several workers cannot be aggregated directly, so they are not registered: their
        # values are copied into gauges and a counter that can
        self._process = ProcessCollector(registry=None if self.shared else registry)
        self._process_gauges = [_gauge(*spec, registry, "livesum") for spec in PROCESS] if self.shared else []
        self._cpu = Counter(*CPU, registry=registry) if self.shared else None
        self._cpu_seconds = 0.0  # CPU time that was added to the counter so far
        self.workers = _gauge("prunella_workers", "processes that accept requests", registry, "livesum")
        self._requests = Counter("prunella_requests", "answers", ["dialect", "code"], registry=registry)
        self._by_label: dict[tuple[str, int], Counter] = {}
        self.shed = Counter("prunella_shed", "requests refused or dropped", ["reason"], registry=registry)
        self.tokenize = _seconds("prunella_tokenize_seconds", "tokenizing a request", registry)
        self.queue = _seconds("prunella_queue_seconds", "a request's wait for the model", registry)
        self.infer = _seconds("prunella_infer_seconds", "inference time of a batch", registry)
        self.items = Histogram("prunella_batch_items", "texts in a batch", buckets=ITEMS, registry=registry)
        self.tokens = Histogram(
            "prunella_batch_tokens", "tokens in a batch, padding included", buckets=TOKENS, registry=registry
        )
        self.padding = Counter("prunella_padding_tokens", "tokens that were padding", registry=registry)
        self.failures = Counter("prunella_model_failures", "texts on which the model failed", registry=registry)
        self.depth = _gauge(
            "prunella_queue_depth", "texts that wait for the tokenizer or the model", registry, "livesum"
        )
        self.wait = _gauge(
            "prunella_predicted_wait_seconds",
            "predicted time until all texts that wait have started",
            registry,
            "livemax",
        )
        self.fallback = _gauge(
            "prunella_device_fallback", "1 if the requested device is not used", registry, "livemax"
        )
        self.info = _gauge(
            "prunella_model_info", "the current model", registry, "livemax", ["id", "variant", "device", "name"]
        )
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
        self.shadowed = Counter("prunella_shadow_texts", "texts compared with the candidate", registry=registry)
        self.disagreed = Counter(
            "prunella_shadow_disagreements", "texts with another best label from the candidate", registry=registry
        )
        self.shadow_skipped = Counter(
            "prunella_shadow_skipped", "texts not compared with the candidate", registry=registry
        )
        self.shadow_failures = Counter(
            "prunella_shadow_failures", "texts on which the candidate failed", registry=registry
        )
        self.drift = Histogram(
            "prunella_shadow_drift", "largest difference of a score of a text", buckets=SHARES, registry=registry
        )
        self._add_gate(registry)
        self._model_labels: tuple[str, ...] | None = None
        self.dropped_logs = Counter(
            "prunella_log_lines_dropped", "log lines that could not be written", registry=registry
        )

    def _add_gate(self, registry: CollectorRegistry) -> None:
        """Add the metrics of a bundle's gate."""
        stages = Counter(
            "prunella_cascade_texts",
            "texts of a bundle with a gate: answered by the gate, left by it to the student, or not shown to it",
            ["stage"],
            registry=registry,
        )
        self._by_stage = {stage: stages.labels(stage) for stage in ("gate", "student", "bypass")}
        self.gate_seconds = Histogram(
            "prunella_gate_seconds", "the gate's time for a request", buckets=GATE_SECONDS, registry=registry
        )
        self.gate_share = _gauge(
            "prunella_gate_expected_share",
            "share of the texts that the gate answered when its threshold was chosen; NaN: there is no gate",
            registry,
            "livemax",
        )
        self.gate_checked = Counter(
            "prunella_gate_checked", "texts of the gate that the student answered too", registry=registry
        )
        self.gate_disagreed = Counter(
            "prunella_gate_disagreements", "texts with another best label from the student", registry=registry
        )
        self.gate_skipped = Counter(
            "prunella_gate_check_skipped", "texts not checked, because too many waited", registry=registry
        )
        self.gate_check_failures = Counter(
            "prunella_gate_check_failures", "texts of the gate on which the student failed", registry=registry
        )
        self.gate_disagreement = _gauge(
            "prunella_gate_disagreement", "share of disagreements in the last 1000 checked texts", registry, "livemax"
        )
        self.gate_bound = _gauge(
            "prunella_gate_disagreement_bound", "the largest share that is not a drift", registry, "livemax"
        )
        self.gate_drift = _gauge("prunella_gate_drift", "1 while disagreements exceed the bound", registry, "livemax")

    def gated(self, seconds: float, texts: int, left: int) -> None:
        """Count the texts of a request that the gate saw, of which it left some to the student."""
        self.gate_seconds.observe(seconds)
        self._by_stage["gate"].inc(texts - left)
        self._by_stage["student"].inc(left)

    def bypassed(self, texts: int) -> None:
        """Count texts of a bundle with a gate that were not shown to it."""
        self._by_stage["bypass"].inc(texts)

    def serves(self, engine: Engine) -> None:
        """Set the gauges of the model to the new current one."""
        report: dict[str, Any] = engine.bundle.report() or {}
        loss, speedup = report.get("loss_points"), (report.get("speedup") or {}).get(report.get("reference"))
        labels = engine.bundle.id, engine.variant_name, engine.choice.got, self._name or engine.bundle.info.name
        if not self.shared:
            self.info.clear()
        elif self._model_labels is not None:
            # a series cannot be removed from the files of several workers
            self.info.labels(*self._model_labels).set(0)
        self.info.labels(*labels).set(1)
        self._model_labels = labels
        self.loss.set(math.nan if loss is None else loss)
        self.speedup.set(math.nan if speedup is None else speedup)
        self.fallback.set(engine.choice.reason is not None)
        gate = engine.gate
        bound = None if gate is None else disagreement_bound(gate.info)
        self.gate_share.set(math.nan if gate is None else gate.info.share)
        self.gate_bound.set(math.nan if bound is None else bound)
        self.gate_disagreement.set(0)
        self.gate_drift.set(0)

    def begin(self) -> None:
        """Count this process as a worker that accepts requests."""
        self.workers.set(1)
        self.update_process_metrics()

    def end(self) -> None:
        """Stop counting this process as a worker that accepts requests: it drains and ends."""
        self.workers.set(0)

    def update_process_metrics(self) -> None:
        """Update the memory, file descriptor and CPU metrics of this process; only with several workers."""
        if self._cpu is None:
            return
        values = {sample.name: sample.value for metric in self._process.collect() for sample in metric.samples}
        for (name, _), gauge in zip(PROCESS, self._process_gauges, strict=True):
            gauge.set(values.get(name, math.nan))
        seconds = values.get("process_cpu_seconds_total", 0.0)
        self._cpu.inc(max(0.0, seconds - self._cpu_seconds))
        self._cpu_seconds = seconds

    def forget(self, pid: int) -> None:
        """Remove a dead worker from the gauges; its counters stay."""
        if self.shared:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]

    def count(self, protocol: str, code: int) -> None:
        """Count a response."""
        counter = self._by_label.get((protocol, code))
        if counter is None:
            counter = self._by_label[protocol, code] = self._requests.labels(protocol, str(code))
        counter.inc()

    def waited(self, tokenize: float, queue: float | None) -> None:
        """Observe the seconds of a request before the model: tokenization, and queue (None: it was not queued)."""
        self.tokenize.observe(tokenize)
        if queue is not None:
            self.queue.observe(queue)

    def ran(self, outcome: Outcome) -> None:
        """Observe a batch that the model has processed."""
        batch = outcome.dispatch.batch
        padded = len(batch) * max(job.tokens for job in batch)
        self.infer.observe(outcome.ended - outcome.begun)
        self.items.observe(len(batch))
        self.tokens.observe(padded)
        self.padding.inc(padded - sum(job.tokens for job in batch))
        if None in outcome.answers:
            self.failures.inc(outcome.answers.count(None))

    def page(self) -> bytes:
        """Return the text of /metrics, aggregated over all workers."""
        if not self.shared:
            return generate_latest(self.registry)
        all_workers = CollectorRegistry()
        all_workers.register(_AllWorkers())
        return generate_latest(all_workers)


class _AllWorkers:
    """The metrics of all workers, without models that no worker serves any more."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for metric in MultiProcessCollector(None).collect():  # type: ignore[no-untyped-call]
            if metric.name == "prunella_model_info":
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric


def _seconds(name: str, help_text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, help_text, buckets=SECONDS, registry=registry)


def _gauge(name: str, help_text: str, registry: CollectorRegistry, mode: Any, labels: Any = ()) -> Gauge:
    return Gauge(name, help_text, labels, registry=registry, multiprocess_mode=mode)
