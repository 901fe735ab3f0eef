"""The command line `prunella COMMAND`. The last line that a command prints on stdout is JSON."""

import os
import signal
import sys
from typing import Annotated

import typer
from pydantic import ValidationError

from models.distributed import note_failure, world_size
from models.errors import InputError, PrunellaError
from models.messages import configure, fail, log
from models.schema import explain_options
from prunella.cli.bench import bench, evaluate, plan
from prunella.cli.cascade import cascade
from prunella.cli.compress import compress
from prunella.cli.demo import demo, fetch
from prunella.cli.inspect import inspect
from prunella.cli.output import begin, prints
from prunella.cli.quantize import export, quantize
from prunella.cli.score import score
from prunella.cli.serve import loadtest, publish, serve
from prunella.cli.store import app as store_app
from prunella.cli.train import finetune, pretrain

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # usage tracking is off unless asked for
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# torch's threads wait for each other after every operation. By default they spin for milliseconds; beside another
# program they take the core from the thread that they wait for (docs/results/training.md, "Beside other programs")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

FIRST = """\b
Begin with a folder of transformers, and labelled rows that it did not learn from:
  prunella inspect MODEL
  prunella compress MODEL --train train.csv --validation dev.csv --out bundle
  prunella serve bundle"""
app = typer.Typer(
    help=f"Prune a fine-tuned text classifier, heal it by distillation, quantize it, and serve it.\n\n{FIRST}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
)
# commands that run in one process only
SINGLE_PROCESS = (
    "demo",
    "fetch",
    "cascade",
    "evaluate",
    "inspect",
    "bench",
    "score",
    "plan",
    "publish",
    "serve",
    "loadtest",
    "store",
)
# commands that go on from their finished stages, snapshots or parts if the same command is given again
RESUMED = ("pretrain", "finetune", "compress", "cascade", "quantize", "export", "score", "demo")
INTERRUPTED = 128 + signal.SIGINT  # exit code of a command that Ctrl-C ended
app.command(short_help="train an encoder on texts without labels")(prints(pretrain))
app.command(short_help="train a classifier on labelled texts")(prints(finetune))
app.command(short_help="make a classifier smaller and faster, and measure the loss")(compress)
app.command(short_help="give a bundle a gate, which answers easy texts")(cascade)
app.command(short_help="int8 without pruning")(prints(quantize))
app.command(short_help="ONNX files without pruning, checked against torch")(prints(export))
app.command(short_help="accuracy of a bundle or a classifier on labelled rows")(prints(evaluate))
app.command(short_help="what a folder is, and which commands take it")(prints(inspect))
app.command(short_help="a report: the bundle beside other engines and TF-IDF")(bench)
app.command(short_help="classify the rows of files")(prints(score))
app.command(short_help="how many replicas and cores a load needs")(prints(plan))
app.command(short_help="copy a bundle into BentoML's model store")(publish)
app.command(short_help="answer over HTTP")(serve)
app.command(short_help="all steps on built-in film reviews")(demo)
app.command(short_help="write the film reviews into the Python environment, once")(prints(fetch))
app.add_typer(store_app, name="store", short_help="list and remove finished stages")
# `loadtest` parses its arguments itself, including `--help`
app.command(
    short_help="put a running server under load",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)(loadtest)


def main() -> None:
    """Run a command; a PrunellaError is printed as one line, by one process only, and gives the exit code."""
    try:
        app()
    except SystemExit as end_of_command:
        if end_of_command.code == INTERRUPTED:
            command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
            fail("interrupted" + ("; the same command goes on from here" if command in RESUMED else ""))
        raise
    except PrunellaError as error:
        end(error.exit_code, str(error))
    except ValidationError as error:  # the value of a flag is not valid for its configuration
        end(2, explain_options(error))
    except Exception:
        code = note_failure(1)
        if code is None:
            raise
        sys.exit(code)


def end(code: int, message: str) -> None:
    """Print an error and exit, without printing if the main one of several processes has printed an error."""
    main_code = note_failure(code)
    if main_code is None:
        fail(message)
    sys.exit(main_code or code)


@app.callback()
def _begin(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", help="warnings and errors only, and no progress bars")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="also which finished stages are reused")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="messages as JSON lines, no progress bars")] = False,
) -> None:
    begin()
    configure(quiet, verbose, log_json)
    log.propagate = False  # a library that configures the root logger would write every message a second time
    command = context.invoked_subcommand
    if command in SINGLE_PROCESS and world_size() > 1:
        raise InputError(
            f"{command} works in one process, and the launcher started {world_size()}: run `prunella {command}`"
        )
