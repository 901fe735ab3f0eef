"""Rank and number of processes under `accelerate launch` or torchrun; by_main(): run a function in the main process.

The launcher sets environment variables, so that rank and number are known without torch. The main process writes the
result of its work into the launcher's key-value store (a TCP store), and the other processes block on that store, not
on a collective: without a busy-wait and without the timeout of a collective.
"""

import atexit
import gc
import itertools
import json
import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from models import errors
from models.errors import CheckError, InputError, PrunellaError

T = TypeVar("T")
WAIT_TIMEOUT = timedelta(days=365)
STORE_TIMEOUT = timedelta(seconds=5)  # for the connection, and for a failing main process to report its failure

_call_numbers = itertools.count()  # equal in all processes, because all make the same calls in the same order
_is_alone = False  # True while this process works and the others wait


def rank() -> int:
    """Return the rank of this process; rank 0, the main process, writes the files and prints the messages."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes on all machines; 1 within `by_main`."""
    return 1 if _is_alone else _launched()


def processes() -> dict[str, int]:
    """Return what a training stage adds to its configuration: several processes train on a larger batch."""
    return {"processes": world_size()} if world_size() > 1 else {}


def join() -> Any:
    """Return accelerate's state of this process, joined with the others; every process calls this before training.

    Raises:
        InputError: the launcher was asked for several processes but started one, as `accelerate launch --cpu
            --num_processes N` does, or accelerate sees another number of processes than the launcher started.
    """
    from accelerate import PartialState

    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "the launcher was asked for several processes but started one; on CPUs use "
            "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m prunella …`"
        )
    # PartialState does not read this variable itself, and without `cpu` every process would train alone
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    state = PartialState(cpu=use_cpu)
    if state.num_processes != _launched():
        raise InputError(
            f"the launcher started {_launched()} processes, and {state.num_processes} joined: "
            "without GPUs set ACCELERATE_USE_CPU=true"
        )
    if state.num_processes > 1:
        _leave_at_exit()
    return state


def leave() -> None:
    """Destroy the process group, and with it the C++ threads that it runs.

    Such a thread may hold the last reference to a tensor, and needs Python's global interpreter lock to free it.
    During the shutdown of the interpreter that is a segmentation fault, so the group must be destroyed before.
    """
    from torch import distributed

    gc.collect()  # a model wrapped for several processes may be in a reference cycle, and it references the group
    if distributed.is_initialized():
        distributed.destroy_process_group()


@cache
def _leave_at_exit() -> None:
    atexit.register(leave)


def wait_for_everyone() -> None:
    """Return when every process has called this function (a barrier)."""
    if world_size() > 1:
        join().wait_for_everyone()


def by_main(work: Callable[[], T], kind: Any = Any) -> T:
    """Call `work` in the main process only, and return its result in every process; the others wait without a limit.

    The result is sent as JSON: anybody who can reach the store's port can write to it, and a pickle could run code.

    Args:
        work: a function that measures, writes or decides. It may call `by_main` again.
        kind: the type of the result, if it is not plain JSON, such as a Record.

    Raises:
        PrunellaError: the error that `work` raised, in every process.
        CheckError: `work` failed with another error. The main process raises that error itself.
    """
    global _is_alone
    if world_size() == 1:
        return work()
    join()
    store, key = _launcher_store(), _key(str(next(_call_numbers)))
    if rank() != 0:
        store.wait([key], WAIT_TIMEOUT)
        message = store.get(key)
        _delete_when_read(store, key)
        return _read_outcome(message, kind)
    outcome = _error_outcome(CheckError("the main process failed: see its error message"))
    _is_alone = True
    try:
        result = work()
        outcome = json.dumps({"result": TypeAdapter(kind).dump_python(result, mode="json")})
        return result
    except PrunellaError as error:
        outcome = _error_outcome(error)
        raise
    finally:
        _is_alone = False
        store.set(key, outcome)


def _error_outcome(error: PrunellaError) -> str:
    error_class = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return json.dumps({"error": error_class.__name__, "arguments": error.args, "fields": vars(error)})


def _read_outcome(message: bytes, kind: Any) -> Any:
    """Return the result in a message of the main process, or raise the error in it."""
    outcome = json.loads(message)
    if "error" not in outcome:
        return TypeAdapter(kind).validate_python(outcome["result"])
    error = getattr(errors, outcome["error"])(*outcome["arguments"])
    for name, value in outcome["fields"].items():
        setattr(error, name, tuple(value) if isinstance(value, list) else value)
    raise error


def _delete_when_read(store: Any, key: str) -> None:
    """Delete a message when the last waiting process has read it: a long training writes one message per step."""
    readers = f"{key}/readers"
    if store.add(readers, 1) == _launched() - 1:
        store.delete_key(key)
        store.delete_key(readers)


def note_failure(code: int) -> int | None:
    """In the main process, tell the others that it fails with exit code `code`; in the others, ask for that code.

    Returns:
        The exit code of the main process, if this is another process and the main one has failed as well: it has
        printed the reason, or its end broke the connection. None: this process must print its own error.
    """
    if world_size() == 1:
        return None
    try:
        store, key = _launcher_store(), _key("failed")
        if rank() == 0:
            store.set(key, str(code))
            return None
        store.wait([key], STORE_TIMEOUT)
        return int(store.get(key))
    except (KeyError, RuntimeError):  # there is no store, or no failure was reported within the time
        return None


def _launched() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _key(name: str) -> str:
    return f"prunella/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"


@cache
def _launcher_store() -> Any:
    """Return the launcher's key-value store."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=STORE_TIMEOUT)
