"""serve(): run `bentoml serve` as a child, wait until it is ready, pass signals on."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from models.errors import CheckError, InputError
from service.bundle import Bundle
from service.publish import resolve
from service.settings import Settings

PATIENCE_SECONDS = 60


def serve(bundle_or_tag: str, host: str, port: int, environment: dict[str, str], on_ready: Callable[[], None]) -> int:
    """Return the server's exit code; `on_ready` is called once, when /readyz answers.

    Raises:
        InputError: the port is taken.
        CheckError: the server runs and does not get ready.
    """
    folder = resolve(bundle_or_tag)
    Bundle.open(folder)  # a clear error here, before a process is started
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {host} cannot be used ({error.strerror}): choose another --port"
            ) from None
    command = [sys.executable, "-m", "bentoml", "serve", "service.service:TextClassifier"]
    command += ["--host", host, "--port", str(port)]
    here = Path(__file__).resolve().parent.parent
    variables = {**os.environ, "PRUNELLA_BUNDLE": str(folder.resolve()), **environment}
    Settings.from_environment(variables).runtime()  # wrong settings end here too
    child = subprocess.Popen(command, env=variables, cwd=here, stdout=sys.stderr)  # stdout is for the last line
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: child.send_signal(received))
    try:
        if _wait_until_ready(child, f"http://{host}:{port}/readyz"):
            on_ready()
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def _wait_until_ready(child: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the server is ready; False when it ended before, after it said why."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)  # not listening yet
    raise CheckError(f"{url} did not answer within {PATIENCE_SECONDS} s")
