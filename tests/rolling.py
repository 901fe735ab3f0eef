"""rolling_restart(): servers behind a round-robin client, of which one after another is replaced under load.

The client does what a Kubernetes Service does: it asks each server for /readyz, and sends nothing to one that is not
ready. Connections are kept. A request that gets no answer of 200 or 429 counts as failed; no request is sent twice.
"""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from typing import Protocol

POLL_SECONDS = 0.1  # between two looks at /readyz
BODY = b'{"text": "good film"}'
JSON = {"Content-Type": "application/json"}
CLIENTS = 8


class Server(Protocol):
    port: int

    def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""


class RoundRobin:
    """Clients that take the ready servers in turn and send `rate` requests a second in all; None: without a pause."""

    def __init__(self, rate: float | None) -> None:
        self.outcomes: Counter[str] = Counter()
        self.ports: Sequence[int] = ()
        self.ready: Sequence[int] = ()
        self._turns, self._over = count(), threading.Event()
        self._pause = 0.0 if rate is None else CLIENTS / rate
        targets = [self._watch, *[self._ask_again] * CLIENTS]
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]

    def __enter__(self) -> "RoundRobin":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self.ready = [port for port in self.ports if is_ready(port)]

    def _ask_again(self) -> None:
        connections: dict[int, http.client.HTTPConnection] = {}
        due = time.perf_counter()
        while not self._over.is_set():
            ready = self.ready
            if ready:
                port = ready[next(self._turns) % len(ready)]
                connection = connections.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=20))
                self.outcomes[_outcome(connection)] += 1
            due = max(due + self._pause, time.perf_counter() - 1.0)
            self._over.wait(max(0.0, due - time.perf_counter()))


def _outcome(connection: http.client.HTTPConnection) -> str:
    try:
        connection.request("POST", "/v1/classify", BODY, JSON)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return type(error).__name__
    return str(answer.status)


def failures(outcomes: Counter[str]) -> dict[str, int]:
    """Return the outcomes that are neither an answer nor a refusal for want of capacity."""
    return {name: count for name, count in outcomes.items() if name not in ("200", "429")}


def is_ready(port: int) -> bool:
    """Return whether a server answers /readyz with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def rolling_restart(
    start: Callable[[], Server], requests: int, share: float = 0.7
) -> tuple[Counter[str], int, float]:
    """Replace two servers in turn until `requests` have been answered.

    Args:
        start: starts a server and waits until it is ready.
        requests: number of requests.
        share: of the requests per second that both answered without a pause between requests before.

    Returns:
        Outcomes (status codes and names of errors), number of replaced servers, requests per second.
    """
    servers = [start(), start()]
    ports = [server.port for server in servers]
    with RoundRobin(None) as full:
        full.ports = ports
        time.sleep(4.0)
    rate = share * full.outcomes["200"] / 4.0
    replaced = 0
    with RoundRobin(rate) as load:
        load.ports = ports
        while load.outcomes.total() < requests:
            fresh = start()  # as a Deployment with maxSurge 1 and maxUnavailable 0 does
            load.ports = [*ports, fresh.port]
            while fresh.port not in load.ready:
                time.sleep(POLL_SECONDS)
            code = servers[0].stop()
            assert code == 0, f"the server ended with exit code {code}"
            servers = [*servers[1:], fresh]
            ports = load.ports = [server.port for server in servers]
            replaced += 1
            time.sleep(1.0)
    for server in servers:
        server.stop()
    return load.outcomes, replaced, rate
