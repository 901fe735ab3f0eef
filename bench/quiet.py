"""CpuWatch: what else the processor did while something was measured."""

import os
from pathlib import Path

from pydantic import Field

from bench.cores import usable_cores
from models.record import Record

STAT = Path("/proc/stat")
IDLE, IOWAIT, STEAL = 3, 4, 7  # places among the times of a core; the eight first add up to all time (man 5 proc)


class Quiet(Record):
    """How quiet the machine was: shares of the time of the cores that we may use; None: this system does not tell."""

    others: float | None = Field(description="taken by other processes")
    stolen: float | None = Field(description="taken by other machines on the same host")

    def sentence(self) -> str:
        """Say it in a few words."""
        if self.others is None or self.stolen is None:
            return "what other processes took is not known on this system"
        return f"other processes took {self.others:.0%} and other machines {self.stolen:.0%} of the cores' time"


class CpuWatch:
    """A watch that begins to count when it is made. Child processes count as ours once they have been joined."""

    def __init__(self) -> None:
        self._begun = _counters()

    def read(self) -> Quiet:
        """Return the shares since the watch was made."""
        if self._begun is None or (now := _counters()) is None:
            return Quiet(others=None, stolen=None)
        total, idle, stolen, own = (b - a for a, b in zip(self._begun, now, strict=True))
        if total <= 0:  # some sandboxes show a frozen /proc/stat
            return Quiet(others=None, stolen=None)
        others = total - idle - stolen - own
        return Quiet(others=min(1.0, max(0.0, others / total)), stolen=stolen / total)


def _counters() -> tuple[float, float, float, float] | None:
    """Return seconds since the start of the machine, over our cores: all, idle, stolen; and our own use."""
    try:
        lines = STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return None  # not Linux
    names = {f"cpu{core}" for core in usable_cores()}
    cores = [[int(n) for n in line.split()[1:9]] for line in lines if line.split(" ", 1)[0] in names]
    tick = os.sysconf("SC_CLK_TCK")
    spent = os.times()
    own = spent.user + spent.system + spent.children_user + spent.children_system
    return (
        sum(map(sum, cores)) / tick,
        sum(core[IDLE] + core[IOWAIT] for core in cores) / tick,
        sum(core[STEAL] for core in cores) / tick,
        own,
    )
