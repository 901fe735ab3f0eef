"""choose_cores(): the processor cores that every engine runs on in its turn; pinned(): start a process there.

A process that wanders between cores loses its caches, at moments that differ from run to run. All engines of one
opening share one choice, so that a slow core is slow for all of them.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from service.cores import usable_cores as allowed_cores

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> list[int]:
    """Return the cores that this process may use, one of each physical core first; not more than its quota allows."""
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return list(range(os.cpu_count() or 1))
    met: Counter[str] = Counter()
    ranked = []
    for core in sorted(os.sched_getaffinity(0)):
        physical = _siblings(core)
        ranked.append((met[physical], core))
        met[physical] += 1
    return [core for _, core in sorted(ranked)][: allowed_cores(len(ranked))]


def choose_cores(threads: int, turn: int = 0) -> tuple[int, ...]:
    """Return as many cores as there are threads, others at another `turn`; none where pinning is not possible."""
    free = usable_cores()
    if not can_pin() or threads > len(free):
        return ()
    start = turn * threads % len(free)
    return tuple((free + free)[start : start + threads])


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Hold the calling thread on `cores`; a process started meanwhile stays there with all its threads, from birth.

    No cores: nothing is held.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@cache
def can_pin() -> bool:
    """Whether this system lets a process choose its cores."""
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux; or a sandbox that refuses the call
        return False
    return True


def pinning(threads: Sequence[int]) -> str:
    """Say how the engines are pinned, for the machine card."""
    if not can_pin():
        return "engines not pinned, which this system does not allow"
    free = len(usable_cores())
    told = "all engines pinned to the same cores, one a thread"
    wide = [str(n) for n in threads if n > free]
    return f"{told}; not pinned with {', '.join(wide)} threads, which is more than the cores" if wide else told


def siblings(cores: Sequence[int]) -> set[int]:
    """Return the cores (hardware threads) that share a physical core with any of `cores`, themselves included."""
    found = set(cores)
    for core in cores:
        for part in _siblings(core).split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def _siblings(core: int) -> str:
    """Return the name of the physical core, which its hardware threads share: their numbers, such as 0,4 or 0-1."""
    try:
        return Path(SIBLINGS.format(core)).read_text(encoding="ascii").strip()
    except OSError:
        return str(core)  # not told: taken for a physical core of its own
