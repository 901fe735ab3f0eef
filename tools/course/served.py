"""served(): a running `prunella serve`, as chapter 8 starts and stops it."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import CheckError

STOP_SECONDS = 60


@contextmanager
def served(bundle: Path) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Serve a bundle on a free port, give a function from a request to its answer, and stop the server at the end.

    Raises:
        CheckError: the server does not start.
        urllib.error.HTTPError: the server refuses a request.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prunella", "serve", str(bundle), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        line = server.stdout.readline()  # printed when the server is ready
        if not line:
            raise CheckError(f"the server ended with exit code {server.wait()}: its lines above say why")
        url = json.loads(line)["url"]

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}/v1/classify", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return dict(json.load(answer))

        yield ask
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=STOP_SECONDS)
