"""Supervisor: the parent process. It holds the listening socket and performs the actions of the worker lifecycle.

BentoML's own parent process does not replace workers inside a container, and keeps the socket open while it shuts
down, so that new connections hang. Only the standard library is imported: this process starts at once and stays
small. It exchanges messages (JSON objects) with each worker over a pair of Unix sockets that preserve message
boundaries; when its end closes, the worker knows that this process has exited.
"""

import contextlib
import json
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.process.actions import Action, Discard, Kill, Log, Model, Ready, Send, Stage, Start, Terminate
from service.process.lifecycle import Lifecycle

STDERR = 2  # the workers' stdout is redirected here: the last line of our stdout is one JSON object
TICK_SECONDS = 0.2
LONGEST_MESSAGE = 1 << 16  # bytes
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class _Process:
    """A worker process and this end of the channel to it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.process, self.channel = process, channel
        self.open = True


class Supervisor:
    """Runs the workers of a lifecycle on one bound socket.

    Args:
        listener: bound socket; workers listen on it.
        lifecycle: decides which workers run, and which model they serve.
        environment: environment variables of the workers.
        copies: folder for private copies of bundles; None: workers open the bundles themselves.
    """

    def __init__(
        self, listener: socket.socket, lifecycle: Lifecycle, environment: dict[str, str], copies: Path | None
    ) -> None:
        self._listener, self._lifecycle, self._copies = listener, lifecycle, copies
        self._environment = environment
        self._workers: dict[int, _Process] = {}
        self._stagings: dict[int, subprocess.Popen[bytes]] = {}
        self._signals: list[int] = []
        self._wake = socket.socketpair()  # a signal writes a byte to it, which ends select()

    def run(self, on_ready: Callable[[], None]) -> int:
        """Run until all processes have ended, and return the exit code.

        Args:
            on_ready: called once, when all workers serve.
        """
        for end in self._wake:
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake[1].fileno(), warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda received, _: self._signals.append(received))
        self._on_ready = on_ready
        self._lifecycle.begin(time.monotonic())
        while True:
            self._perform()
            if self._lifecycle.done:
                break
            self._wait()
            self._reap()
            self._lifecycle.tick(time.monotonic())
        for staging in self._stagings.values():
            staging.kill()
            staging.wait()
        return self._lifecycle.exit_code

    def _wait(self) -> None:
        """Wait for signals, messages and staging results, at most TICK_SECONDS, and handle them."""
        channels = {worker.channel.fileno(): key for key, worker in self._workers.items() if worker.open}
        outputs = {
            staging.stdout.fileno(): number
            for number, staging in self._stagings.items()
            if staging.stdout is not None
        }
        readable, _, _ = select.select([self._wake[0].fileno(), *channels, *outputs], [], [], TICK_SECONDS)
        self._handle_signals()  # before messages: a change requested after a SIGHUP must come after the restart
        for descriptor in readable:
            if descriptor in channels:
                self._receive(channels[descriptor])
            elif descriptor in outputs:
                self._finish_staging(outputs[descriptor])
            else:
                with contextlib.suppress(BlockingIOError):
                    self._wake[0].recv(4096)

    def _handle_signals(self) -> None:
        while self._signals:
            received, now = self._signals.pop(0), time.monotonic()
            if received == signal.SIGHUP:
                self._lifecycle.hang_up(now)
            elif received in (signal.SIGTERM, signal.SIGINT):
                self._lifecycle.stop(now)
                self._listener.close()  # when the workers have closed theirs too, the kernel refuses new connections

    def _receive(self, key: int) -> bool:
        """Handle one message of a worker; return whether there was one."""
        worker = self._workers[key]
        try:
            content = worker.channel.recv(LONGEST_MESSAGE)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            content = b""
        if not content:
            worker.open = False  # the process has ended; _reap() collects it soon
            return False
        self._lifecycle.message_received(key, json.loads(content), time.monotonic())
        return True

    def _reap(self) -> None:
        for key, worker in list(self._workers.items()):
            code = worker.process.poll()
            if code is None:
                continue
            while worker.open and self._receive(key):
                pass  # messages that it sent before it ended
            worker.channel.close()
            del self._workers[key]
            self._lifecycle.died(key, code, worker.process.pid, time.monotonic())

    def _finish_staging(self, number: int) -> None:
        process = self._stagings.pop(number)
        content, _ = process.communicate()
        now = time.monotonic()
        try:
            result: dict[str, Any] = json.loads(content)
        except ValueError:
            result = {"error": f"reading the bundle ended with code {process.returncode}", "exit_code": 1}
        if result.get("warning"):
            _log(Log(result["warning"], "error"))
        if "error" in result:
            self._lifecycle.not_staged(number, result["error"], result["exit_code"], now)
        else:
            model = Model(**result["model"]) if result["model"] else None
            self._lifecycle.staged(number, model, result["fingerprint"], now)

    def _perform(self) -> None:
        while actions := self._lifecycle.take_actions():
            for action in actions:
                self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Start():
                self._start(action)
            case Stage():
                self._stage(action)
            case Send() | Terminate() | Kill():
                if action.key in self._workers:  # otherwise the worker has ended
                    self._deliver(self._workers[action.key], action)
            case Discard(model):
                if self._copies is not None and self._copies in Path(model.folder).parents:
                    shutil.rmtree(Path(model.folder).parent, ignore_errors=True)
            case Log():
                _log(action)
            case Ready():
                self._on_ready()

    def _deliver(self, worker: _Process, action: Send | Terminate | Kill) -> None:
        """Send a message or a signal to a worker."""
        if isinstance(action, Terminate):
            worker.process.terminate()
        elif isinstance(action, Kill):
            worker.process.kill()
        else:
            try:
                worker.channel.send(json.dumps(action.message).encode())
            except BlockingIOError:
                worker.process.kill()  # the socket buffer is full: the worker is stuck
            except (BrokenPipeError, ConnectionResetError):
                pass  # the worker has ended; _reap() collects it soon

    def _start(self, action: Start) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        descriptors = (self._listener.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "service.process.worker"]
        command += ["--socket", str(descriptors[0]), "--channel", str(descriptors[1])]
        command += ["--number", str(action.slot), "--source", action.model.source]
        process = subprocess.Popen(
            command, env={**self._environment, "PRUNELLA_BUNDLE": action.model.folder}, pass_fds=descriptors,
            stdin=subprocess.DEVNULL, stdout=STDERR,
            start_new_session=True,  # Ctrl-C reaches only the supervisor, which then lets the workers drain
        )  # fmt: skip
        theirs.close()
        self._workers[action.key] = _Process(process, ours)

    def _stage(self, action: Stage) -> None:
        command = [sys.executable, "-m", "service.process.staging"]
        into = None if self._copies is None else str(self._copies / str(action.number))
        flags = {"into": into, "base": action.base, "bundle": action.bundle, "known": action.known}
        command += [f"--{flag}={value}" for flag, value in flags.items() if value is not None]
        self._stagings[action.number] = subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )


def _log(log: Log) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    entry = {"time": f"{stamp}.{int(now % 1 * 1e3):03d}Z", "level": log.level, "logger": "supervisor"}
    text = json.dumps({**entry, "message": log.message, **log.fields})
    with contextlib.suppress(OSError):  # a log entry that cannot be written must not end the server
        sys.stderr.write(f"prunella: {log.message}\n" if log.level == "fatal" else text + "\n")
        sys.stderr.flush()
