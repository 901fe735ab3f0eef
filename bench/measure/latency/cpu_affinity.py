"""choose_cores(): the CPU cores that all engines are pinned to; pinned(): start a process on given cores.

A process that migrates between cores loses its caches, at moments that differ from run to run. All engines that are
compared in one opening (one start of fresh processes) run on the same cores, so that a slow core slows all of them.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from service.process.cores import usable_cores

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_core_numbers() -> list[int]:
    """Return the cores that this process may use, at most as many as its CPU quota allows.

    The first hardware thread of each physical core comes first, then the second ones.
    """
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return list(range(os.cpu_count() or 1))
    seen: Counter[str] = Counter()
    ranked = []
    for core in sorted(os.sched_getaffinity(0)):
        physical = _siblings(core)
        ranked.append((seen[physical], core))
        seen[physical] += 1
    return [core for _, core in sorted(ranked)][: usable_cores(len(ranked))]


def choose_cores(threads: int, opening: int = 0) -> tuple[int, ...]:
    """Return as many cores as there are threads, or none where pinning is not possible.

    Args:
        threads: Number of threads of one engine.
        opening: Number of the opening (start of fresh processes); each one gets the next cores.
    """
    usable = usable_core_numbers()
    if not can_pin() or threads > len(usable):
        return ()
    start = opening * threads % len(usable)
    return tuple((usable + usable)[start : start + threads])


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Pin the calling thread to `cores`; a process that is started meanwhile inherits this for all its threads.

    If `cores` is empty, nothing is pinned.
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
    """Return whether this system lets a process set its CPU affinity."""
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux; or a sandbox that refuses the call
        return False
    return True


def pinning(threads: Sequence[int]) -> str:
    """Describe how the engines are pinned, for the machine card."""
    if not can_pin():
        return "engines not pinned, which this system does not allow"
    usable = len(usable_core_numbers())
    text = "all engines pinned to the same cores, one a thread"
    unpinned = [str(n) for n in threads if n > usable]
    return (
        f"{text}; not pinned with {', '.join(unpinned)} threads, which is more than the cores" if unpinned else text
    )


def siblings(cores: Sequence[int]) -> set[int]:
    """Return `cores` and all hardware threads that share a physical core with one of them."""
    numbers = set(cores)
    for core in cores:
        for part in _siblings(core).split(","):
            first, _, last = part.partition("-")
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def _siblings(core: int) -> str:
    """Return the numbers of the hardware threads of a physical core, such as 0,4 or 0-1: they identify the core."""
    try:
        return Path(SIBLINGS.format(core)).read_text(encoding="ascii").strip()
    except OSError:
        return str(core)  # unknown: treated as a physical core with one hardware thread
