"""run_locust(): the closed loop of `steady` with locust as the client, as a cross-check of our own, faster client.

locust runs in a separate process, because gevent monkey-patches the standard library of its whole process.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
END_SECONDS = 60  # time for locust to start and to write its report


@dataclass(frozen=True, slots=True)
class LocustLoad:
    """Number of users, duration in seconds, and timeout of a request in seconds."""

    users: int
    seconds: int
    timeout: int


def run_locust(url: str, texts: list[str], load: LocustLoad, out: Path) -> dict[str, Any] | None:
    """Return the counts and percentiles (milliseconds) of locust, or None if it ended without a result."""
    texts_file, times_file = out / "texts.json", out / "times.json"
    texts_file.write_text(json.dumps(texts), encoding="utf-8")
    times_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--users", str(load.users), "--spawn-rate", str(load.users)]
    # at the end users wait for their last answer or its timeout, as in our client; by default locust would drop it
    command += ["--stop-timeout", str(load.timeout + 5), "--run-time", f"{load.seconds}s", "--host", url.rstrip("/")]
    command += ["--html", str(out / "locust.html"), "--loglevel", "WARNING"]
    variables = {**os.environ, "LOADTEST_TEXTS": str(texts_file), "LOADTEST_TIMES": str(times_file)}
    variables["LOADTEST_TIMEOUT"] = str(load.timeout)
    seconds = load.seconds + load.timeout + END_SECONDS
    try:  # the exit code is not checked: it only says that requests failed
        subprocess.run(command, env=variables, stdout=sys.stderr, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"loadtests: locust did not end within {seconds} s and was killed\n")
        return None
    if not times_file.is_file():
        return None
    counts = json.loads(times_file.read_text(encoding="utf-8"))
    times: list[float] = counts.pop("times_ms")
    p50, p95, p99 = np.percentile(times, (50, 95, 99)).round(3).tolist() if times else (None, None, None)
    rate = round((counts["requests"] - counts["failures"]) / counts["duration_s"], 1)
    return {**counts, "requests_per_second": rate, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
