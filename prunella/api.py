"""The commands as functions: their arguments are the options of `prunella COMMAND --help`.

`finetune` and `quantize` return a `Delivered` (folder, id, report), `compress` a `Compressed` (folder, report and
missed), `cascade` a dictionary, as `evaluate` does. Errors are subclasses of `models.errors.PrunellaError`.
"""

from collections.abc import Callable
from functools import wraps
from inspect import get_annotations, signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from compress.run import compress as run_compress
from models.schema import wrong_values
from prunella.arguments import check_arguments
from prunella.cli import bench, train
from prunella.cli import cascade as cascade_commands
from prunella.cli import compress as compress_commands
from prunella.cli import quantize as quantize_commands
from prunella.cli.options import check_out

__all__ = ["cascade", "compress", "evaluate", "finetune", "quantize"]
P = ParamSpec("P")
R = TypeVar("R")


def _with_paths(command: Callable[P, R]) -> Callable[..., R]:
    """Return the command with what typer does before a call: check values, convert strings to paths, check `out`."""
    annotations = get_annotations(command)
    paths = {name for name, annotation in annotations.items() if _is_path(annotation)}

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> R:
        call = signature(command).bind(*args, **kwargs)
        check_arguments(call.arguments, annotations)
        for name in paths & call.arguments.keys():
            call.arguments[name] = None if call.arguments[name] is None else Path(call.arguments[name])
        check_out(call.arguments.get("out"))
        with wrong_values():
            return command(*call.args, **call.kwargs)

    return run


def _checked(function: Callable[P, R], command: Callable[..., Any]) -> Callable[P, R]:
    """Return the function with its arguments checked by the options of a command."""
    annotations = get_annotations(command)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        check_arguments(signature(function).bind(*args, **kwargs).arguments, annotations)
        return function(*args, **kwargs)

    return run


def _is_path(annotation: Any) -> bool:
    base = getattr(annotation, "__origin__", annotation)  # the type inside Annotated
    return base is Path or base == (Path | None)


compress = _checked(run_compress, compress_commands.compress)
finetune = _with_paths(train.finetune)
quantize = _with_paths(quantize_commands.quantize)
evaluate = _with_paths(bench.evaluate)
cascade = _with_paths(cascade_commands.learn_cascade)
