"""Supervisor: the parent process. Holds the socket, keeps workers alive, replaces them without a gap, ends cleanly.

BentoML's own parent replaces no worker inside a container, and holds the socket open while it ends, so that new
connections hang. Only the standard library is imported: this process starts at once and stays small.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

STDERR = 2  # workers say nothing on stdout, where the last line is one JSON object
TICK_SECONDS = 0.2
FAILURES_IN_A_ROW = 5  # starts of a worker that failed, one after the other, before the supervisor gives up
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(eq=False)
class Worker:
    """A worker process."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: int | None  # on which it says that it is ready
    replaces: "Worker | None" = None
    ready: bool = False
    told_to_end: bool = False


class Supervisor:
    """Starts `count` workers on one bound socket, and waits."""

    def __init__(self, listener: socket.socket, count: int, environment: dict[str, str], patience: float) -> None:
        self._listener, self._count, self._patience = listener, count, patience
        self._environment = environment
        self._workers: list[Worker] = []
        self._failures, self._next_start, self._exit_code = 0, 0.0, 0
        self._missing: list[int] = []  # numbers of workers that must be started
        self._ending: float | None = None  # when it was told to end
        self._signals: list[int] = []
        self._lifeline = os.pipe()  # its other end closes when this process dies, and workers end too
        self._wake = socket.socketpair()

    def run(self, on_ready: Callable[[], None]) -> int:
        """Return the exit code, after everything has ended; `on_ready` is called once, when all workers are ready."""
        for end in self._wake:
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake[1].fileno(), warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda received, _: self._signals.append(received))
        self._missing = list(range(self._count))
        told = False
        while True:
            self._start_missing()
            self._wait()
            self._take_signals()
            self._reap()
            if not told and len(self._workers) == self._count and all(w.ready for w in self._workers):
                on_ready()
                told = True
            if not self._workers and (self._ending is not None or not self._missing):
                return self._exit_code

    def _start_missing(self) -> None:
        if self._ending is None and self._missing and time.monotonic() >= self._next_start:
            for number in self._missing:
                self._start(number)
            self._missing = []

    def _start(self, number: int, replaces: Worker | None = None) -> None:
        reader, writer = os.pipe()
        passed = (self._listener.fileno(), writer, self._lifeline[0])
        command = [sys.executable, "-m", "service.worker"]
        for flag, value in zip(("--socket", "--ready", "--lifeline", "--number"), (*passed, number), strict=True):
            command += [flag, str(value)]
        process = subprocess.Popen(
            command, env=self._environment, pass_fds=passed, stdin=subprocess.DEVNULL, stdout=STDERR,
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which then lets workers drain
        )  # fmt: skip
        os.close(writer)
        self._workers.append(Worker(number, process, reader, replaces))

    def _wait(self) -> None:
        pipes = {worker.pipe: worker for worker in self._workers if worker.pipe is not None}
        wake = self._wake[0].fileno()
        readable, _, _ = select.select([wake, *pipes], [], [], TICK_SECONDS)
        for one in readable:
            if one == wake:
                with contextlib.suppress(BlockingIOError):
                    self._wake[0].recv(4096)
            else:
                self._hear(pipes[one])

    def _hear(self, worker: Worker) -> None:
        assert worker.pipe is not None, "it is what was read"
        worker.ready = os.read(worker.pipe, 1) == b"1"  # nothing: it ended before, and is reaped soon
        os.close(worker.pipe)
        worker.pipe = None
        if worker.ready:
            self._failures = 0
            if worker.replaces is not None:
                self._end(worker.replaces)

    def _take_signals(self) -> None:
        while self._signals:
            received = self._signals.pop(0)
            if received == signal.SIGHUP and self._ending is None:
                _log("restarting workers one for one")
                for worker in [w for w in self._workers if w.ready and not w.told_to_end]:
                    worker.process.send_signal(signal.SIGUSR1)  # it refuses less until the new one is there
                    self._start(worker.number, replaces=worker)
            elif received in (signal.SIGTERM, signal.SIGINT) and self._ending is None:
                _log("ending: what was admitted is still answered")
                self._ending = time.monotonic()
                self._listener.close()  # the workers close theirs, and then the kernel refuses new connections
                for worker in self._workers:
                    self._end(worker)
        if self._ending is not None and time.monotonic() - self._ending > self._patience:
            for worker in self._workers:
                worker.process.kill()

    def _end(self, worker: Worker) -> None:
        worker.told_to_end = True
        with contextlib.suppress(ProcessLookupError):
            worker.process.terminate()

    def _reap(self) -> None:
        for worker in list(self._workers):
            code = worker.process.poll()
            if code is None:
                continue
            self._workers.remove(worker)
            if worker.pipe is not None:
                os.close(worker.pipe)
            if worker.told_to_end:
                self._exit_code = max(self._exit_code, abs(code) if self._ending is not None and worker.ready else 0)
            elif worker.ready:
                _log("a worker died and is replaced", worker=worker.number, exit_code=code)
                self._missing.append(worker.number)
            else:
                self._failed(worker, code)

    def _failed(self, worker: Worker, code: int) -> None:
        """Take in that a worker did not get ready: at the first start that is the end, later it is tried again."""
        self._failures += 1
        first = not any(other.ready for other in self._workers) and self._failures == 1 and not self._next_start
        if first or self._failures >= FAILURES_IN_A_ROW:
            self._exit_code = code if code > 0 else 1
            self._ending = time.monotonic()
            for other in self._workers:
                self._end(other)
        elif worker.replaces is None:
            self._next_start = time.monotonic() + 2 ** (self._failures - 1)
            self._missing.append(worker.number)
            _log("a worker did not start and is tried again", worker=worker.number, exit_code=code)
        else:
            _log("the new worker did not start; the old one stays", worker=worker.number, exit_code=code)


def _log(message: str, **told: Any) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    line = {"time": f"{stamp}.{int(now % 1 * 1e3):03d}Z", "level": "info", "logger": "supervisor", "message": message}
    with contextlib.suppress(OSError):  # a log that cannot be written must not end the server
        sys.stderr.write(json.dumps({**line, **told}) + "\n")
        sys.stderr.flush()
