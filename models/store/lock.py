"""Lock: an exclusive lock, so that one process at a time writes a folder. Hold: a shared lock on a folder in use.

Both use flock(2), which the kernel releases when a process ends, even if it is killed. The filelock library wraps the
same call for exclusive locks. But it does not record which process holds a lock, it does not remove its lock files,
and its shared locks need an SQLite file beside each folder. This module would still be needed to show the process id
to a waiting user, and to know which folders are in use.
"""

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from models.errors import FolderError
from models.messages import say
from models.schema import Record
from models.store.units import duration


class Holder(Record):
    """The process that holds a lock; the content of a lock file."""

    pid: int
    host: str
    since: float  # seconds since 1970

    def describe(self) -> str:
        """Return a text such as "process 4711 (since 3 min)"."""
        host = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"process {self.pid}{host} (since {duration(time.time() - self.since)})"


class Lock:
    """The exclusive lock of a folder: a file `.NAME.lock` beside it, which is removed when the lock is released."""

    def __init__(self, target: Path) -> None:
        self.target = Path(target)
        self.path = self.target.with_name(f".{self.target.name}.lock")
        self._handle: int | None = None

    def acquire(self) -> None:
        """Acquire the lock; if another process has it, print that process on stderr and wait.

        Raises:
            FolderError: the file system has no locks, or the folder cannot be written.
        """
        if self.try_acquire():
            return
        start, holder = time.monotonic(), self.holder()
        name = holder.describe() if holder else "another process"
        say(f"waiting for {name}, which works on {self.target}")
        while not self._lock_file(fcntl.LOCK_EX):
            pass
        say(f"waited {duration(time.monotonic() - start)} for {self.target}")

    def try_acquire(self) -> bool:
        """Acquire the lock without waiting; return whether this process has it now.

        Raises:
            FolderError: as in `acquire`.
        """
        while True:
            try:
                if self._lock_file(fcntl.LOCK_EX | fcntl.LOCK_NB):
                    return True
            except BlockingIOError:
                return False

    def release(self) -> None:
        """Remove the lock file and release the lock."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)  # before the release: a waiting process sees that the file is gone
            os.close(self._handle)
            self._handle = None

    def holder(self) -> Holder | None:
        """Return the process in the lock file, or None; a killed process leaves its lock file behind."""
        try:
            return Holder.model_validate_json(self.path.read_bytes())
        except (FileNotFoundError, ValidationError):  # no lock, or the file is not written yet
            return None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _lock_file(self, operation: int) -> bool:
        """Lock the file; return False if the file was removed in the meantime, which makes this lock ineffective."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._lock_error(error) from None
        try:
            fcntl.flock(handle, operation)
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
            raise self._lock_error(error) from None
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def _lock_error(self, error: OSError) -> FolderError:
        return FolderError(
            f"cannot lock {self.target} ({error.strerror}): wanted a writable folder on a file system with locks; "
            "choose another folder"
        )


class Hold:
    """A shared lock on a file while the object exists: several processes can have one; `is_held` checks for it."""

    __slots__ = ("_handle",)

    def __init__(self, path: Path | None = None) -> None:
        self._handle: int | None = None
        if path is None:
            return
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        except OSError:  # no locks on this file system: `is_held` then returns True, so that nothing is removed
            os.close(handle)
        else:
            self._handle = handle

    def __del__(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __reduce__(self) -> tuple[type["Hold"], tuple[()]]:
        return Hold, ()  # a lock cannot be sent to another process


def is_held(path: Path) -> bool:
    """Return whether a process has a `Hold` on the file; also True if that cannot be determined."""
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
    """Return whether `path` is still the name of the open file."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
