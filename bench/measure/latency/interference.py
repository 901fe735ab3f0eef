"""InterferenceMonitor: CPU time used by other processes on the measured cores during a measurement."""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from bench.measure.latency.cpu_affinity import siblings, usable_core_numbers
from models.schema import Record

STAT = Path("/proc/stat")
IDLE, IOWAIT, STEAL = 3, 4, 7  # columns of a core's times; the first eight add up to the total (man 5 proc)
Times = tuple[float, float, float]  # seconds of some cores: total, idle, stolen


class Interference(Record):
    """Shares of the CPU time of the measured cores that others used; None: not known on this system."""

    others: float | None = Field(
        description="used by other processes: the larger share of the measured cores and their sibling hyper-threads"
    )
    stolen: float | None = Field(description="used by other virtual machines on the same host (steal time)")

    def sentence(self) -> str:
        """Return the shares as a sentence."""
        if self.others is None or self.stolen is None:
            return "what other processes took is not known on this system"
        return f"other processes took {self.others:.0%} and other machines {self.stolen:.0%} of the cores' time"


def mean_noise(measurements: Sequence[Interference]) -> Interference:
    """Return the means of several measurements; a mean is None if one of its values is not known."""
    return Interference(
        others=_mean([each.others for each in measurements]), stolen=_mean([each.stolen for each in measurements])
    )


class InterferenceMonitor:
    """Counts the CPU time of other processes from its creation on.

    The time of a child process counts as ours once the child has been waited for. Only `cores` and their sibling
    hyper-threads are counted: the mean over all cores of a large machine would hide a process that runs on the very
    core that is measured.

    Args:
        cores: Cores that the child processes are pinned to; empty: they run on any core that this process may use.
    """

    def __init__(self, cores: Sequence[int] = ()) -> None:
        usable = usable_core_numbers()
        self._cores = sorted(set(cores) or set(usable))
        self._siblings = sorted(siblings(self._cores) - set(self._cores))
        # the time of this process counts only if it cannot run on any other core than the measured ones
        self._with_parent = set(self._cores) >= set(usable)
        self._start = self._read()

    def read(self) -> Interference:
        """Return the shares since the monitor was created."""
        now = self._read()
        if self._start is None or now is None:
            return Interference(others=None, stolen=None)
        cores, hyper_threads = (
            tuple(b - a for a, b in zip(before, after, strict=True))
            for before, after in zip(self._start[:2], now[:2], strict=True)
        )
        if cores[0] <= 0:  # some sandboxes show a frozen /proc/stat
            return Interference(others=None, stolen=None)
        own = now[2] - self._start[2]
        shares = [_shares(cores, own), *([_shares(hyper_threads, 0.0)] if hyper_threads[0] > 0 else [])]
        return Interference(others=max(s[0] for s in shares), stolen=max(s[1] for s in shares))

    def _read(self) -> tuple[Times, Times, float] | None:
        """Return the times of the cores and of their siblings since boot, and our own CPU time; None: not Linux."""
        try:
            lines = STAT.read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        times = os.times()
        own = times.children_user + times.children_system
        own += times.user + times.system if self._with_parent else 0.0
        return _sum(lines, self._cores), _sum(lines, self._siblings), own


def _sum(lines: Sequence[str], cores: Sequence[int]) -> Times:
    names = {f"cpu{core}" for core in cores}
    columns = [[int(n) for n in line.split()[1:9]] for line in lines if line.split(" ", 1)[0] in names]
    tick = os.sysconf("SC_CLK_TCK")
    return (
        sum(map(sum, columns)) / tick,
        sum(core[IDLE] + core[IOWAIT] for core in columns) / tick,
        sum(core[STEAL] for core in columns) / tick,
    )


def _shares(times: Sequence[float], own: float) -> tuple[float, float]:
    """Return the shares of other processes and of other machines in the time of cores; `own` seconds are ours."""
    total, idle, stolen = times
    return min(1.0, max(0.0, (total - idle - stolen - own) / total)), stolen / total


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
