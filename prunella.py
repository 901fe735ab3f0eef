"""The command line: `prunella <verb>`. Each verb wires flags to one package; the last line on stdout is JSON."""

import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from compress.command import compress
from compress.quantize_command import export, quantize
from models.commands import finetune, pretrain
from models.console import STORE, Store, need, show
from models.distributed import note_failure, world_size
from models.errors import CheckError, InputError, PrunellaError
from models.record import explain
from models.store_command import app as store_app

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # usage tracking is off unless asked for
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    help="Cut a fine-tuned text classifier down, let it heal, quantize it, serve it, and say what that cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
OWN = 0  # a length: each text at its own
EXAMPLE = "whole numbers above 0 with commas between, such as 1,16"
# verbs that gain nothing from more processes
ALONE = ("demo", "evaluate", "bench", "publish", "serve", "loadtest", "store")
app.command()(pretrain)
app.command()(finetune)
app.command()(compress)
app.command()(quantize)
app.command()(export)
app.add_typer(store_app, name="store")


def main() -> None:
    """Run a verb; an error that was raised on purpose is one sentence and an exit code, also of several processes."""
    try:
        app()
    except PrunellaError as error:
        end(error.exit_code, str(error))
    except ValidationError as error:  # a flag's value that its configuration does not allow
        end(2, f"{error.title}: {explain(error)}")
    except Exception:
        code = note_failure(1)
        if code is None:
            raise
        sys.exit(code)


def end(code: int, sentence: str) -> None:
    """End with an exit code and a sentence, unless the main one of several processes has said it."""
    told = note_failure(code)
    if told is None:
        sys.stderr.write(f"prunella: {sentence}\n")
    sys.exit(told or code)


@app.callback()
def _begin(context: typer.Context) -> None:
    verb = context.invoked_subcommand
    if verb in ALONE and world_size() > 1:
        raise InputError(
            f"{verb} works in one process, and the launcher started {world_size()}: run `prunella {verb}`"
        )


@app.command()
def demo(store: Store = STORE, serve: bool = True, port: int = 3000) -> None:
    """The whole path on built-in real data: fine-tune, prune, heal, quantize, report, publish, serve."""
    need("torch", "train")
    from compress.demo import run_demo

    start = time.perf_counter()
    result = run_demo(store)
    show({"verb": "demo", **result, "seconds": round(time.perf_counter() - start, 1)})
    if serve:
        run_server(result["tag"], "auto", port)


@app.command()
def evaluate(
    model: Path,
    data: Annotated[str, typer.Option(help="labelled rows")],
    device: Annotated[
        str,
        typer.Option(help="cpu, cuda[:i], tensorrt, or auto: the best that is there. Each has a variant of its own"),
    ] = "cpu",
) -> None:
    """Accuracy and F1, or a regression's correlations, of a bundle or a classifier folder on labelled rows."""
    from bench.evaluate import evaluate_on, read_task
    from models.data.texts import read_texts

    start = time.perf_counter()
    found = evaluate_on(model, read_texts(data, kind=read_task(model).kind), device)
    told = {"device": found.device, "variant": found.variant, **found.score.model_dump()}
    show({"verb": "evaluate", "folder": str(model), **told, "seconds": round(time.perf_counter() - start, 1)})


