"""measure(): a phase of load → what the clients saw, second by second, and what /metrics said meanwhile."""

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

from loadtests.client import FAILED, UNANSWERED, Job

START_SECONDS = 1.5  # client processes need that to import and connect
END_SECONDS = 60.0  # for client processes to write what they saw, after the last request was given up
METRICS_SECONDS = 10.0  # for a page of /metrics
NAMES = {FAILED: "broken", UNANSWERED: "unanswered"}
LATE_SECONDS = 0.001  # a client that sends later than this after a request was due, at its p99, was the bottleneck
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
    """A client process ended wrongly or did not end."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of load: `users` in closed loop, or `rate` a second in open loop."""

    name: str
    seconds: float
    users: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, and what."""

    name: str
    url: str
    bodies: list[tuple[str, str]]  # path and JSON
    processes: int = 1
    headers: str = ""
    timeout: float = 20.0  # seconds until a client gives up on a request


@dataclass(slots=True)
class Found:
    """What came out of a phase; times in milliseconds, counted from when a request was due.

    `p50_ms`, `p95_ms` and `p99_ms` are of the answers with 200 and of the requests that got no answer, which count
    with the time until the client gave up: else a server that hangs would have a better p99 than one that is slow.
    """

    target: str
    phase: Phase
    requests: int
    failures: int  # connections that broke, requests without an answer, and every answer but 200 and 429
    requests_per_second: float  # answered with 200
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    shed: int  # answered with 429
    shed_p99_ms: float | None
    codes: dict[str, int]
    client_late_p99_ms: float  # from due to sent
    client_was_the_bottleneck: bool
    by_second: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return asdict(self)


def measure(target: Target, phase: Phase, connections: int = 256) -> Found:
    """Run a phase and return what was seen.

    Raises:
        ClientError: a client process ended wrongly or did not end.
    """
    with tempfile.TemporaryDirectory(prefix="loadtest-") as scratch:
        begin = time.time() + START_SECONDS
        started = [_start(Path(scratch), i, target, phase, (begin, connections)) for i in range(target.processes)]
        samples: list[dict[str, float]] = []
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(target.url, begin, over, samples), daemon=True)
        watcher.start()
        try:
            _wait([process for process, _ in started], START_SECONDS + phase.seconds + target.timeout + END_SECONDS)
        finally:
            over.set()
            watcher.join(METRICS_SECONDS + 1)  # a page of /metrics may never end
        seen = [dict(np.load(out)) for _, out in started]
    together = {name: np.concatenate([one[name] for one in seen]) for name in seen[0]}
    return _summarise(target, phase, together, samples)


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
    job = Job(
        target.url, target.bodies, begin, phase.seconds, share, phase.rate / target.processes,
        max(1, connections // target.processes), number, target.headers, target.timeout,
    )  # fmt: skip
    told, out = scratch / f"job-{number}.json", scratch / f"seen-{number}.npz"
    told.write_text(json.dumps(asdict(job)), encoding="utf-8")
    command = [sys.executable, "-m", "loadtests.client", str(told), str(out)]
    return subprocess.Popen(command, stdout=sys.stderr, cwd=Path(__file__).resolve().parent.parent), out


def _watch(url: str, begin: float, over: threading.Event, samples: list[dict[str, float]]) -> None:
    """Read /metrics once a second; a server that has none is no error."""
    while not over.wait(max(0.2, begin - time.time()) if time.time() < begin else 1.0):
        page = read_metrics(url)
        if page:
            samples.append({"second": round(time.time() - begin, 2), **page})


def read_metrics(url: str) -> dict[str, float]:
    """Return the sampled figures of /metrics; nothing where there is no such page."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/metrics", timeout=METRICS_SECONDS) as answer:
            page = answer.read().decode()
    except (OSError, ValueError, urllib.error.URLError):
        return {}
    found = {}
    for name, metric in SAMPLED.items():
        match = re.search(rf"^{metric}(?:\{{\}})? (\S+)$", page, re.MULTILINE)
        if match:
            found[name] = float(match.group(1))
    return found


def _summarise(target: Target, phase: Phase, seen: dict[str, NDArray[Any]], samples: list[dict[str, float]]) -> Found:
    status, latency = seen["status"], (seen["done"] - seen["due"]) * 1e3
    good, shed, unanswered = status == 200, status == 429, status == UNANSWERED
    p50, p95, p99 = _percentiles(latency[good | unanswered], 50, 95, 99)
    (shed_p99,) = _percentiles(latency[shed], 99)
    waited = (seen["sent"] - seen["due"])[~unanswered & ~np.isnan(seen["sent"])]
    late = float(np.percentile(waited, 99)) if len(waited) else 0.0
    counts = Counter(int(code) for code in status)
    return Found(
        target=target.name,
        phase=phase,
        requests=len(status),
        failures=int((~good & ~shed).sum()),
        requests_per_second=round(float((good & (seen["done"] <= phase.seconds)).sum()) / phase.seconds, 1),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        shed=int(shed.sum()),
        shed_p99_ms=shed_p99,
        codes={NAMES.get(code, str(code)): n for code, n in sorted(counts.items())},
        client_late_p99_ms=round(late * 1e3, 3),
        client_was_the_bottleneck=bool(late > max(LATE_SECONDS, (p50 or 0.0) / 1e3 * 0.1)),
        by_second=_by_second(phase, seen, latency, good, shed),
        metrics=samples,
    )


def _by_second(
    phase: Phase, seen: dict[str, NDArray[Any]], latency: NDArray[Any], good: NDArray[Any], shed: NDArray[Any]
) -> list[dict[str, Any]]:
    rows = []
    unanswered = seen["status"] == UNANSWERED
    moment = np.where(unanswered, seen["due"], seen["done"])  # what got no answer is shown where it was due
    for second in range(int(np.ceil(phase.seconds))):
        here = (moment >= second) & (moment < second + 1)
        p50, p99 = _percentiles(latency[here & (good | unanswered)], 50, 99)
        rows.append({
            "second": second, "good": int((here & good).sum()), "shed": int((here & shed).sum()),
            "failed": int((here & ~good & ~shed).sum()), "p50_ms": p50, "p99_ms": p99,
        })  # fmt: skip
    return rows


def _percentiles(values: NDArray[Any], *wanted: int) -> list[float | None]:
    if not len(values):
        return [None for _ in wanted]
    return [round(float(one), 3) for one in np.percentile(values, wanted)]
