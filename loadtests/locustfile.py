"""locust file: users of POST /v1/classify in closed loop. Started by `loadtests.with_locust`.

LOADTEST_TEXTS is the path of a JSON list of texts. LOADTEST_TIMES is the path to which the duration of the run and
every response time are written. A request without an answer counts with LOADTEST_TIMEOUT seconds, after which it is
given up.
"""

import json
import os
import random
import time
from itertools import count
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant, events, task

TEXTS = json.loads(Path(os.environ["LOADTEST_TEXTS"]).read_text(encoding="utf-8"))
TIMEOUT = float(os.environ["LOADTEST_TIMEOUT"])
USER_NUMBERS = count()
times_ms: list[float] = []  # locust's own percentiles are rounded to whole milliseconds
started = ended = time.perf_counter()


class Client(FastHttpUser):  # type: ignore[misc]
    """A user that sends the texts in a random order of its own."""

    wait_time = constant(0)
    network_timeout = connection_timeout = TIMEOUT

    def on_start(self) -> None:
        """Seed the order of the texts with the number of this user."""
        self.generator = random.Random(next(USER_NUMBERS))

    @task  # type: ignore[untyped-decorator]
    def classify(self) -> None:
        """Send one text."""
        self.client.post("/v1/classify", json={"text": self.generator.choice(TEXTS)})


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _start(**_: Any) -> None:
    global started
    started = time.perf_counter()


@events.request.add_listener  # type: ignore[untyped-decorator]
def _note(response_time: float, exception: Exception | None, **_: Any) -> None:
    if exception is None or response_time >= TIMEOUT * 1e3:
        times_ms.append(response_time)


@events.test_stopping.add_listener  # type: ignore[untyped-decorator]
def _end(**_: Any) -> None:
    global ended
    ended = time.perf_counter()


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def _write(environment: Any, **_: Any) -> None:
    total = environment.stats.total
    result = {
        "requests": total.num_requests,
        "failures": total.num_failures,
        "duration_s": ended - started,
        "times_ms": times_ms,
    }
    Path(os.environ["LOADTEST_TIMES"]).write_text(json.dumps(result), encoding="utf-8")
