"""Run the server: bind the port, supervise the workers, and return when all processes have ended.

python -m service.process.launch --host H --port N: `bentoml serve` replaces itself with this command. PRUNELLA_BUNDLE
names the bundle. With the argument `serve`, which SageMaker gives a container, the defaults are SageMaker's: port
8080 of all addresses, and the bundle in /opt/ml/model.
"""

import argparse
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from models.errors import InputError, PrunellaError
from service.process.lifecycle import Lifecycle
from service.process.supervisor import Supervisor

PORT = 3000  # BentoML's default
SAGEMAKER_PORT, SAGEMAKER_MODEL = 8080, "/opt/ml/model"
PORT_VARIABLES = ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT")  # set by Vertex AI and SageMaker
GRACE_SECONDS = 15.0  # after the time to drain, before a worker that has not ended is killed


def serve(bundle_or_tag: str, host: str, port: int, environment: dict[str, str], on_ready: Callable[[], None]) -> int:
    """Run the server until it has ended, and return its exit code.

    Args:
        bundle_or_tag: a bundle folder, or a tag of BentoML's model store.
        host: address to bind.
        port: port to bind.
        environment: variables for the workers, in addition to those of this process.
        on_ready: called once, when all workers serve.

    Raises:
        InputError: the port cannot be used, or there is no temporary folder for the metrics of several workers.
    """
    listener = _bind(host, port)
    root = str(Path(__file__).resolve().parents[2])
    variables = {**os.environ, **environment}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH")]))
    variables.setdefault("TOKENIZERS_PARALLELISM", "false")
    variables.setdefault("ORT_DISABLE_TELEMETRY", "1")  # by default it reports to Microsoft
    workers = _number(variables, "PRUNELLA_WORKERS", 1)
    drain = _number(variables, "PRUNELLA_DRAIN_DELAY_S", 0) + _number(variables, "PRUNELLA_DRAIN_S", 30)
    scratch = _scratch_folder(workers)
    copies = None if scratch is None else scratch / "bundles"
    variables.pop("PROMETHEUS_MULTIPROC_DIR", None)
    if scratch is not None and workers > 1:
        # workers write their metrics into this folder, and /metrics aggregates them
        variables["PROMETHEUS_MULTIPROC_DIR"] = str(scratch / "metrics")
    try:
        lifecycle = Lifecycle(workers, bundle_or_tag, drain + GRACE_SECONDS)
        return Supervisor(listener, lifecycle, variables, copies).run(on_ready)
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _scratch_folder(workers: int) -> Path | None:
    """Return a new temporary folder for copies of bundles and for metrics.

    Returns:
        None if no folder can be created and there is only one worker, which can do without.

    Raises:
        InputError: no folder can be created, and several workers need one for their metrics.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="prunella-"))
    except OSError as error:
        if workers > 1:
            raise InputError(f"no temporary folder can be created ({error.strerror}): set TMPDIR to one") from None
        return None
    for name in ("bundles", "metrics"):
        (folder / name).mkdir()
    return folder


def _bind(host: str, port: int) -> socket.socket:
    """Return the bound socket. A worker listens on it when it is ready; until then connections are refused."""
    if not 0 <= port < 65536:  # 0: any free port
        raise InputError(f"--port is {port}: wanted a port from 0 to 65535")
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
    """Return a setting as a whole number, or its default if it is not a number.

    The worker validates every setting and refuses to start with an invalid one.
    """
    try:
        return max(1 if default else 0, int(float(variables.get(name, default))))
    except ValueError:
        return default


def platform_port(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the port that the platform of this container wants, None if it names none.

    Raises:
        InputError: it is not a port.
    """
    for name in PORT_VARIABLES:
        if value := environment.get(name):
            if not value.isdigit() or not 0 < int(value) < 65536:
                raise InputError(f"{name} is {value[:20]!r}: wanted a port from 1 to 65535")
            return int(value)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve PRUNELLA_BUNDLE until a signal ends the server; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m service.process.launch", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("command", nargs="?", choices=["serve"], help="start as a container of SageMaker")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    options = parser.parse_args(arguments)
    in_sagemaker = options.command == "serve"
    try:
        host = options.host or ("0.0.0.0" if in_sagemaker or platform_port() else "127.0.0.1")
        port = options.port or platform_port() or (SAGEMAKER_PORT if in_sagemaker else PORT)
        mounted = in_sagemaker and Path(SAGEMAKER_MODEL).is_dir()
        bundle = os.environ.get("PRUNELLA_BUNDLE", SAGEMAKER_MODEL if mounted else "prunella:latest")
        return serve(bundle, host, port, {}, lambda: None)
    except PrunellaError as error:
        sys.stderr.write(f"prunella: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
