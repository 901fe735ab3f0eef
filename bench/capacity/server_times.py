"""measure_server(): what a request costs a real server beside the model, in processor time.

A server with this bundle is started on its own cores and asked over HTTP. Its threads are told apart: the event loop
(HTTP, JSON, tokenization, queue) is the main thread of the worker, the model runs in the others. Processor time is
counted instead of the time to answer, because the clients' share of the cores, and that of other programs, would be
in the latter.
"""

import http.client
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from bench.capacity.server_process import server_process
from bench.measure.latency.cpu_affinity import can_pin, usable_core_numbers
from models.errors import CheckError
from models.tokenizer import Encoded, Row
from service.model.bundle import Bundle
from service.model.engine import Engine

ROUNDS, ROUND_SECONDS = 5, 0.3  # of one client, each followed by the same texts without a server
FEWEST, MOST = 20, 1000  # texts of a round
BUSY_SECONDS, CLIENTS = 3.0, 16  # with several clients, for the time of the event loop under load
ANSWER_SECONDS = 60.0  # for one request
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """Processor time of a server."""

    request: float  # seconds of a request on the event loop: HTTP, JSON, tokenization, queue and answer
    batch: float  # seconds of a runner for a batch beside the model: it is handed over, and the caches are colder


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is being measured."""

    port: int
    worker: int  # PID

    def seconds(self) -> tuple[float, float]:
        """Return the processor seconds of the event loop so far, and those of all other threads of the worker."""
        loop = others = 0.0
        for task in Path(f"/proc/{self.worker}/task").iterdir():
            fields = _fields(task / "stat")
            seconds = (int(fields[11]) + int(fields[12])) / TICK  # utime and stime
            if task.name == str(self.worker):
                loop += seconds
            else:
                others += seconds
        return loop, others


def measure_server(bundle: Bundle, engine: Engine, rows: Sequence[Row], cores: int) -> ServerTimes:
    """Measure a server of `bundle` with the texts of `rows`; it has the machine's first `cores` cores.

    Args:
        bundle: what is served.
        engine: the same bundle in this process, with one thread.
        rows: texts of the load.
        cores: number of runners.

    Raises:
        CheckError: the server does not start or does not answer.
    """
    encoded = engine.encode(rows[:FEWEST])
    texts = ROUND_SECONDS / max(_bare_seconds(engine, encoded) / len(encoded), 1e-6)
    sample = list(islice(cycle(rows), max(FEWEST, min(MOST, round(texts)))))
    encoded = engine.encode(sample)
    bodies = [_body(row) for row in sample]
    with serving(bundle, cores) as server:
        _send(server.port, bodies)
        served = bare = 0.0
        for _ in range(ROUNDS):
            before = server.seconds()[1]
            _send(server.port, bodies)
            served += server.seconds()[1] - before
            bare += _bare_seconds(engine, encoded)
        before = server.seconds()[0]
        with ThreadPoolExecutor(CLIENTS) as clients:
            turns = [cycle(bodies[i:] + bodies[:i]) for i in range(CLIENTS)]
            answered = sum(clients.map(lambda turn: _send(server.port, turn, BUSY_SECONDS), turns))
        request = (server.seconds()[0] - before) / answered
    return ServerTimes(request, max(0.0, served - bare) / (ROUNDS * len(bodies)))


@contextmanager
def serving(bundle: Bundle, cores: int) -> Iterator[Server]:
    """Serve a bundle in another process, all texts in runners, on the first `cores` cores of this machine."""
    usable = usable_core_numbers()[:cores]
    settings = {"PRUNELLA_DEVICE": "cpu", "PRUNELLA_RUNNERS": str(len(usable)), "PRUNELLA_INLINE_MS": "0"}
    with server_process(bundle.folder.path, settings, usable if can_pin() else ()) as server:
        yield Server(server.port, _worker_of(server.pid))


def _worker_of(supervisor: int) -> int:
    """Return the PID of the supervisor's one child."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(_fields(process / "stat")[1]) == supervisor:
                return int(process.name)
        except OSError:
            continue  # it has ended meanwhile
    raise CheckError("the server of the measurement has no worker process: its log would say why")


def _fields(stat: Path) -> list[str]:
    """Return the fields after the name, which may contain spaces: see proc_pid_stat(5)."""
    return stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def _body(row: Row) -> bytes:
    return json.dumps({"text": row[0]} if len(row) == 1 else {"pairs": [list(row)]}).encode()


def _send(port: int, bodies: Iterable[bytes], seconds: float = math.inf) -> int:
    """Send requests one after the other on one connection, at most for `seconds`; return how many were answered.

    Raises:
        CheckError: an answer is not 200.
    """
    end, answered = time.monotonic() + seconds, 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        for body in bodies:
            if time.monotonic() > end:
                break
            connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise CheckError(f"the server of the measurement answered {answer.status}: {text[:500].decode()}")
            answered += 1
    finally:
        connection.close()
    return answered


def _bare_seconds(engine: Engine, encoded: Sequence[Encoded]) -> float:
    """Return the processor seconds of texts that run one by one in this thread."""
    start = time.thread_time()
    for one in encoded:
        engine.infer([one])
    return time.thread_time() - start
