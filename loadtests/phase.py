"""measure(): run one phase of load with client processes (`loadtests.client`), and summarise it as a PhaseResult.

Meanwhile /metrics of the server is sampled once a second.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.client import FAILED, UNANSWERED, ClientJob

START_SECONDS = 1.5  # for client processes to import their modules and to connect
END_SECONDS = 60.0  # for client processes to write their records, after the last request was given up
METRICS_SECONDS = 10.0  # timeout of a request to /metrics
NAMES = {FAILED: "broken", UNANSWERED: "unanswered"}
# a client was the bottleneck if the p99 of its delay, from when a request was due to when it was sent, is larger
LATE_SECONDS = 0.001
SAMPLED = {
    "queue_depth": "prunella_queue_depth",
    "predicted_wait_s": "prunella_predicted_wait_seconds",
    "batches": "prunella_batch_items_count",
    "batch_texts": "prunella_batch_items_sum",
    "batch_tokens": "prunella_batch_tokens_sum",
    "padding_tokens": "prunella_padding_tokens_total",
    "memory_bytes": "process_resident_memory_bytes",
}


class ClientError(Exception):
    """A client process failed or did not end."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A period of constant load: `users` in closed loop, or `rate` requests per second in open loop."""

    name: str
    seconds: float
    users: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the requests that are sent to it."""

    name: str
    url: str
    bodies: list[tuple[str, str]]  # path and JSON
    processes: int = 1
    headers: str = ""
    timeout: float = 20.0  # seconds until a client gives up on a request


@dataclass(slots=True)
class PhaseResult:
    """Summary of a phase; latencies are in milliseconds, from when a request was due.

    `p50_ms` to `p99_ms` include the answers with 200 and the requests without an answer, which count with
    the time until the client gave up: otherwise a server that hangs would have a better p99 than one that is slow.
    """

    target: str
    phase: Phase
    requests: int
    failures: int  # broken connections, requests without an answer, and answers other than 200 and 429
    requests_per_second: float  # only those answered with 200
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    shed: int  # answered with 429
    shed_p99_ms: float | None
    codes: dict[str, int]
    client_late_p99_ms: float  # from due to sent
    client_was_the_bottleneck: bool
    by_second: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)


def measure(target: Target, phase: Phase, connections: int = 256) -> PhaseResult:
    """Run a phase and return its result.

    Args:
        target: the server, the requests and the number of client processes.
        phase: the load.
        connections: limit in open loop, over all client processes.

    Raises:
        ClientError: a client process failed or did not end.
    """
    with tempfile.TemporaryDirectory(prefix="loadtest-") as scratch:
        begin = time.time() + START_SECONDS
        started = [_start(Path(scratch), i, target, phase, (begin, connections)) for i in range(target.processes)]
        samples: list[dict[str, float]] = []
        ended = threading.Event()
        sampler = threading.Thread(target=_sample_metrics, args=(target.url, begin, ended, samples), daemon=True)
        sampler.start()
        try:
            _wait([process for process, _ in started], START_SECONDS + phase.seconds + target.timeout + END_SECONDS)
        finally:
            ended.set()
            sampler.join(METRICS_SECONDS + 1)  # with a limit, because a response of /metrics may never end
        parts = [dict(np.load(out)) for _, out in started]
    records = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _summarise(target, phase, records, samples)


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    try:
        codes = [process.wait(max(0.0, end - time.monotonic())) for process in processes]
    except subprocess.TimeoutExpired:
        raise ClientError(f"a client process did not end within {seconds:.0f} s and was killed") from None
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(codes):
        raise ClientError(f"client processes ended with the exit codes {codes}: their messages are above")


def _start(
    scratch: Path, number: int, target: Target, phase: Phase, when: tuple[float, int]
) -> tuple[subprocess.Popen[bytes], Path]:
    begin, connections = when
    share = phase.users // target.processes + (number < phase.users % target.processes)
    if phase.users and not share:
        share = 1
    job = ClientJob(
        target.url, target.bodies, begin, phase.seconds, share, phase.rate / target.processes,
        max(1, connections // target.processes), number, target.headers, target.timeout,
    )  # fmt: skip
    job_file, out = scratch / f"job-{number}.json", scratch / f"seen-{number}.npz"
    job_file.write_text(json.dumps(asdict(job)), encoding="utf-8")
    command = [sys.executable, "-m", "loadtests.client", str(job_file), str(out)]
    return subprocess.Popen(command, stdout=sys.stderr, cwd=Path(__file__).resolve().parent.parent), out


def _sample_metrics(url: str, begin: float, ended: threading.Event, samples: list[dict[str, float]]) -> None:
    """Read /metrics once a second until `ended` is set; a server without /metrics is not an error."""
    while not ended.wait(max(0.2, begin - time.time()) if time.time() < begin else 1.0):
        metrics = read_metrics(url)
        if metrics:
            samples.append({"second": round(time.time() - begin, 2), **metrics})


def read_metrics(url: str) -> dict[str, float]:
    """Return the metrics in SAMPLED by their short names; empty if /metrics cannot be read."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/metrics", timeout=METRICS_SECONDS) as response:
            text = response.read().decode()
    except (OSError, ValueError, urllib.error.URLError):
        return {}
    metrics = {}
    for name, metric in SAMPLED.items():
        match = re.search(rf"^{metric}(?:\{{\}})? (\S+)$", text, re.MULTILINE)
        if match:
            metrics[name] = float(match.group(1))
    return metrics


