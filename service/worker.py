"""The worker process: opens the bundle, serves the application on a socket it is given, drains when told to end.

python -m service.worker --socket FD --channel FD --number N --source FOLDER
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import uvicorn

from models.errors import PrunellaError
from service.app import App
from service.bento import BentoRoutes
from service.channel import Channel
from service.connection import Connection
from service.desk import Desk
from service.logs import set_up_logs
from service.opening import open_desk
from service.settings import Settings
from service.tracing import Tracer

log = logging.getLogger("prunella")
SWEEP_SECONDS = 0.5
STARTED_SECONDS = 5.0  # after its start, while the worker that it replaces still answers what it has
STUCK = 70  # exit code: an internal error, in sysexits.h
IDLE_SECONDS = 2.0  # that a connection without a request may stay once the server is ending
# of the interpreter's lock: a runner that comes back from the model would wait 5 ms for the event loop to let go
SWITCH_SECONDS = 0.0005


class Server(uvicorn.Server):
    """uvicorn's server, which tells when it is ready, cuts off slow clients, and drains before it ends."""

    def __init__(self, config: uvicorn.Config, desk: Desk, channel: Channel | None = None) -> None:
        super().__init__(config)
        self._desk, self._channel = desk, channel
        self._sweeper: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so to the supervisor."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        self._sweeper = loop.create_task(self._sweep())
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        self._desk.runners.be_patient(STARTED_SECONDS)
        gc.collect()
        gc.freeze()  # what is loaded stays: collections that look at it again cost milliseconds in the tail
        log.info(
            "ready",
            extra={"bundle": self._desk.rotation.current.bundle.id, "runners": self._desk.rules.runners},
        )
        self._desk.telemetry.begin()
        if self._channel is not None:
            self._channel.begin(self._orphaned)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer everything that was admitted, then close."""
        self._desk.draining = True  # /readyz says so, and every answer ends its connection
        self._desk.telemetry.end()
        await asyncio.sleep(self._desk.settings.drain_delay_s)
        loop = asyncio.get_running_loop()
        await self._stop_listening(loop, sockets or [])
        end = loop.time() + self._desk.settings.drain_s
        idle = loop.time() + IDLE_SECONDS
        while (busy := self._busy()) or (self.server_state.connections and loop.time() < idle):
            if loop.time() > end:
                log.warning("%d requests were not answered within the time to drain", busy)
                break
            await asyncio.sleep(0.02)
        if self._sweeper is not None:
            self._sweeper.cancel()
        await super().shutdown(sockets)
        log.info("ended")

    async def _stop_listening(self, loop: asyncio.AbstractEventLoop, sockets: list[socket.socket]) -> None:
        """Let nobody in any more, after those whom the kernel has let in already, whom it would cut off."""
        doors = [one.dup() for one in sockets]
        for server in self.servers:
            server.close()
        let_in = []
        for door in doors:
            door.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    let_in.append(door.accept()[0])
            door.close()
        for one in sockets:
            one.close()
        for guest in let_in:
            await loop.connect_accepted_socket(
                lambda: Connection(self.config, self.server_state, self.lifespan.state), guest
            )

    def _watch(self) -> None:
        """End the process, which is then replaced, when a text that runs on the event loop does not come back."""
        patience = self._desk.settings.stuck_after_s
        while not self.should_exit:
            time.sleep(1.0)
            if self._desk.runners.stuck_here(patience):
                log.critical("the model did not come back within %g s: this process ends and is replaced", patience)
                os._exit(STUCK)

    def _busy(self) -> int:
        return len(self.server_state.tasks)

    def _orphaned(self) -> None:
        """End too when the supervisor is gone without a word."""
        self.should_exit = True

    async def _sweep(self) -> None:
        settings = self._desk.settings
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._desk.telemetry.look_at_process()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check_time(settings.header_timeout_s, settings.body_timeout_s)


def make_server(app: App, desk: Desk, channel: Channel | None = None) -> Server:
    """Return the server of an application."""
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="uvloop",
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        backlog=2048,
        timeout_keep_alive=desk.settings.keep_alive_s,
        timeout_graceful_shutdown=desk.settings.drain_s,
    )
    return Server(config, desk, channel)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end; return 0, or the exit code of what kept it from starting."""
    parser = argparse.ArgumentParser(prog="python -m service.worker", description=(__doc__ or "").splitlines()[0])
    for name in ("--socket", "--channel"):
        parser.add_argument(name, type=int, required=True, help="file descriptor")
    parser.add_argument("--number", type=int, default=0, help="of the worker: several GPUs are spread over workers")
    parser.add_argument("--source", required=True, help="folder that PRUNELLA_BUNDLE is a copy of, for messages")
    options = parser.parse_args(arguments)
    sys.setswitchinterval(SWITCH_SECONDS)
    folder = os.environ.get("PRUNELLA_BUNDLE", "")
    try:
        settings = Settings.from_environment()
        dropped: list[Any] = []
        set_up_logs(settings.log, lambda: dropped[0].inc() if dropped else None)
        if options.number == 0:
            settings.warn_if_crowded()
        desk = open_desk(settings, options.number)
        dropped.append(desk.telemetry.dropped_logs)
        app = App(desk, Tracer.from_environment(), BentoRoutes(desk))
    except PrunellaError as error:
        with contextlib.suppress(OSError):  # a full disk: the exit code says it too
            sys.stderr.write(f"prunella: {str(error).replace(folder, options.source)}\n")
        return error.exit_code
    channel = Channel(socket.socket(fileno=options.channel), desk)
    desk.rotation.supervisor = channel
    if not channel.wait_to_serve():
        return 0
    server = make_server(app, desk, channel)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has drained
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        server.run(sockets=[socket.socket(fileno=options.socket)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
