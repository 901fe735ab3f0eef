"""usable_cores(): how many cores this process may use, from CPU affinity and control group (cgroup) quotas."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CONTROLLER = "cpu"


def usable_cores(affinity: int | None = None, mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int:
    """Return the number of cores in the CPU affinity or in the smallest quota, whichever is less; at least 1.

    A quota of 2.5 cores counts as 2: a third thread would be throttled for half of every period.

    Args:
        affinity: number of cores that the process may run on; default: what the kernel reports.
        mount: where the control groups are mounted.
        membership: the file that lists the control groups of the process, see cgroups(7).
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups(mount, membership) if (quota := _quota(group)) is not None]
    return max(1, min([affinity, *map(int, quotas)]))


def _groups(mount: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the process's control groups and of all their parents: each may have a quota.

    A container sees its own group at the mount point, whatever its path on the host is. So some of the folders may
    not exist.
    """
    yield from (mount, mount / CONTROLLER)
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # this system has no control groups
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if controllers and CONTROLLER not in names:
            continue
        # a line of version 2 names no controllers; version 1 mounts controllers together under one name, with links
        roots = {mount / controllers, mount / CONTROLLER} if controllers else {mount, mount / "unified"}
        relative = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
        for root in roots:
            yield from (root / group for group in (relative, *relative.parents))


def _quota(group: Path) -> float | None:
    """Return a group's own quota in cores, or None if it has none; try version 2 first, then version 1."""
    try:
        limit, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass  # not version 2, or the root group, which does not have this file
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = (group / "cpu.cfs_period_us").read_text(encoding="ascii")
        return None if quota < 0 else quota / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
