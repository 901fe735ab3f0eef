"""Lock: one process at a time works on a folder, and Hold: a folder that is in use is not removed.

Both are flock(2), which the kernel releases when a process ends, however it ends. The filelock library wraps the same
call for exclusive locks. It does not record who holds a lock, it leaves every lock file behind, and its shared locks
need an SQLite file beside each folder: to tell a waiting person the process id, and to know what is in use, this
module would still be needed.
"""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from models.errors import FolderError
from models.record import Record
from models.units import duration


class Holder(Record):
    """Who holds a lock."""

    pid: int
    host: str
    since: float  # seconds since 1970

    def describe(self) -> str:
        """Return a text such as "process 4711 (since 3 min)"."""
        there = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"process {self.pid}{there} (since {duration(time.time() - self.since)})"


class Lock:
    """The lock of a folder: the file `.NAME.lock` beside it, which goes when the lock is released."""

    def __init__(self, target: Path) -> None:
        self.target = Path(target)
        self.path = self.target.with_name(f".{self.target.name}.lock")
        self._handle: int | None = None

    def acquire(self) -> None:
        """Wait until no other process has the lock; says once on stderr which one that is.

        Raises:
            FolderError: there are no locks on this file system, or the folder cannot be written.
        """
        if self.try_acquire():
            return
        start, holder = time.monotonic(), self.holder()
        who = holder.describe() if holder else "another process"
        sys.stderr.write(f"prunella: waiting for {who}, which works on {self.target}\n")
        while not self._take(fcntl.LOCK_EX):
            pass
        sys.stderr.write(f"prunella: waited {duration(time.monotonic() - start)} for {self.target}\n")

    def try_acquire(self) -> bool:
        """Return whether this process has the lock now; does not wait.

        Raises:
            FolderError: as `acquire`.
        """
        while True:
            try:
                if self._take(fcntl.LOCK_EX | fcntl.LOCK_NB):
                    return True
            except BlockingIOError:
                return False

    def release(self) -> None:
        """Let the next process go on, and remove the lock file."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)  # first: who waits for this file finds it gone, and opens a new one
            os.close(self._handle)
            self._handle = None

    def holder(self) -> Holder | None:
        """Return who wrote the lock file, or None where there is none; a killed process leaves its own behind."""
        try:
            return Holder.model_validate_json(self.path.read_bytes())
        except (FileNotFoundError, ValidationError):  # not written yet
            return None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, how: int) -> bool:
        """Lock the file; return False where it was removed meanwhile, so that the lock excludes nobody."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._no_lock(error) from None
        try:
            fcntl.flock(handle, how)
            if not _is_file(handle, self.path):
                os.close(handle)
                return False
            holder = Holder(pid=os.getpid(), host=socket.gethostname(), since=time.time())
            os.truncate(handle, 0)
            os.pwrite(handle, holder.model_dump_json().encode(), 0)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError as error:
            os.close(handle)
            raise self._no_lock(error) from None
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def _no_lock(self, error: OSError) -> FolderError:
        return FolderError(
            f"cannot lock {self.target} ({error.strerror}): wanted a folder that can be written, on a file system "
            "with locks; choose another --store or --out"
        )


class Hold:
    """A shared lock on a file while the object lives: many processes can have one, and `is_held` tells of it."""

    __slots__ = ("_handle",)

    def __init__(self, path: Path | None = None) -> None:
        self._handle: int | None = None
        if path is None:
            return
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        except OSError:  # a file system without locks: `is_held` cannot tell either, and nothing is removed there
            os.close(handle)
        else:
            self._handle = handle

    def __del__(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __reduce__(self) -> tuple[type["Hold"], tuple[()]]:
        return Hold, ()  # a lock does not travel to another process


def is_held(path: Path) -> bool:
    """Return whether a process has a `Hold` on the file, or whether that cannot be found out."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


def _is_file(handle: int, path: Path) -> bool:
    """Return whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
