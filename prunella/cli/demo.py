"""The commands `prunella demo` and `prunella fetch`."""

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from models.messages import say
from prunella.cli.options import STORE, Store
from prunella.cli.output import need, show
from prunella.cli.serve import run_server

EXAMPLE = "A warm and funny film that earns every one of its tears."


def demo(
    store: Store = STORE,
    speedup: Annotated[float, typer.Option(min=1, help="target speed-up over unpruned fp32 ONNX Runtime")] = 4.0,
    serve: Annotated[bool, typer.Option(help="serve the finished bundle until Ctrl-C")] = True,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 3000,
) -> None:
    """Run all steps on built-in real data: fine-tune, prune, heal, quantize, report, publish, serve."""
    need("torch", "train")
    from prunella.demo import run_demo

    start = time.perf_counter()
    result = run_demo(store, speedup)
    lines = [*(result[name] for name in ("headline", "gated", "accuracies", "missed")), f"report: {result['report']}"]
    show({"verb": "demo", **result, "seconds": round(time.perf_counter() - start, 1)})

    def summarize() -> None:
        for line in filter(None, lines):
            say(line)

    if serve:
        run_server(result["tag"], {"PRUNELLA_DEVICE": "auto"}, port, example=EXAMPLE, on_ready=summarize)
    summarize()
    say(f"serve it: prunella serve {shlex.quote(result['folder'])}")


def fetch(
    archive: Annotated[
        Path | None, typer.Option(help="vaderSentiment-3.3.2.tar.gz, if it is on this machine; else pip downloads it")
    ] = None,
) -> dict[str, Any]:
    """Write the data of builtin:film-reviews into the Python environment, once; it needs no network afterwards."""
    from models.builtin.film_reviews import fetch_film_reviews

    return {"file": str(fetch_film_reviews(archive))}
