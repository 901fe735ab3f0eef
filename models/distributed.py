"""Which of several processes this is, as `accelerate launch` (or torchrun) has told it; by_main(): one works for all.

The launcher speaks through environment variables, so that asking needs no torch. Its key-value store is where the
main process notes what came of its work: waiting there takes no processor and has no end, as a collective's has.
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
PATIENCE = timedelta(days=365)
GRACE = timedelta(seconds=5)  # for the main process to say that it fails, when another one does

_notes = itertools.count()  # every process counts alike: all come to the same work in the same order
_is_alone = False  # whether this process works while the others wait


def rank() -> int:
    """Return the number of this process among all: 0, the main one, writes the files and speaks to people."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes work together, over all machines: 1 within `by_main`."""
    return 1 if _is_alone else _launched()


def processes() -> dict[str, int]:
    """Return what a stage that trains adds to its configuration: several processes share out a larger batch."""
    return {"processes": world_size()} if world_size() > 1 else {}


def join() -> Any:
    """Return accelerate's state of this process, joined with the others; a process comes here before any training.

    Raises:
        InputError: the launcher was asked for several processes and started one, as `accelerate launch --cpu
            --num_processes N` does, or accelerate sees another number than it started.
    """
    from accelerate import PartialState

    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:  # a meeting point, and nobody to meet
        raise InputError(
            "the launcher was asked for several processes and started one; on processors use "
            "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m prunella …`"
        )
    # PartialState by itself overlooks the launcher's wish for processors, and every process would train alone
    on_processors = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    found = PartialState(cpu=on_processors)
    if found.num_processes != _launched():
        raise InputError(
            f"the launcher started {_launched()} processes, and {found.num_processes} joined: "
            "without GPUs set ACCELERATE_USE_CPU=true"
        )
    if found.num_processes > 1:
        _leave_at_exit()
    return found


def leave() -> None:
    """End the group of processes, and the threads that it runs beside Python's.

    They are C++ threads that may hold the last reference to a tensor, and free it with Python's lock. While the
    interpreter takes itself apart that is a segmentation fault; here all of it is still there.
    """
    from torch import distributed

    gc.collect()  # a model that was wrapped for several processes may be in a cycle, and holds the group
    if distributed.is_initialized():
        distributed.destroy_process_group()


@cache
def _leave_at_exit() -> None:
    atexit.register(leave)


def wait_for_everyone() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        join().wait_for_everyone()


def by_main(work: Callable[[], T], kind: Any = Any) -> T:
    """Return what `work` returns, in every process; the main one alone does it, the others wait as long as it takes.

    The result travels as JSON: the store is open to whoever reaches its port, and a pickle from it could run code.

    Args:
        work: what measures, writes or decides. It may call `by_main` again.
        kind: the type of the result, for one that is more than JSON, such as a Record.

    Raises:
        PrunellaError: what `work` raised, in every process alike.
        CheckError: the main process failed otherwise (in the others; there it is what it was).
    """
    global _is_alone
    if world_size() == 1:
        return work()
    join()
    board, note = _board(), _name(str(next(_notes)))
    if rank() != 0:
        board.wait([note], PATIENCE)
        message = board.get(note)
        _free(board, note)
        return _read_outcome(message, kind)
    outcome = _error_outcome(CheckError("the main process failed: it says why"))
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
        board.set(note, outcome)


def _error_outcome(error: PrunellaError) -> str:
    known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return json.dumps({"error": known.__name__, "arguments": error.args, "fields": vars(error)})


def _read_outcome(message: bytes, kind: Any) -> Any:
    """Return the result in a note of the main process, or raise the error in it."""
    outcome = json.loads(message)
    if "error" not in outcome:
        return TypeAdapter(kind).validate_python(outcome["result"])
    error = getattr(errors, outcome["error"])(*outcome["arguments"])
    for name, value in outcome["fields"].items():
        setattr(error, name, tuple(value) if isinstance(value, list) else value)
    raise error


def _free(board: Any, note: str) -> None:
    """Delete a note when the last process that waits for it has read it: a long training writes one a step."""
    readers = f"{note}/readers"
    if board.add(readers, 1) == _launched() - 1:
        board.delete_key(note)
        board.delete_key(readers)


def note_failure(code: int) -> int | None:
    """Tell the other processes that this one ends with exit code `code`, if it is the main one.

    Returns:
        In another process, the main one's exit code if that has failed as well: it has said why, or its end broke
        the connection. None: this process has to speak for itself.
    """
    if world_size() == 1:
        return None
    try:
        board, note = _board(), _name("failed")
        if rank() == 0:
            board.set(note, str(code))
            return None
        board.wait([note], GRACE)
        return int(board.get(note))
    except (KeyError, RuntimeError):  # nobody keeps notes, or there is none within the time
        return None


def _launched() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _name(note: str) -> str:
    return f"prunella/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{note}"


@cache
def _board() -> Any:
    """Return the launcher's key-value store."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=GRACE)
