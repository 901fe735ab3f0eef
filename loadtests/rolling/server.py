"""A server that is started, asked whether it is ready, and ended."""

import asyncio
import os
import shlex
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from loadtests.client import Connection

PROBE_SECONDS, PROBE_TIMEOUT = 0.2, 5.0  # of the client's questions whether a server is ready
START_SECONDS = 120.0
DRAIN_DELAY = "PRUNELLA_DRAIN_DELAY_S"


class ServerError(Exception):
    """A server did not start."""


@dataclass(slots=True)
class Server:
    """A server: its process, whether it is ready, and the client's idle connections to it."""

    command: list[str]
    port: int
    process: asyncio.subprocess.Process | None = None
    ready: bool = False
    idle: deque[Connection] = field(default_factory=deque)

    async def start(self) -> None:
        """Start the process, and wait until it is ready."""
        command = [part.replace("{port}", str(self.port)) for part in self.command]
        environment = {DRAIN_DELAY: "2", **os.environ}  # while /readyz is 503, the client learns that it ends
        self.process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        end = time.monotonic() + START_SECONDS
        while not self.ready:
            if self.process.returncode is not None or time.monotonic() > end:
                raise ServerError(f"{shlex.join(command)} did not get ready")
            await asyncio.sleep(PROBE_SECONDS)

    async def stop(self) -> None:
        """Send SIGTERM, and wait for the end."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await self.process.wait()

    async def watch(self) -> None:
        """Ask again and again whether the server is ready, as a load balancer does."""
        while True:
            self.ready = await self._probe()
            await asyncio.sleep(PROBE_SECONDS)

    async def _probe(self) -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                line = await reader.readline()
                writer.close()
                return line.split(b" ")[1:2] == [b"200"]
        return False
