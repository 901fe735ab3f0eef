"""served(): a function that asks a running server, as the chapters and their exercises use it."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.capacity.server_process import server_process


@contextmanager
def served(bundle: Path) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Serve a bundle on a free port, give a function from a request to its answer, and stop the server at the end.

    Raises:
        CheckError: the server does not start.
        urllib.error.HTTPError: the server refuses a request.
    """
    with server_process(bundle) as server:

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{server.url}/v1/classify", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return dict(json.load(answer))

        yield ask
