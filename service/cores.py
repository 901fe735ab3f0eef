"""usable_cores(): how many cores this process may use, by affinity and by the quotas of its control groups."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CONTROLLER = "cpu"


def usable_cores(affinity: int | None = None, mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int:
    """Return the smaller of the cores that the process may run on and its quota, at least 1.

    A quota of 2.5 cores counts as 2: a third thread would be stopped for half of every period.

    Args:
        affinity: cores that the process may run on; default: as the kernel says.
        mount: where the control groups are.
        membership: the file that names the control groups of the process, see cgroups(7).
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups(mount, membership) if (quota := _quota(group)) is not None]
    return max(1, min([affinity, *map(int, quotas)]))


def _groups(mount: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups and of all groups around them: each may have a quota.

    A container sees its own group at the mount, whatever path the host knows it by: folders that are not there are no
    groups of ours.
    """
    yield from (mount, mount / CONTROLLER)
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # no control groups
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if controllers and CONTROLLER not in names:
            continue
        # version 2 has no controllers in its line; version 1 mounts those that go together under one name, and links
        places = {mount / controllers, mount / CONTROLLER} if controllers else {mount, mount / "unified"}
        inside = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
        for place in places:
            yield from (place / group for group in (inside, *inside.parents))


def _quota(group: Path) -> float | None:
    """Return a group's own quota in cores, or None where it has none; version 2 first, then version 1."""
    try:
        limit, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass  # not version 2, or the root group, which has no such file
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = (group / "cpu.cfs_period_us").read_text(encoding="ascii")
        return None if quota < 0 else quota / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
