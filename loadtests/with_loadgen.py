"""run_loadgen(): MLCommons' own load generator, which MLPerf uses, in front of a running server.

The package mlcommons-loadgen chooses the texts, the times at which they are sent, and the figures; this module sends
the requests. The generator's own files (mlperf_log_summary.txt and others) are written beside the report. The result
is not a submission: the rules of MLPerf ask for its models, its data and its durations.
"""

import http.client
import json
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtests.mlperf import NOTE, STREAMS
from loadtests.payloads import BATCH_TEXTS

SCENARIOS = {
    "single-stream": "SingleStream", "multi-stream": "MultiStream", "server": "Server", "offline": "Offline",
}  # fmt: skip
FEWEST_QUERIES = 64  # fewer say nothing of a 99th percentile; the generator's own rules judge the rest
CONNECTIONS = 64  # of the scenario server
SUMMARY = "mlperf_log_summary.txt"


@dataclass(frozen=True, slots=True)
class LoadgenLoad:
    """What the generator is told."""

    scenario: str  # a key of SCENARIOS
    seconds: float
    users: int  # connections of the scenario offline
    rate: float  # queries a second of the scenario server
    limit_ms: float  # of the 99th percentile in the scenario server
    timeout: float  # seconds of one request
    key: str | None = None  # of the server


class ServerUnderTest:
    """Sends the texts that the generator chooses to a server, and tells the generator when they are answered."""

    def __init__(self, url: str, texts: Sequence[str], load: LoadgenLoad, generator: Any) -> None:
        self._address, self._texts, self._load, self._generator = urlsplit(url), texts, load, generator
        self._local = threading.local()
        workers = {"server": CONNECTIONS, "offline": load.users}.get(load.scenario, 1)
        self._pool = ThreadPoolExecutor(workers)
        self._lock = threading.Lock()
        self.requests, self.failures = 0, 0

    def issue(self, samples: list[Any]) -> None:
        """Send a query: one request, or several where it has more texts than a request may have."""
        for start in range(0, len(samples), BATCH_TEXTS):
            part = samples[start : start + BATCH_TEXTS]
            if self._load.scenario in ("server", "offline"):  # the next query does not wait for this one
                self._pool.submit(self._answer, part)
            else:
                self._answer(part)

    def close(self) -> None:
        """Wait for the last answers."""
        self._pool.shutdown()

    def send(self, texts: Sequence[str]) -> bool:
        """Return whether the server answers a request with these texts."""
        body = json.dumps({"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)})
        headers = {"Content-Type": "application/json"}
        if self._load.key:
            headers["Authorization"] = f"Bearer {self._load.key}"
        connection = getattr(self._local, "connection", None)
        try:
            if connection is None:
                host, port = self._address.hostname or "127.0.0.1", self._address.port or 80
                connection = http.client.HTTPConnection(host, port, timeout=self._load.timeout)
                self._local.connection = connection
            connection.request("POST", "/v1/classify", body, headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self._local.connection = None
            sys.stderr.write(f"loadtests: a request failed: {error!r}\n")
            return False
        return response.status == 200

    def _answer(self, samples: list[Any]) -> None:
        good = self.send([self._texts[sample.index] for sample in samples])
        with self._lock:
            self.requests += 1
            self.failures += not good
        # a failed request is completed too, or the generator would wait for ever; the exit code tells of it
        self._generator.QuerySamplesComplete(
            [self._generator.QuerySampleResponse(sample.id, 0, 0) for sample in samples]
        )


def run_loadgen(url: str, texts: Sequence[str], load: LoadgenLoad, out: Path) -> dict[str, Any]:
    """Run one scenario, and return the generator's summary and the counts of requests.

    Raises:
        ImportError: the package mlcommons-loadgen is missing.
    """
    import mlperf_loadgen as generator

    tested = ServerUnderTest(url, texts, load, generator)
    settings, logs = generator.TestSettings(), generator.LogSettings()
    settings.scenario = getattr(generator.TestScenario, SCENARIOS[load.scenario])
    settings.mode = generator.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = round(load.seconds * 1e3), FEWEST_QUERIES
    settings.multi_stream_samples_per_query = STREAMS
    if load.scenario == "server":
        settings.server_target_qps = load.rate
        settings.server_target_latency_ns = round(load.limit_ms * 1e6)
    if load.scenario == "offline":
        settings.min_query_count = 1
        settings.offline_expected_qps = _texts_per_second(tested, texts)
    logs.log_output.outdir, logs.enable_trace = str(out), False
    library = generator.ConstructQSL(len(texts), len(texts), lambda _: None, lambda _: None)
    system = generator.ConstructSUT(tested.issue, lambda: None)
    try:
        generator.StartTestWithLogSettings(system, library, settings, logs)
    finally:
        tested.close()
        generator.DestroySUT(system)
        generator.DestroyQSL(library)
    counts = {"requests": tested.requests, "failures": tested.failures}
    return counts | read_summary(out / SUMMARY) | {"mlperf_note": NOTE}


def read_summary(path: Path) -> dict[str, Any]:
    """Return the generator's verdict, and the figures of its summary by name."""
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    values = {name.strip(): value.strip() for name, colon, value in lines if colon and value.strip()}
    return {"loadgen_result": values.pop("Result is", None), "loadgen": values}


def _texts_per_second(tested: ServerUnderTest, texts: Sequence[str]) -> float:
    """Return about how many texts the server answers in a second: the generator wants to know before it begins."""
    start, sent = time.perf_counter(), 0
    while time.perf_counter() - start < 1.0:
        part = [texts[(sent + i) % len(texts)] for i in range(BATCH_TEXTS)]
        tested.send(part)
        sent += len(part)
    return sent / (time.perf_counter() - start)
