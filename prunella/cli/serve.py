"""The commands that serve: `prunella publish`, `prunella serve` and `prunella loadtest`."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from prunella.cli.output import show


def publish(bundle: Annotated[Path, typer.Argument(help="a bundle folder")]) -> None:
    """Copy a bundle into BentoML's model store."""
    from service.process.publish import publish as publish_bundle

    show({"verb": "publish", "folder": str(bundle), "tag": publish_bundle(bundle)})


def serve(
    bundle: Annotated[str, typer.Argument(help="a bundle folder, or a tag of BentoML's model store")],
    device: Annotated[
        str, typer.Option(envvar="PRUNELLA_DEVICE", help="device to run on: auto, cpu, cuda[:i] or tensorrt")
    ] = "auto",
    port: Annotated[
        int,
        typer.Option(envvar=["AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT"], min=1, max=65535, help="port to listen on"),
    ] = 3000,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0: all")] = "127.0.0.1",
    name: Annotated[
        str,
        typer.Option(
            "--name",
            "--model_name",
            envvar="PRUNELLA_SERVED_AS",
            help="name of the model in answers, paths and metrics",
        ),
    ] = "",
    require_device: Annotated[
        bool,
        typer.Option(
            envvar="PRUNELLA_REQUIRE_DEVICE",
            help="exit with an error if --device is not available, instead of using another one",
        ),
    ] = False,
    cascade: Annotated[
        bool,
        typer.Option(
            envvar="PRUNELLA_CASCADE", help="let the gate of a bundle with one answer easy texts, before the model"
        ),
    ] = True,
) -> None:
    """Serve a bundle over HTTP until Ctrl-C or SIGTERM.

    The page /ui of the server is for trying it in a browser. All other settings (workers, keys, limits) are
    variables of the environment, such as PRUNELLA_WORKERS=4 and PRUNELLA_API_KEY: see docs/serving.md.
    """
    settings = {"PRUNELLA_DEVICE": device, "PRUNELLA_SERVED_AS": name}
    if require_device:
        settings["PRUNELLA_REQUIRE_DEVICE"] = "1"
    if not cascade:
        settings["PRUNELLA_CASCADE"] = "0"
    run_server(bundle, settings, port, host)


def loadtest(context: typer.Context) -> None:
    """Send load to a running server: steady, ramp, burst, overload, soak, swap; see `prunella loadtest --help`."""
    from loadtests.loadtest import main as run_loadtest

    sys.exit(run_loadtest(context.args))


def run_server(
    bundle: str,
    settings: dict[str, str],
    port: int,
    host: str = "127.0.0.1",
    example: str = "The striker scored twice in the final.",
    on_ready: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Serve until stopped, with PRUNELLA_ variables; when ready, call `on_ready` and print a curl command."""
    from service.process.launch import serve as launch

    start = time.perf_counter()

    def print_ready() -> None:
        on_ready()
        sys.stderr.write(f"serving on http://{host}:{port}; try\n  {curl_command(bundle, host, port, example)}\n")
        show({"verb": "serve", "url": f"http://{host}:{port}", "seconds": round(time.perf_counter() - start, 1)})

    environment = {key: value for key, value in settings.items() if value}
    sys.exit(launch(bundle, host, port, environment, print_ready))


def curl_command(bundle: str, host: str, port: int, example: str) -> str:
    """Return a request to try the server with; a folder with a model of pairs gets a pair."""
    from models.task import FILE, Task

    task = Path(bundle) / FILE
    takes_pairs = task.is_file() and Task.read(task).pair
    body = json.dumps({"pairs": [[example, "Two goals were scored."]]} if takes_pairs else {"text": example})
    return f"curl -s http://{host}:{port}/v1/classify -H 'Content-Type: application/json' -d '{body}'"
