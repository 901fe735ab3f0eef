"""Which of several processes this is, as `accelerate launch` (or torchrun) has told it.

The launcher speaks through environment variables, so that asking needs no torch.
"""

import os

from models.errors import InputError


def rank() -> int:
    """Return the number of this process among all: 0 writes the files and speaks to people."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes train together, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_launcher() -> None:
    """Refuse to train alone where several processes were asked for.

    Raises:
        InputError: `accelerate launch --cpu --num_processes N` names a meeting point, and starts one process.
    """
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "the launcher was asked for several processes and started one; on processors use "
            "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m prunella …`"
        )


def wait_for_everyone() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
