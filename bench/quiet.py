"""CpuWatch: CPU time that other processes took, of the cores that something was measured on."""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from bench.cores import siblings, usable_cores
from models.record import Record

STAT = Path("/proc/stat")
IDLE, IOWAIT, STEAL = 3, 4, 7  # places among the times of a core; the eight first add up to all time (man 5 proc)
Times = tuple[float, float, float]  # seconds of some cores: all, idle, stolen


class Quiet(Record):
    """How quiet the machine was: shares of the time of the cores that we used; None: this system does not tell."""

    others: float | None = Field(
        description="taken by other processes, on the cores in use or on the hyper-threads beside them: the larger"
    )
    stolen: float | None = Field(description="taken by other machines on the same host")

    def sentence(self) -> str:
        """Say it in a few words."""
        if self.others is None or self.stolen is None:
            return "what other processes took is not known on this system"
        return f"other processes took {self.others:.0%} and other machines {self.stolen:.0%} of the cores' time"


def mean_noise(parts: Sequence[Quiet]) -> Quiet:
    """Return the means of several measurements; None where one of them is not known."""
    others, stolen = ([getattr(part, name) for part in parts] for name in ("others", "stolen"))
    return Quiet(others=_mean(others), stolen=_mean(stolen))


class CpuWatch:
    """A watch that begins to count when it is made.

    Child processes count as ours once they have been waited for. A machine of many cores looks idle while one process
    takes the very core that is measured on; so only `cores` are looked at, and the hyper-threads beside them.

    Args:
        cores: that the child processes are pinned to; none: they run on any core that this process may use.
    """

    def __init__(self, cores: Sequence[int] = ()) -> None:
        usable = usable_cores()
        self._cores = sorted(set(cores) or set(usable))
        self._beside = sorted(siblings(self._cores) - set(self._cores))
        # this process waits while others are measured; where that is on some other core, its time is none of theirs
        self._with_parent = set(self._cores) >= set(usable)
        self._begun = self._read()

    def read(self) -> Quiet:
        """Return the shares since the watch was made."""
        now = self._read()
        if self._begun is None or now is None:
            return Quiet(others=None, stolen=None)
        cores, beside = (
            tuple(b - a for a, b in zip(before, after, strict=True))
            for before, after in zip(self._begun[:2], now[:2], strict=True)
        )
        if cores[0] <= 0:  # some sandboxes show a frozen /proc/stat
            return Quiet(others=None, stolen=None)
        own = now[2] - self._begun[2]
        shares = [_shares(cores, own), *([_shares(beside, 0.0)] if beside[0] > 0 else [])]
        return Quiet(others=max(s[0] for s in shares), stolen=max(s[1] for s in shares))

    def _read(self) -> tuple[Times, Times, float] | None:
        """Return the times of the cores and of those beside them since the machine started, and our own use."""
        try:
            lines = STAT.read_text(encoding="ascii").splitlines()
        except OSError:
            return None  # not Linux
        spent = os.times()
        own = spent.children_user + spent.children_system
        own += spent.user + spent.system if self._with_parent else 0.0
        return _sum(lines, self._cores), _sum(lines, self._beside), own


def _sum(lines: Sequence[str], cores: Sequence[int]) -> Times:
    names = {f"cpu{core}" for core in cores}
    found = [[int(n) for n in line.split()[1:9]] for line in lines if line.split(" ", 1)[0] in names]
    tick = os.sysconf("SC_CLK_TCK")
    return (
        sum(map(sum, found)) / tick,
        sum(core[IDLE] + core[IOWAIT] for core in found) / tick,
        sum(core[STEAL] for core in found) / tick,
    )


def _shares(times: Sequence[float], own: float) -> tuple[float, float]:
    """Return the shares of others and of other machines in the time of cores, of which `own` seconds are ours."""
    total, idle, stolen = times
    return min(1.0, max(0.0, (total - idle - stolen - own) / total)), stolen / total


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
