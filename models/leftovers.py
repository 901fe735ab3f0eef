"""What killed commands left in a store: unfinished folders, and locks that nobody holds."""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from models.folder import MANIFEST
from models.lock import Lock

DAY = 86_400.0  # seconds
STAGE_FOLDER = r"[a-z0-9]+-[0-9a-f]{12}"
UNFINISHED = re.compile(rf"(?P<target>{STAGE_FOLDER})(\.rank\d+)?\.(?P<kind>partial|scratch)")
REMOVED = re.compile(rf"\.(?P<target>{STAGE_FOLDER})\.removed")
LOCK = re.compile(rf"\.(?P<target>{STAGE_FOLDER})\.lock")


def target_of(path: Path) -> Path | None:
    """Return the stage's folder that a leftover was to become, or None: the path is something else."""
    for pattern in (UNFINISHED, REMOVED, LOCK):
        if found := pattern.fullmatch(path.name):
            return path.with_name(found["target"])
    return None


def is_resumable(path: Path) -> bool:
    """Return whether a training or a teacher goes on from this folder when its command is given again."""
    target = target_of(path)
    return path.suffix == ".scratch" and target is not None and not (target / MANIFEST).is_file()


@cache
def remove_leftovers(store: Path) -> None:
    """Remove what was left more than a day ago and is worth nothing, and say so; a process does it once for a store.

    A `.scratch` folder stays while a run can go on from it: hours of training may be in it. It is named on stderr,
    and `prunella store clean --partial` removes it.
    """
    kept = 0
    for path in list(abandoned(store, DAY)):
        if is_resumable(path):
            kept += 1
        elif remove_leftover(path) and not LOCK.fullmatch(path.name):
            sys.stderr.write(f"prunella: removed {path}, left by a run that was killed more than a day ago\n")
    if kept:
        sys.stderr.write(
            f"prunella: {store} holds {kept} runs that were killed more than a day ago; the same command goes on "
            "with one, `prunella store clean --partial` removes them\n"
        )


def abandoned(store: Path, seconds: float) -> Iterator[Path]:
    """Yield the leftovers in which nothing has changed for so long; what a process works on may be among them."""
    for path in sorted(store.iterdir()) if store.is_dir() else ():
        if target_of(path) and not path.is_symlink() and time.time() - Extent.of(path).last >= seconds:
            yield path


def remove_leftover(path: Path) -> bool:
    """Remove a leftover unless a process holds the lock of its stage; return whether it is gone."""
    target = target_of(path)
    assert target is not None
    lock = Lock(target)
    if not lock.try_acquire():
        return False
    try:
        if path.is_dir():
            shutil.rmtree(path)
    finally:
        lock.release()  # which removes the lock file
    return True


@dataclass(frozen=True, slots=True)
class Extent:
    """Size of a file or a folder in bytes, and when the first and the last change was, in seconds since 1970."""

    bytes: int
    first: float
    last: float

    @classmethod
    def of(cls, path: Path) -> "Extent":
        """Measure; files that a running process removes meanwhile are passed over."""
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        known = [status for file in files if (status := _status(file)) is not None]
        own = _status(path)
        times = [status.st_mtime for status in (*known, own) if status is not None] or [time.time()]
        size = sum(status.st_size for status in known) if path.is_dir() else (own.st_size if own else 0)
        return cls(size, min(times), max(times))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
