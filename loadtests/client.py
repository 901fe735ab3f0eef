"""One client process: asks a server over keep-alive connections, closed loop or open loop, and writes what it saw.

python -m loadtests.client JOB OUT: JOB is a JSON file (see `Job`), OUT gets four arrays. Raw HTTP/1.1 over asyncio's
protocols, because a client that needs more time than the server measures itself.
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

SPIN_SECONDS = 0.0015  # before an open-loop request is due: the event loop's timers are 1 ms coarse
# in the place of a status: the connection broke; no answer came before the client gave up
FAILED, UNANSWERED = 0, -1
NEVER = float("nan")  # when a request was sent that found no connection


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does. `users` clients that ask again at once, or `rate` requests a second, whatever comes."""

    url: str
    bodies: list[tuple[str, str]]  # path and JSON
    begin: float  # time.time() of the first request
    seconds: float
    users: int = 0
    rate: float = 0.0
    connections: int = 256  # at most, in open loop
    seed: int = 0
    headers: str = ""  # further lines of every request's head
    timeout: float = 20.0  # seconds from when a request is due until the client gives up

    def requests(self) -> list[bytes]:
        """Return the bytes of every request."""
        host = urlsplit(self.url).netloc
        made = []
        for path, body in self.bodies:
            content = body.encode()
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{self.headers}"
                f"Content-Length: {len(content)}\r\n\r\n"
            )
            made.append(head.encode() + content)
        return made


class Lane(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._buffer = b""
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport), "TCP"
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Fail the request that waits."""
        self.closing = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(FAILED)

    def data_received(self, data: bytes) -> None:
        """Complete the request when its answer is whole."""
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
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
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(int(head[9:12]))

    def give_up(self) -> None:
        """Close the connection, so that a late answer is not taken for the next one."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def ask(self, request: bytes, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[int]":
        """Send a request; the future holds its status."""
        assert self.transport is not None, "connected"
        self._answer = loop.create_future()
        self.transport.write(request)
        return self._answer


class Client:
    """The process's requests and what became of them."""

    def __init__(self, job: Job) -> None:
        self.job, self._requests = job, job.requests()
        self._chance = random.Random(job.seed)
        address = urlsplit(job.url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._begin = time.perf_counter() + (job.begin - time.time())
        self._idle: deque[Lane] = deque()
        self.seen: list[tuple[float, float, float, int]] = []  # due, sent, done (seconds of the run), status

    async def run(self) -> None:
        """Ask until the time is over."""
        await asyncio.sleep(max(0.0, self._begin - time.perf_counter()))
        if self.job.users:
            await asyncio.gather(*(self._user() for _ in range(self.job.users)))
        else:
            await self._arrivals()

    async def _connect(self) -> Lane:
        loop = asyncio.get_running_loop()
        _, lane = await loop.create_connection(Lane, self._host, self._port)
        return lane

    async def _user(self) -> None:
        loop, end = asyncio.get_running_loop(), self._begin + self.job.seconds
        lane: Lane | None = None
        while (now := time.perf_counter()) < end:
            sent, status = NEVER, UNANSWERED
            try:
                async with asyncio.timeout(self.job.timeout):
                    if lane is None or lane.closing:
                        lane = None
                        lane = await self._connect()
                    sent = time.perf_counter()
                    status = await lane.ask(self._chance.choice(self._requests), loop)
            except TimeoutError:
                if lane is not None:
                    lane.give_up()
            except OSError:
                status = FAILED
            self._note(now, sent, status)
            if status == FAILED:
                lane = None
                await asyncio.sleep(0.01)

    async def _arrivals(self) -> None:
        """Send at the times of a Poisson process, whether or not answers have come."""
        due, end = self._begin, self._begin + self.job.seconds
        places = asyncio.Semaphore(self.job.connections)
        async with asyncio.TaskGroup() as running:  # ends when every request has its answer or was given up
            while due < end:
                left = due - time.perf_counter()
                await asyncio.sleep(left - SPIN_SECONDS if left > 2 * SPIN_SECONDS else 0)
                if time.perf_counter() < due:
                    continue
                running.create_task(self._one(due, places))
                due += self._chance.expovariate(self.job.rate)

    async def _one(self, due: float, places: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        lane: Lane | None = None
        sent, status = NEVER, UNANSWERED
        try:
            async with asyncio.timeout(due + self.job.timeout - time.perf_counter()), places:
                lane = await self._lane()
                sent = time.perf_counter()
                status = await lane.ask(self._chance.choice(self._requests), loop)
                if status != FAILED and not lane.closing:
                    self._idle.append(lane)
        except TimeoutError:
            if lane is not None:
                lane.give_up()
        except OSError:
            status = FAILED
        self._note(due, sent, status)

    async def _lane(self) -> Lane:
        while self._idle:
            lane = self._idle.pop()
            if not lane.closing:
                return lane
        return await self._connect()

    def _note(self, due: float, sent: float, status: int) -> None:
        done = time.perf_counter()
        self.seen.append((due - self._begin, sent - self._begin, done - self._begin, status))


def main() -> int:
    """Run the job of the command line."""
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    client = Client(Job(**told))
    asyncio.run(client.run())
    seen = np.array(client.seen, dtype=np.float64).reshape(-1, 4)
    np.savez(sys.argv[2], due=seen[:, 0], sent=seen[:, 1], done=seen[:, 2], status=seen[:, 3].astype(np.int16))
    return 0


if __name__ == "__main__":
    sys.exit(main())
