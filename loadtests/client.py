"""One client process of a load test: sends requests over keep-alive connections, in closed loop or in open loop.

Usage: python -m loadtests.client JOB OUT. JOB is a JSON file (see `ClientJob`), OUT gets the records as four arrays.
The client speaks raw HTTP/1.1 over asyncio protocols: a client that needed more CPU time than the server would
measure itself.
"""

import asyncio
import json
import random
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

SPIN_SECONDS = 0.0015  # busy-wait before an open-loop request is due: timers of the event loop have 1 ms resolution
# instead of an HTTP status: the connection broke; no answer came before the client gave up
FAILED, UNANSWERED = 0, -1
NEVER = float("nan")  # time at which a request was sent that got no connection


@dataclass(frozen=True, slots=True)
class ClientJob:
    """Load of one process: `users` in closed loop, or `rate` requests per second in open loop."""

    url: str
    bodies: list[tuple[str, str]]  # path and JSON
    begin: float  # time.time() of the first request
    seconds: float
    users: int = 0
    rate: float = 0.0
    connections: int = 256  # limit in open loop
    seed: int = 0
    headers: str = ""  # additional header lines of every request
    timeout: float = 20.0  # seconds from when a request is due until the client gives up

    def requests(self) -> list[bytes]:
        """Return the bytes of every request."""
        host = urlsplit(self.url).netloc
        requests = []
        for path, body in self.bodies:
            content = body.encode()
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{self.headers}"
                f"Content-Length: {len(content)}\r\n\r\n"
            )
            requests.append(head.encode() + content)
        return requests


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._status: asyncio.Future[int] | None = None
        self._buffer = b""
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport), "TCP"
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Fail the request in flight."""
        self.closing = True
        if self._status is not None and not self._status.done():
            self._status.set_result(FAILED)

    def data_received(self, data: bytes) -> None:
        """Complete the request once its whole answer has arrived."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        fields = head.lower()
        at = fields.find(b"\r\ncontent-length:")
        if at >= 0:
            length = int(fields[at + 17 :].split(b"\r\n", 1)[0])
            if len(body) < length:
                return
        elif not body.endswith(b"0\r\n\r\n"):
            return  # chunked
        self.closing = b"\r\nconnection: close" in fields
        self._buffer = b""
        if self._status is not None and not self._status.done():
            self._status.set_result(int(head[9:12]))

    def give_up(self) -> None:
        """Close the connection, so that a late answer is not taken for the answer to the next request."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def send(self, request: bytes, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[int]":
        """Send a request; the future returns its status."""
        assert self.transport is not None, "connected"
        self._status = loop.create_future()
        self.transport.write(request)
        return self._status


class Client:
    """Sends the requests of a job, and records the times and the status of each."""

    def __init__(self, job: ClientJob) -> None:
        self.job, self._requests = job, job.requests()
        self._random = random.Random(job.seed)
        address = urlsplit(job.url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._begin = time.perf_counter() + (job.begin - time.time())
        self._idle: deque[Connection] = deque()
        self.records: list[tuple[float, float, float, int]] = []  # due, sent, done (seconds since begin), status

    async def run(self) -> None:
        """Send requests until the job's time is over."""
        await asyncio.sleep(max(0.0, self._begin - time.perf_counter()))
        if self.job.users:
            await asyncio.gather(*(self._closed_loop() for _ in range(self.job.users)))
        else:
            await self._open_loop()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection

    async def _closed_loop(self) -> None:
        """Act as one user: send the next request as soon as the answer to the last one is there."""
        loop, end = asyncio.get_running_loop(), self._begin + self.job.seconds
        connection: Connection | None = None
        while (now := time.perf_counter()) < end:
            sent, status = NEVER, UNANSWERED
            try:
                async with asyncio.timeout(self.job.timeout):
                    if connection is None or connection.closing:
                        connection = None
                        connection = await self._connect()
                    sent = time.perf_counter()
                    status = await connection.send(self._random.choice(self._requests), loop)
            except TimeoutError:
                if connection is not None:
                    connection.give_up()
            except OSError:
                status = FAILED
            self._record(now, sent, status)
            if status == FAILED:
                connection = None
                await asyncio.sleep(0.01)

    async def _open_loop(self) -> None:
        """Send requests at the times of a Poisson process, whether or not earlier ones have been answered."""
        due, end = self._begin, self._begin + self.job.seconds
        slots = asyncio.Semaphore(self.job.connections)
        async with asyncio.TaskGroup() as tasks:  # ends when every request was answered or given up
            while due < end:
                left = due - time.perf_counter()
                await asyncio.sleep(left - SPIN_SECONDS if left > 2 * SPIN_SECONDS else 0)
                if time.perf_counter() < due:
                    continue
                tasks.create_task(self._send(due, slots))
                due += self._random.expovariate(self.job.rate)

    async def _send(self, due: float, slots: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        connection: Connection | None = None
        sent, status = NEVER, UNANSWERED
        try:
            async with asyncio.timeout(due + self.job.timeout - time.perf_counter()), slots:
                connection = await self._free_connection()
                sent = time.perf_counter()
                status = await connection.send(self._random.choice(self._requests), loop)
                if status != FAILED and not connection.closing:
                    self._idle.append(connection)
        except TimeoutError:
            if connection is not None:
                connection.give_up()
        except OSError:
            status = FAILED
        self._record(due, sent, status)

    async def _free_connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closing:
                return connection
        return await self._connect()

    def _record(self, due: float, sent: float, status: int) -> None:
        done = time.perf_counter()
        self.records.append((due - self._begin, sent - self._begin, done - self._begin, status))


def main() -> int:
    """Run the job that is named on the command line."""
    client = Client(ClientJob(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    asyncio.run(client.run())
    records = np.array(client.records, dtype=np.float64).reshape(-1, 4)
    np.savez(
        sys.argv[2], due=records[:, 0], sent=records[:, 1], done=records[:, 2], status=records[:, 3].astype(np.int16)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
