"""Output of commands: the last line on stdout is one JSON object; everything for people goes to stderr."""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from models.distributed import rank
from models.errors import CheckError, MissingExtraError
from models.store.results import Delivered

P = ParamSpec("P")


_began = [time.perf_counter()]  # when the command began; at first, when this module was imported


def begin() -> None:
    """Set the start of the `seconds` of `show`: a command begins."""
    _began[0] = time.perf_counter()


def show(result: dict[str, Any]) -> None:
    """Print the result of a command as the last line on stdout; with several processes, only the main one prints.

    `seconds` is added where the command has no time of its own: the time since the command began.
    """
    print_json({**result, "seconds": result.get("seconds", round(time.perf_counter() - _began[0], 1))})


def print_json(result: dict[str, Any]) -> None:
    """Print one JSON object on stdout; with several processes, only the main one prints.

    Raises:
        CheckError: stdout cannot be written, such as on a full disk; the message has the folder of the result.
    """
    if rank() != 0:
        return
    try:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads it, which the command line ends without a message
        raise
    except OSError as error:
        where = f", and the result is in {result['folder']}" if "folder" in result else ""
        raise CheckError(f"the last line cannot be written to stdout ({error.strerror}){where}") from None


def prints(command: Callable[P, Delivered | dict[str, Any]]) -> Callable[P, None]:
    """Return a command with the same options that prints its result as one JSON object instead of returning it."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        result, name = command(*args, **kwargs), command.__name__
        show(result.summary(name) if isinstance(result, Delivered) else {"verb": name, **result})

    run.__annotations__ = {**command.__annotations__, "return": None}
    return run


def need(module: str, extra: str) -> None:
    """Check that the packages of a verb are installed.

    Raises:
        MissingExtraError: `module`, which the extra `extra` installs, is missing.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(f"this verb needs {module}: pip install 'prunella[{extra}]'")
