"""Files of a teacher's answers: filled in any order, whole or an error, and their size is known before the work."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.console import say
from models.errors import CheckError
from models.units import size


class AnswerFile:
    """A file of `size` bytes into which arrays are written at any place; what a killed run wrote is still there."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def put(self, place: int, array: NDArray[np.generic]) -> None:
        """Write an array at byte `place`.

        Raises:
            OSError: it cannot be written in full: the disk is full, or there is a limit.
        """
        rest = np.ascontiguousarray(array).data.cast("B")
        while rest:
            written = os.pwrite(self._handle, rest, place)  # fewer bytes than asked for are no error of pwrite
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            place, rest = place + written, rest[written:]

    def sync(self) -> None:
        """Write through to the disk; a disk that is full may say so only here."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def check_space(files: list[AnswerFile], folder: Path) -> None:
    """Say how much the files will take, before the work begins.

    Args:
        files: what an earlier run wrote into them is counted as there.
        folder: where they are.

    Raises:
        CheckError: the disk has less room.
    """
    wanted = sum(file.size for file in files)
    there = sum(min(file.size, file.path.stat().st_blocks * 512) for file in files)
    free = shutil.disk_usage(folder).free
    say(f"the full model's answers take {size(wanted)} in {folder.parent}, where {size(free)} are free")
    if wanted - there > free:
        raise CheckError(
            f"the full model's answers take {size(wanted)}, and {folder.parent} has {size(free)} left: make room "
            "(`prunella store list`), take a --store on another disk, or give fewer texts or a smaller --augment"
        )
