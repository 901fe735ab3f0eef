"""The worker process: load the bundle, serve the application on an inherited socket, drain at SIGTERM.

python -m service.process.worker --socket FD --channel FD --number N --source FOLDER
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

from models.errors import InputError, PrunellaError
from service.inference.inference_service import InferenceService
from service.operations.logs import set_up_logs
from service.operations.tracing import Tracer
from service.process.channel import Channel
from service.process.factory import open_inference_service
from service.settings import Settings
from service.web.app import App
from service.web.bento_routes import BentoRoutes
from service.web.connection_limits import Connection

log = logging.getLogger("prunella")
SWEEP_SECONDS = 0.5  # between checks for slow clients
STARTED_SECONDS = 5.0  # after the start, texts may wait longer: the replaced worker still answers its requests
STUCK_EXIT_CODE = 70  # EX_SOFTWARE, an internal error, in sysexits.h
IDLE_SECONDS = 2.0  # that a connection without a request stays open during shutdown
# switch interval of the GIL: with the default of 5 ms, a runner that returns from the model would wait that long
# for the event loop to release the GIL
SWITCH_SECONDS = 0.0005


class Server(uvicorn.Server):
    """uvicorn's server; it also reports when it is ready, refuses slow clients, and drains before it ends."""

    def __init__(
        self,
        config: uvicorn.Config,
        inference: InferenceService,
        channel: Channel | None = None,
        grpc_server: Any = None,
    ) -> None:
        super().__init__(config)
        self._inference, self._channel, self._grpc_server = inference, channel, grpc_server
        self._sweeper: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then report to the supervisor that this worker is ready."""
        await super().startup(sockets)
        if self._grpc_server is not None and sockets:
            await self._grpc_server.start(sockets[0].getsockname()[0], self._inference.settings.port_grpc)
        loop = asyncio.get_running_loop()
        self._sweeper = loop.create_task(self._sweep())
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        self._inference.runners.be_patient(STARTED_SECONDS)
        gc.collect()
        gc.freeze()  # loaded objects stay: collections that scan them again add milliseconds to the tail latency
        log.info(
            "ready",
            extra={"bundle": self._inference.model_slots.current.bundle.id, "runners": self._inference.rules.runners},
        )
        self._inference.telemetry.begin()
        if self._channel is not None:
            self._channel.begin(self._supervisor_exited)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer every admitted request, then close."""
        self._inference.draining = True  # /readyz answers 503, and every response closes its connection
        self._inference.telemetry.end()
        await asyncio.sleep(self._inference.settings.drain_delay_s)
        loop = asyncio.get_running_loop()
        await self._stop_listening(loop, sockets or [])
        rest = None
        if self._grpc_server is not None:
            rest = loop.create_task(self._grpc_server.stop(self._inference.settings.drain_s))
        end = loop.time() + self._inference.settings.drain_s
        idle = loop.time() + IDLE_SECONDS
        while (busy := self._busy()) or (self.server_state.connections and loop.time() < idle):
            if loop.time() > end:
                log.warning("%d requests were not answered within the time to drain", busy)
                break
            await asyncio.sleep(0.02)
        if rest is not None:
            await rest
        if self._sweeper is not None:
            self._sweeper.cancel()
        await super().shutdown(sockets)
        log.info("ended")

    async def _stop_listening(self, loop: asyncio.AbstractEventLoop, sockets: list[socket.socket]) -> None:
        """Close the listening sockets, and serve the connections that are in the kernel's accept queue already.

        The kernel would reset those connections when the last listening socket is closed.
        """
        listeners = [listener.dup() for listener in sockets]
        for server in self.servers:
            server.close()
        connections = []
        for listener in listeners:
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    connections.append(listener.accept()[0])
            listener.close()
        for listener in sockets:
            listener.close()
        for connection in connections:
            await loop.connect_accepted_socket(
                lambda: Connection(self.config, self.server_state, self.lifespan.state), connection
            )

    def _watch(self) -> None:
        """End the process if a text that runs on the event loop takes too long; the supervisor replaces it."""
        limit = self._inference.settings.stuck_after_s
        while not self.should_exit:
            time.sleep(1.0)
            if self._inference.runners.stuck_inline(limit):
                log.critical("the model did not return within %g s: this process ends and is replaced", limit)
                os._exit(STUCK_EXIT_CODE)

    def _busy(self) -> int:
        return len(self.server_state.tasks)

    def _supervisor_exited(self) -> None:
        """Shut this worker down because its supervisor has exited unexpectedly."""
        self.should_exit = True

    async def _sweep(self) -> None:
        settings = self._inference.settings
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._inference.telemetry.update_process_metrics()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check_time(settings.header_timeout_s, settings.body_timeout_s)


def make_server(
    app: App, inference: InferenceService, channel: Channel | None = None, grpc_server: Any = None
) -> Server:
    """Return the server of an application, with uvicorn configured from the settings.

    Args:
        app: the application.
        inference: answers its requests.
        channel: to the supervisor, if there is one.
        grpc_server: a GrpcServer that starts and ends with it, if gRPC is served.
    """
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
        timeout_keep_alive=inference.settings.keep_alive_s,
        timeout_graceful_shutdown=inference.settings.drain_s,
    )
    return Server(config, inference, channel, grpc_server)


def _open_grpc(inference: InferenceService, tracer: Tracer | None, host: str) -> Any:
    """Return the server for gRPC, None if the settings name no port for it.

    Raises:
        InputError: the extra is not installed, or the port cannot be used.
    """
    port = inference.settings.port_grpc
    if not port:
        return None
    try:
        from service.grpc.server import GrpcServer, check_port
    except ImportError:
        raise InputError(
            "PRUNELLA_PORT_GRPC is set but gRPC is not installed: pip install 'prunella[grpc]', or unset it"
        ) from None
    check_port(host, port)
    return GrpcServer(inference, tracer)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; return 0, or the exit code of the error that prevented the start."""
    parser = argparse.ArgumentParser(
        prog="python -m service.process.worker", description=(__doc__ or "").splitlines()[0]
    )
    for name in ("--socket", "--channel"):
        parser.add_argument(name, type=int, required=True, help="file descriptor")
    parser.add_argument(
        "--number",
        type=int,
        default=0,
        help="number of the worker, by which workers are distributed over several GPUs",
    )
    parser.add_argument(
        "--source", required=True, help="original folder of the copy in PRUNELLA_BUNDLE, for messages"
    )
    options = parser.parse_args(arguments)
    sys.setswitchinterval(SWITCH_SECONDS)
    folder = os.environ.get("PRUNELLA_BUNDLE", "")
    try:
        settings = Settings.from_environment()
        dropped: list[Any] = []
        set_up_logs(settings.log, lambda: dropped[0].inc() if dropped else None)
        if options.number == 0:
            settings.warn_if_crowded()
        inference = open_inference_service(settings, options.number)
        dropped.append(inference.telemetry.dropped_logs)
        tracer = Tracer.from_environment()
        app = App(inference, tracer, BentoRoutes(inference))
        listener = socket.socket(fileno=options.socket)
        grpc_server = _open_grpc(inference, tracer, listener.getsockname()[0])
    except PrunellaError as error:
        with contextlib.suppress(OSError):  # stderr may be on a full disk; the exit code reports the error too
            sys.stderr.write(f"prunella: {str(error).replace(folder, options.source)}\n")
        return error.exit_code
    channel = Channel(socket.socket(fileno=options.channel), inference)
    inference.model_slots.supervisor = channel
    if not channel.wait_to_serve():
        return 0
    server = make_server(app, inference, channel, grpc_server)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has drained
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