@app.command()
def bench(
    bundle: Path,
    data: Annotated[str, typer.Option(help="rows to answer; labelled ones give accuracy")],
    train: Annotated[
        str | None, typer.Option(help="labelled rows: tfidf learns from them, openvino is calibrated on some")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="unpruned classifier; default: the one in --store")] = None,
    against: Annotated[str, typer.Option(help="engines beside ours")] = "pytorch,ort_fp32,stock_int8,tfidf",
    lengths: Annotated[str, typer.Option(help="own, and exact lengths in tokens, such as own,16,64")] = "own",
    batch: Annotated[
        str, typer.Option(help="texts at once; the smallest gives the speed-up of the headline")
    ] = "1,16",
    threads: Annotated[str, typer.Option(help="threads inside one operator")] = "1",
    texts: Annotated[
        int, typer.Option(min=1, help="texts that are timed; a 95th percentile takes 60 for each text of a batch")
    ] = 64,
    rounds: Annotated[int, typer.Option(min=3, help="of timing, engines in turn")] = 7,
    openings: Annotated[int, typer.Option(min=2, help="fresh processes that the speed-up and --compare rest on")] = 8,
    engine_timeout: Annotated[
        float, typer.Option(min=1, help="seconds in which an engine must start, and answer 256 texts, or is ended")
    ] = 600,
    store: Store = STORE,
    compare: Annotated[Path | None, typer.Option(help="an older report.json; exit 1 on worse or too noisy")] = None,
    compare_loss: Annotated[
        float, typer.Option(help="points of accuracy whose loss --compare must not miss; fewer take more rows")
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="default: report-<id> in --store")] = None,
) -> None:
    """Accuracy or correlation, and latency, of a bundle against other engines: report.html, .md and .json."""
    need("torch", "train")
    from bench.guard import check_missed, judge, openings_of, read_older
    from bench.report import BenchConfig, Inputs, find_reference, run_bench, summary
    from models.data.texts import read_texts
    from models.folder import ModelFolder
    from service.bundle import Bundle

    opened = Bundle.open(bundle)
    older = read_older(compare) if compare else None
    check_missed(compare_loss)
    config = BenchConfig(
        against=tuple(name for name in against.split(",") if name),
        batches=numbers("--batch", batch),
        threads=numbers("--threads", threads),
        lengths=tuple(None if n == OWN else n for n in numbers("--lengths", lengths, own=True)),
        rounds=rounds,
        openings=openings,
        timeout=engine_timeout,
        texts=openings_of(older).texts if older else texts,  # runs are compared on as many texts
    )
    compared = ModelFolder.open(reference) if reference else find_reference(opened, store)
    kind = opened.task.kind
    rows, learned = read_texts(data, kind=kind), read_texts(train, kind=kind) if train else None
    inputs = Inputs(opened, compared, rows, learned)
    folder = out or store / f"report-{opened.id}"
    report = run_bench(inputs, config, store, folder)
    failed = [f"{e.name}: {e.problem}" for e in report.engines if e.status == "failed"]
    verdict = judge(older, report, compare_loss) if older and not failed else None
    show({
        "verb": "bench", "folder": str(bundle), "id": opened.id, "reused": False, "seconds": report.seconds,
        "report": str(folder / "report.html"), "report_json": str(folder / "report.json"), **summary(report),
        "compared": verdict.model_dump() if verdict else None,
    })  # fmt: skip
    if failed:
        raise CheckError(f"the report is written, but {'; '.join(failed)}")
    if verdict and verdict.is_worse:
        raise CheckError(f"worse than {compare}: {verdict.sentence()}")
    if verdict and verdict.speed == "too noisy":
        raise CheckError(f"too noisy to judge, run again on a quiet machine: {verdict.sentence()}")
    if verdict and verdict.accuracy == "too noisy":
        raise CheckError(f"too noisy to judge, take more rows or a larger --compare-loss: {verdict.sentence()}")


@app.command()
def publish(bundle: Path) -> None:
    """Put a bundle into BentoML's model store."""
    from service.publish import publish as work

    show({"verb": "publish", "folder": str(bundle), "tag": work(bundle)})


@app.command()
def serve(
    bundle: str,
    device: Annotated[str, typer.Option(envvar="PRUNELLA_DEVICE", help="auto, cpu, cuda[:i], tensorrt")] = "auto",
    port: int = 3000,
    host: str = "127.0.0.1",
    require_device: Annotated[
        bool, typer.Option(envvar="PRUNELLA_REQUIRE_DEVICE", help="refuse to start on another device than --device")
    ] = False,
) -> None:
    """Serve a bundle folder or a tag of BentoML's model store."""
    run_server(bundle, device, port, host, require_device)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def loadtest(context: typer.Context) -> None:
    """Put a running server under load: steady, ramp, burst, overload, soak, swap; `prunella loadtest --help`."""
    from loadtests.run import main as work

    sys.exit(work(context.args))


def run_server(bundle: str, device: str, port: int, host: str = "127.0.0.1", require_device: bool = False) -> None:
    """Serve until stopped; prints a curl line when ready."""
    from service.serve import serve as work

    curl = (
        f"curl -s http://{host}:{port}/v1/classify -H 'Content-Type: application/json' "
        """-d '{"text": "The striker scored twice in the final."}'"""
    )
    start = time.perf_counter()

    def ready() -> None:
        sys.stderr.write(f"serving on http://{host}:{port}; try\n  {curl}\n")
        show({"verb": "serve", "url": f"http://{host}:{port}", "seconds": round(time.perf_counter() - start, 1)})

    asked = {"PRUNELLA_DEVICE": device, **({"PRUNELLA_REQUIRE_DEVICE": "1"} if require_device else {})}
    sys.exit(work(bundle, host, port, asked, ready))


def numbers(flag: str, value: str, own: bool = False) -> tuple[int, ...]:
    """Return the whole numbers above 0 in a list such as `1,16`; `own` stands for OWN where it is allowed."""
    parts = [part.strip() for part in value.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", part) or (own and part == "own") for part in parts):
        wanted = "own, or whole numbers above 0 with commas between, such as own,16" if own else EXAMPLE
        raise InputError(f"{flag} is {value!r}: wanted {wanted}")
    return tuple(OWN if part == "own" else int(part) for part in parts)


if __name__ == "__main__":
    main()
