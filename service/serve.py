"""serve(): bind the port, supervise the workers, return when everything has ended.

python -m service.serve --host H --port N: what `bentoml serve` turns into; PRUNELLA_BUNDLE names the bundle.
"""

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from models.errors import InputError, PrunellaError
from service.lifecycle import Lifecycle
from service.supervisor import Supervisor

PATIENCE_SECONDS = 15.0  # beyond the time to drain, before a worker that does not end is killed


def serve(bundle_or_tag: str, host: str, port: int, environment: dict[str, str], on_ready: Callable[[], None]) -> int:
    """Return the server's exit code; `on_ready` is called once, when all workers answer.

    Raises:
        InputError: the port is taken.
    """
    listener = _bind(host, port)
    root = str(Path(__file__).resolve().parent.parent)
    variables = {**os.environ, **environment}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH")]))
    variables.setdefault("TOKENIZERS_PARALLELISM", "false")
    workers = _number(variables, "PRUNELLA_WORKERS", 1)
    drain = _number(variables, "PRUNELLA_DRAIN_DELAY_S", 0) + _number(variables, "PRUNELLA_DRAIN_S", 30)
    with tempfile.TemporaryDirectory(prefix="prunella-", ignore_cleanup_errors=True) as folder:
        copies, metrics = Path(folder, "bundles"), Path(folder, "metrics")
        copies.mkdir()
        metrics.mkdir()
        if workers > 1:
            variables["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # where workers keep what /metrics adds up
        else:
            variables.pop("PROMETHEUS_MULTIPROC_DIR", None)
        lifecycle = Lifecycle(workers, bundle_or_tag, drain + PATIENCE_SECONDS)
        return Supervisor(listener, lifecycle, variables, copies).run(on_ready)


def _bind(host: str, port: int) -> socket.socket:
    """Return the bound socket; a worker begins to listen when it is ready, so that nobody is let in before."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InputError(f"port {port} of {host} cannot be used ({error.strerror}): choose another --port") from None
    return listener


def _number(variables: dict[str, str], name: str, default: int) -> int:
    """Return a whole number; what is none is refused by the worker, which checks every setting."""
    try:
        return max(1 if default else 0, int(float(variables.get(name, default))))
    except ValueError:
        return default


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve PRUNELLA_BUNDLE until told to end; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m service.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    options = parser.parse_args(arguments)
    try:
        bundle = os.environ.get("PRUNELLA_BUNDLE", "prunella:latest")
        return serve(bundle, options.host, options.port, {}, lambda: None)
    except PrunellaError as error:
        sys.stderr.write(f"prunella: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
