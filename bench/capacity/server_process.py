"""server_process(): a server of a bundle in another process, for as long as a block runs."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.measure.latency.cpu_affinity import pinned
from models.errors import CheckError

START_SECONDS, STOP_SECONDS = 60.0, 60.0
LOG_LINES = 20  # the last ones, in the error of a server that does not start


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that accepts requests."""

    port: int
    pid: int  # of the supervisor, the parent of the workers

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def server_process(
    bundle: Path, settings: Mapping[str, str] | None = None, cores: Sequence[int] = ()
) -> Iterator[ServerProcess]:
    """Serve a bundle on a free port of this machine, and stop the server at the end of the block.

    Args:
        bundle: the bundle's folder.
        settings: variables of the server (PRUNELLA_…); those of this process do not count.
        cores: numbers of the cores that the server runs on; none: those of this process.

    Raises:
        CheckError: the server ends, or does not accept requests within START_SECONDS; the message has the last lines
            of its log.
    """
    port = _free_port()
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PRUNELLA_")}
    variables |= {
        "PRUNELLA_BUNDLE": str(bundle.resolve()), "PRUNELLA_LOG": "text", **(settings or {}),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }  # fmt: skip
    with tempfile.TemporaryFile() as log:
        with pinned(cores):
            process = subprocess.Popen(
                _command(port), env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            _wait_until_ready(process, port, log)
            yield ServerProcess(port, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _command(port: int) -> list[str]:
    return [sys.executable, "-P", "-m", "service.process.launch", "--host", "127.0.0.1", "--port", str(port)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    """Wait until the server accepts connections; raises CheckError if it ends, or if it takes too long."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0):
                return
        except OSError:
            time.sleep(0.02)
    code = process.poll()
    reason = f"was not ready after {START_SECONDS:g} s" if code is None else f"ended with exit code {code}"
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    raise CheckError("\n".join([f"the server {reason}; the end of its log:", *lines]))
