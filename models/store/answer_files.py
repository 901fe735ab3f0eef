"""Files for the teacher's outputs: written at any offset, complete or an error, of a size known in advance."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import CheckError
from models.messages import say
from models.store.units import size


class AnswerFile:
    """A file of `size` bytes for arrays at any offset; contents that a killed run wrote are kept."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def put(self, offset: int, array: NDArray[np.generic]) -> None:
        """Write an array at an offset in bytes.

        Raises:
            OSError: the array cannot be written completely, because the disk is full or there is a limit.
        """
        rest = np.ascontiguousarray(array).data.cast("B")
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)  # pwrite may write fewer bytes without an error
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            offset, rest = offset + written, rest[written:]

    def sync(self) -> None:
        """Flush the file to the disk; a full disk may raise its error only here."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def check_space(files: list[AnswerFile], folder: Path, answers: str) -> None:
    """Print the total size of the files, and check before the work that the disk has room for them.

    Args:
        files: bytes that an earlier run wrote into them are not needed again.
        folder: the folder of the files.
        answers: what the files contain, for messages.

    Raises:
        CheckError: the disk has less room.
    """
    total = sum(file.size for file in files)
    allocated = sum(min(file.size, file.path.stat().st_blocks * 512) for file in files)
    free = shutil.disk_usage(folder).free
    say(f"{answers} take {size(total)} in {folder.parent}, where {size(free)} are free")
    if total - allocated > free:
        raise CheckError(
            f"{answers} take {size(total)}, and {folder.parent} has {size(free)} left: make room "
            "(`prunella store list`), take a --store on another disk, or give fewer texts or a smaller --augment"
        )
