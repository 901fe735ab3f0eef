"""Looking at what runs from outside, and waiting for it."""

import time
from pathlib import Path

from models.errors import FolderError
from models.train.snapshot import load_snapshot


def steps_saved(scratch: Path) -> int:
    """The step of the snapshot in `scratch`, or 0 when there is none, or when it is replaced while we look."""
    try:
        snapshot = load_snapshot(scratch)
    except FolderError:
        return 0
    return snapshot.counters.step if snapshot else 0


def wait_until(is_true, seconds):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        time.sleep(0.05)