def _summarise(
    target: Target, phase: Phase, records: dict[str, NDArray[Any]], samples: list[dict[str, float]]
) -> PhaseResult:
    status, latency = records["status"], (records["done"] - records["due"]) * 1e3
    good, shed, unanswered = status == 200, status == 429, status == UNANSWERED
    p50, p90, p95, p99 = _percentiles(latency[good | unanswered], 50, 90, 95, 99)
    (shed_p99,) = _percentiles(latency[shed], 99)
    delays = (records["sent"] - records["due"])[~unanswered & ~np.isnan(records["sent"])]
    late = float(np.percentile(delays, 99)) if len(delays) else 0.0
    counts = Counter(int(code) for code in status)
    return PhaseResult(
        target=target.name,
        phase=phase,
        requests=len(status),
        failures=int((~good & ~shed).sum()),
        requests_per_second=round(float((good & (records["done"] <= phase.seconds)).sum()) / phase.seconds, 1),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        shed=int(shed.sum()),
        shed_p99_ms=shed_p99,
        codes={NAMES.get(code, str(code)): n for code, n in sorted(counts.items())},
        client_late_p99_ms=round(late * 1e3, 3),
        client_was_the_bottleneck=bool(late > max(LATE_SECONDS, (p50 or 0.0) / 1e3 * 0.1)),
        by_second=_by_second(phase, records, latency, good, shed),
        metrics=samples,
    )


def _by_second(
    phase: Phase, records: dict[str, NDArray[Any]], latency: NDArray[Any], good: NDArray[Any], shed: NDArray[Any]
) -> list[dict[str, Any]]:
    rows = []
    unanswered = records["status"] == UNANSWERED
    moment = np.where(unanswered, records["due"], records["done"])  # without an answer: the time when it was due
    for second in range(int(np.ceil(phase.seconds))):
        here = (moment >= second) & (moment < second + 1)
        p50, p99 = _percentiles(latency[here & (good | unanswered)], 50, 99)
        rows.append({
            "second": second, "good": int((here & good).sum()), "shed": int((here & shed).sum()),
            "failed": int((here & ~good & ~shed).sum()), "p50_ms": p50, "p99_ms": p99,
        })  # fmt: skip
    return rows


def _percentiles(values: NDArray[Any], *percents: int) -> list[float | None]:
    if not len(values):
        return [None for _ in percents]
    return [round(float(value), 3) for value in np.percentile(values, percents)]
