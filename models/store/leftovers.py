"""Leftovers of killed commands in a store: unfinished folders, and lock files without a process."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from models.messages import say
from models.store.folder import MANIFEST
from models.store.lock import Lock

DAY = 86_400.0  # seconds
STAGE_FOLDER = r"[a-z0-9]+-[0-9a-f]{12}"
UNFINISHED = re.compile(rf"(?P<target>{STAGE_FOLDER})(\.rank\d+)?\.(?P<kind>partial|scratch)")
REMOVED = re.compile(rf"\.(?P<target>{STAGE_FOLDER})\.removed")
LOCK = re.compile(rf"\.(?P<target>{STAGE_FOLDER})\.lock")


def target_of(path: Path) -> Path | None:
    """Return the folder of the stage that a leftover belongs to, or None if the path is not a leftover."""
    for pattern in (UNFINISHED, REMOVED, LOCK):
        if match := pattern.fullmatch(path.name):
            return path.with_name(match["target"])
    return None


def is_resumable(path: Path) -> bool:
    """Return whether the same command would resume its work (training or teacher outputs) from this folder."""
    target = target_of(path)
    return path.suffix == ".scratch" and target is not None and not (target / MANIFEST).is_file()


@cache
def remove_leftovers(store: Path) -> None:
    """Remove useless leftovers that are older than a day, and report it; done once per process and store.

    A `.scratch` folder is kept while a run can resume from it: it may contain hours of training. The number of such
    folders is printed on stderr, and `prunella store clean --partial` removes them.
    """
    resumable = 0
    for path in list(find_abandoned(store, DAY)):
        if is_resumable(path):
            resumable += 1
        elif remove_leftover(path) and not LOCK.fullmatch(path.name):
            say(f"removed {path}, left by a run that was killed more than a day ago")
    if resumable:
        say(
            f"{store} holds {resumable} runs that were killed more than a day ago; the same command "
            "resumes such a run, `prunella store clean --partial` removes them"
        )


def find_abandoned(store: Path, seconds: float) -> Iterator[Path]:
    """Yield the leftovers unchanged for this number of seconds; a running process may still use some of them."""
    for path in sorted(store.iterdir()) if store.is_dir() else ():
        if target_of(path) and not path.is_symlink() and time.time() - Extent.of(path).last >= seconds:
            yield path


def remove_leftover(path: Path) -> bool:
    """Remove a leftover, unless a process holds the lock of its stage; return whether it was removed."""
    target = target_of(path)
    assert target is not None
    lock = Lock(target)
    if not lock.try_acquire():
        return False
    try:
        if path.is_dir():
            shutil.rmtree(path)
    finally:
        lock.release()  # also removes the lock file
    return True


@dataclass(frozen=True, slots=True)
class Extent:
    """Size of a file or folder in bytes, and its oldest and newest modification time, in seconds since 1970."""

    bytes: int
    first: float
    last: float

    @classmethod
    def of(cls, path: Path) -> "Extent":
        """Return the extent of a path; files that a running process removes in the meantime are ignored."""
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        statuses = [status for file in files if (status := _status(file)) is not None]
        own = _status(path)
        times = [status.st_mtime for status in (*statuses, own) if status is not None] or [time.time()]
        size = sum(status.st_size for status in statuses) if path.is_dir() else (own.st_size if own else 0)
        return cls(size, min(times), max(times))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
