"""Which of several processes this is, as `accelerate launch` (or torchrun) has told it.

The launcher speaks through environment variables, so that asking needs no torch.
"""

import os
from typing import Any

from models.errors import InputError


def rank() -> int:
    """Return the number of this process among all: 0 writes the files and speaks to people."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes train together, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
    if found.num_processes != world_size():
        raise InputError(
            f"the launcher started {world_size()} processes, and {found.num_processes} joined: "
            "without GPUs set ACCELERATE_USE_CPU=true"
        )
    return found


def wait_for_everyone() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        join().wait_for_everyone()
