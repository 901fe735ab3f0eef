"""The commands that serve: `prunella publish`, `prunella serve` and `prunella loadtest`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from prunella.cli.output import show


def publish(bundle: Path) -> None:
    """Copy a bundle into BentoML's model store."""
    from service.process.publish import publish as publish_bundle

    show({"verb": "publish", "folder": str(bundle), "tag": publish_bundle(bundle)})


def serve(
    bundle: str,
    device: Annotated[
        str, typer.Option(envvar="PRUNELLA_DEVICE", help="device to run on: auto, cpu, cuda[:i] or tensorrt")
    ] = "auto",
    port: int = 3000,
    host: str = "127.0.0.1",
    require_device: Annotated[
        bool,
        typer.Option(
            envvar="PRUNELLA_REQUIRE_DEVICE",
            help="exit with an error if --device is not available, instead of using another one",
        ),
    ] = False,
) -> None:
    """Serve a bundle folder or a tag of BentoML's model store."""
    run_server(bundle, device, port, host, require_device)


def loadtest(context: typer.Context) -> None:
    """Send load to a running server: steady, ramp, burst, overload, soak, swap; see `prunella loadtest --help`."""
    from loadtests.loadtest import main as run_loadtest

    sys.exit(run_loadtest(context.args))


def run_server(bundle: str, device: str, port: int, host: str = "127.0.0.1", require_device: bool = False) -> None:
    """Serve until stopped; print a curl command when the server is ready."""
    from service.process.launch import serve as launch

    curl = (
        f"curl -s http://{host}:{port}/v1/classify -H 'Content-Type: application/json' "
        """-d '{"text": "The striker scored twice in the final."}'"""
    )
    start = time.perf_counter()

    def print_ready() -> None:
        sys.stderr.write(f"serving on http://{host}:{port}; try\n  {curl}\n")
        show({"verb": "serve", "url": f"http://{host}:{port}", "seconds": round(time.perf_counter() - start, 1)})

    environment = {"PRUNELLA_DEVICE": device, **({"PRUNELLA_REQUIRE_DEVICE": "1"} if require_device else {})}
    sys.exit(launch(bundle, host, port, environment, print_ready))
