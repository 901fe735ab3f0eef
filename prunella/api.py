"""The commands as functions: their arguments are the options of `prunella COMMAND --help`.

`finetune` and `quantize` return a `Delivered` (folder, id, report), `compress` a `Compressed` (folder, report and
missed), `cascade` a dictionary, as `evaluate` does. Errors are subclasses of `models.errors.PrunellaError`.
"""

from collections.abc import Callable
from functools import wraps
from inspect import get_annotations, signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from compress.run import compress as compress
from models.schema import wrong_values
from prunella.cli import bench, train
from prunella.cli import cascade as cascade_commands
from prunella.cli import quantize as quantize_commands
from prunella.cli.options import check_out

__all__ = ["cascade", "compress", "evaluate", "finetune", "quantize"]
P = ParamSpec("P")
R = TypeVar("R")


def _with_paths(command: Callable[P, R]) -> Callable[..., R]:
    """Return the command with what typer does before a call: convert strings to paths, and check `out`."""
    paths = {name for name, annotation in get_annotations(command).items() if _is_path(annotation)}

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> R:
        call = signature(command).bind(*args, **kwargs)
        for name in paths & call.arguments.keys():
            call.arguments[name] = None if call.arguments[name] is None else Path(call.arguments[name])
        check_out(call.arguments.get("out"))
        with wrong_values():
            return command(*call.args, **call.kwargs)

    return run


def _is_path(annotation: Any) -> bool:
    base = getattr(annotation, "__origin__", annotation)  # the type inside Annotated
    return base is Path or base == (Path | None)


finetune = _with_paths(train.finetune)
quantize = _with_paths(quantize_commands.quantize)
evaluate = _with_paths(bench.evaluate)
cascade = _with_paths(cascade_commands.learn_cascade)
