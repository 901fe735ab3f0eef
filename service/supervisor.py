"""Supervisor: the parent process. Holds the socket, and performs what the lifecycle of the workers decides.

BentoML's own parent replaces no worker inside a container, and holds the socket open while it ends, so that new
connections hang. Only the standard library is imported: this process starts at once and stays small. It speaks with
each worker over a pair of Unix sockets that keep the bounds of messages (JSON objects); when its end closes, a
worker knows that this process is gone.
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

from service.actions import Action, Discard, Kill, Log, Model, Ready, Send, Stage, Start, Terminate
from service.lifecycle import Lifecycle

STDERR = 2  # workers say nothing on stdout, where the last line is one JSON object
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
        listener: bound; workers listen on it.
        lifecycle: decides.
        environment: of the workers.
        copies: folder for private copies of bundles; it exists.
    """

    def __init__(
        self, listener: socket.socket, lifecycle: Lifecycle, environment: dict[str, str], copies: Path
    ) -> None:
        self._listener, self._lifecycle, self._copies = listener, lifecycle, copies
        self._environment = environment
        self._workers: dict[int, _Process] = {}
        self._stagings: dict[int, subprocess.Popen[bytes]] = {}
        self._signals: list[int] = []
        self._wake = socket.socketpair()

    def run(self, on_ready: Callable[[], None]) -> int:
        """Return the exit code, after everything has ended; `on_ready` is called once, when all workers serve."""
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
        channels = {one.channel.fileno(): key for key, one in self._workers.items() if one.open}
        outputs = {one.stdout.fileno(): number for number, one in self._stagings.items() if one.stdout is not None}
        readable, _, _ = select.select([self._wake[0].fileno(), *channels, *outputs], [], [], TICK_SECONDS)
        self._take_signals()  # first: a change that a client wants after a SIGHUP comes after it
        for one in readable:
            if one in channels:
                self._hear(channels[one])
            elif one in outputs:
                self._take_staging(outputs[one])
            else:
                with contextlib.suppress(BlockingIOError):
                    self._wake[0].recv(4096)

    def _take_signals(self) -> None:
        while self._signals:
            received, now = self._signals.pop(0), time.monotonic()
            if received == signal.SIGHUP:
                self._lifecycle.hang_up(now)
            elif received in (signal.SIGTERM, signal.SIGINT):
                self._lifecycle.stop(now)
                self._listener.close()  # the workers close theirs, and then the kernel refuses new connections

    def _hear(self, key: int) -> bool:
        """Take one message of a worker; return whether there was one."""
        one = self._workers[key]
        try:
            content = one.channel.recv(LONGEST_MESSAGE)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            content = b""
        if not content:
            one.open = False  # it has ended, and is reaped soon
            return False
        self._lifecycle.heard(key, json.loads(content), time.monotonic())
        return True

    def _reap(self) -> None:
        for key, one in list(self._workers.items()):
            code = one.process.poll()
            if code is None:
                continue
            while one.open and self._hear(key):
                pass  # what it said before it ended
            one.channel.close()
            del self._workers[key]
            self._lifecycle.died(key, code, one.process.pid, time.monotonic())

    def _take_staging(self, number: int) -> None:
        process = self._stagings.pop(number)
        content, _ = process.communicate()
        now = time.monotonic()
        try:
            told: dict[str, Any] = json.loads(content)
        except ValueError:
            told = {"error": f"reading the bundle ended with code {process.returncode}", "exit_code": 1}
        if told.get("warning"):
            _log(Log(told["warning"], "error"))
        if "error" in told:
            self._lifecycle.not_staged(number, told["error"], told["exit_code"], now)
        else:
            model = Model(**told["model"]) if told["model"] else None
            self._lifecycle.staged(number, model, told["fingerprint"], now)

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
                if action.key in self._workers:  # else it has ended meanwhile
                    self._reach(self._workers[action.key], action)
            case Discard(model):
                if self._copies in Path(model.folder).parents:
                    shutil.rmtree(Path(model.folder).parent, ignore_errors=True)
            case Log():
                _log(action)
            case Ready():
                self._on_ready()

    def _reach(self, worker: _Process, action: Send | Terminate | Kill) -> None:
        if isinstance(action, Terminate):
            worker.process.terminate()
        elif isinstance(action, Kill):
            worker.process.kill()
        else:
            try:
                worker.channel.send(json.dumps(action.message).encode())
            except BlockingIOError:
                worker.process.kill()  # it has not read for so long that it is stuck
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has ended, and is reaped soon

    def _start(self, action: Start) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        passed = (self._listener.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "service.worker", "--socket", str(passed[0]), "--channel", str(passed[1])]
        command += ["--number", str(action.slot), "--source", action.model.source]
        process = subprocess.Popen(
            command, env={**self._environment, "PRUNELLA_BUNDLE": action.model.folder}, pass_fds=passed,
            stdin=subprocess.DEVNULL, stdout=STDERR,
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which then lets workers drain
        )  # fmt: skip
        theirs.close()
        self._workers[action.key] = _Process(process, ours)

    def _stage(self, action: Stage) -> None:
        command = [sys.executable, "-m", "service.staging", "--into", str(self._copies / str(action.number))]
        for flag, value in (("base", action.base), ("bundle", action.bundle), ("known", action.known)):
            command += [f"--{flag}={value}"] if value is not None else []
        self._stagings[action.number] = subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )


def _log(log: Log) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    line = {"time": f"{stamp}.{int(now % 1 * 1e3):03d}Z", "level": log.level, "logger": "supervisor"}
    text = json.dumps({**line, "message": log.message, **log.told})
    with contextlib.suppress(OSError):  # a log that cannot be written must not end the server
        sys.stderr.write(f"prunella: {log.message}\n" if log.level == "sentence" else text + "\n")
        sys.stderr.flush()
