"""engine_clock(): processor time for an engine with one thread, wall time for one with several.

An engine with one thread uses the processor from the beginning of a run to its end, so that both times are equal on
an idle machine. Beside other programs they are not: wall time also contains the time in which others had the core.
It does not cancel in a ratio, because the kernel interrupts a run of 20 ms several times and most runs of 1 ms not
at all: the slower of two models looks even slower (docs/bench.md, "Beside other programs", has figures).
"""

from collections.abc import Callable
from functools import cache
from time import perf_counter, process_time

READINGS = 2000
FEWEST_VALUES = 100  # different values that so many readings must have


def engine_clock(threads: int) -> Callable[[], float]:
    """Return the clock, in seconds, that times an engine in this process.

    Args:
        threads: threads of the engine; 0: it waits for another device. With several threads processor time is their
            sum, and says nothing about how long an answer takes.
    """
    return process_time if threads == 1 and is_fine(process_time) else perf_counter


def name_clock(threads: int) -> str:
    """Return what `engine_clock` counts."""
    return "processor time" if engine_clock(threads) is process_time else "wall time"


@cache
def is_fine(clock: Callable[[], float]) -> bool:
    """Return whether a clock distinguishes microseconds; some sandboxes count processor time in steps of 10 ms."""
    return len({clock() for _ in range(READINGS)}) >= FEWEST_VALUES
