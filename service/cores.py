"""usable_cores(): how many cores this process may use, by affinity and by the quota of its control group."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(affinity: int | None = None, root: Path = CGROUP) -> int:
    """Return the smaller of the cores that the process may run on and its quota, at least 1.

    A quota of 2.5 cores counts as 2: a third thread would be stopped for half of every period.
    """
    allowed = len(os.sched_getaffinity(0)) if affinity is None else affinity
    quota = _quota(root)
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def _quota(root: Path) -> float | None:
    """Return the quota in cores, or None where there is none; version 2 first, then version 1."""
    try:
        limit, period = (root / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass  # not version 2, or the root group, which has no such file
    try:
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        return None if quota < 0 else quota / int((root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
