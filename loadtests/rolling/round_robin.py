"""A client that stands for a load balancer: each request goes to the next server that is ready."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from loadtests.client import FAILED, UNANSWERED, Connection
from loadtests.rolling.server import Server

ANSWER_SECONDS = 30.0


class RoundRobin:
    """Sends each request to the next server that is ready, and counts the answers."""

    def __init__(self, servers: Sequence[Server], requests: Sequence[bytes], seed: int) -> None:
        self.servers, self._requests, self._random = servers, requests, random.Random(seed)
        self._next = 0
        self.codes: Counter[int] = Counter()
        self.seconds: list[float] = []

    async def send(self) -> None:
        """Send one request, and count its answer."""
        due, status = time.perf_counter(), FAILED
        server, connection = self._choose(), None
        with suppress(OSError):
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    connection = await self._connection(server)
                    status = await connection.send(self._random.choice(self._requests), asyncio.get_running_loop())
                    if status != FAILED and not connection.closing:
                        server.idle.append(connection)
            except TimeoutError:
                status = UNANSWERED
                if connection is not None:
                    connection.give_up()
        self.codes[status] += 1
        self.seconds.append(time.perf_counter() - due)

    async def open_loop(self, rate: float, stop: asyncio.Event) -> None:
        """Send requests at the times of a Poisson process until `stop` is set, and wait for their answers."""
        due = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(self.send())
                due += self._random.expovariate(rate)

    async def closed_loop(self, seconds: float, users: int) -> float:
        """Let users send one request after the other, and return the requests a second."""
        end, before = time.perf_counter() + seconds, sum(self.codes.values())

        async def user() -> None:
            while time.perf_counter() < end:
                await self.send()

        await asyncio.gather(*(user() for _ in range(users)))
        return (sum(self.codes.values()) - before) / seconds

    def _choose(self) -> Server:
        ready = [server for server in self.servers if server.ready] or self.servers
        self._next += 1
        return ready[self._next % len(ready)]

    async def _connection(self, server: Server) -> Connection:
        while server.idle:
            if not (connection := server.idle.pop()).closing:
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", server.port)
        return connection
