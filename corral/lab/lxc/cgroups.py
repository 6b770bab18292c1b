"""Limits and use of a container, for version 1 and version 2 of cgroups.

Which version counts is seen from what is mounted: on a hybrid machine the limits are version 1's.
Sources: cgroups(7), the kernel's admin-guide/cgroup-v1 and cgroup-v2.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from corral.lab.runtime import Guest, RuntimeFailed

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000  # in which cpulimit is counted
MIB = 1024**2
GRACE = 1.0  # seconds for a guest's monitor to end by itself
PATIENCE = 5.0  # seconds until processes that were told to stop have stopped


class Limit(NamedTuple):
    """One line of a container's config and one file of its cgroup."""

    key: str  # memory.max
    value: str


def unified() -> bool:
    """Whether the machine has version 2 alone."""
    return (ROOT / "cgroup.controllers").exists()


def limits(guest: Guest, v2: bool) -> list[Limit]:
    """What holds a guest, each of its keys also when it means `no limit`."""
    quota = round(guest.cpulimit * PERIOD_US)
    memory, both = guest.memory_mib * MIB, (guest.memory_mib + guest.swap_mib) * MIB
    allowed = Limit("cpuset.cpus", ",".join(map(str, cpus(guest))))
    if v2:
        return [
            allowed,
            Limit("cpu.max", f"{quota or 'max'} {PERIOD_US}"),
            Limit("memory.max", str(memory)),
            Limit("memory.swap.max", str(guest.swap_mib * MIB)),
        ]
    return [
        allowed,
        Limit("cpu.cfs_quota_us", str(quota or -1)),
        Limit("memory.limit_in_bytes", str(memory)),
        Limit("memory.memsw.limit_in_bytes", str(both)),
    ]


def cpus(guest: Guest) -> list[int]:
    """The processors of a guest, spread by vmid. A node may have more cores than this machine."""
    online = sorted(os.sched_getaffinity(0))
    count = min(guest.cores or len(online), len(online))
    return [online[(guest.vmid + n) % len(online)] for n in range(count)]


def present(limit: Limit, v2: bool) -> bool:
    """Whether this kernel knows it; swap is not always counted."""
    return v2 or (ROOT / limit.key.partition(".")[0] / limit.key).exists()


def file(group: str, key: str, v2: bool) -> Path:
    """The file of a key in a cgroup."""
    return ROOT / group / key if v2 else ROOT / key.partition(".")[0] / group / key


def apply(guest: Guest, group: str, v2: bool) -> None:
    """Set the limits of a running guest.

    Raises:
        RuntimeFailed: the kernel refuses, as when more memory is in use.
    """
    wanted = [limit for limit in limits(guest, v2) if present(limit, v2)]
    refused = _write(wanted, group, v2)
    # Version 1 wants memory <= memory and swap at every moment: to grow takes the other order.
    refused = refused and _write(list(reversed(wanted)), group, v2)
    if refused:
        raise RuntimeFailed(
            f"cannot set {refused.key} of container {guest.vmid} to {refused.value}"
        )


def _write(wanted: list[Limit], group: str, v2: bool) -> Limit | None:
    """The first that the kernel refuses."""
    for limit in wanted:
        try:
            file(group, limit.key, v2).write_text(limit.value)
        except OSError:
            return limit
    return None


def processor_seconds(group: str, v2: bool) -> float:
    """Time on processors since it started."""
    if v2:
        return _table(file(group, "cpu.stat", v2))["usage_usec"] / 1e6
    return int(file(group, "cpuacct.usage", v2).read_text()) / 1e9


def memory(group: str, v2: bool) -> tuple[int, int]:
    """Bytes of memory, without cache that the kernel can drop at once, and of swap."""
    stat = _table(file(group, "memory.stat", v2))
    if v2:
        used = int(file(group, "memory.current", v2).read_text()) - stat["inactive_file"]
        swap = file(group, "memory.swap.current", v2)
        return used, int(swap.read_text()) if swap.exists() else 0
    used = int(file(group, "memory.usage_in_bytes", v2).read_text()) - stat["total_inactive_file"]
    return used, stat.get("total_swap", 0)


def _table(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in map(str.split, path.read_text().splitlines())}


def freeze(group: str, v2: bool) -> None:
    """Hold all processes of a guest still; returns when they are.

    Raises:
        RuntimeFailed: one of them cannot be held.
    """
    state = file(group, "cgroup.freeze" if v2 else "freezer.state", v2)
    end = time.monotonic() + PATIENCE
    state.write_text("1" if v2 else "FROZEN")
    while not _frozen(group, v2):
        if time.monotonic() > end:
            thaw(group, v2)
            raise RuntimeFailed(f"processes in {state.parent} cannot be frozen")
        time.sleep(0.005)


def _frozen(group: str, v2: bool) -> bool:
    if v2:
        return bool(_table(file(group, "cgroup.events", v2))["frozen"])
    return file(group, "freezer.state", v2).read_text().strip() == "FROZEN"


def thaw(group: str, v2: bool) -> None:
    """Let them go on."""
    file(group, "cgroup.freeze" if v2 else "freezer.state", v2).write_text("0" if v2 else "THAWED")


def make(group: str) -> None:
    """Make it in every hierarchy. LXC does so too, but of guests that start at once one may find it
    half made by another, and fails."""
    for top in (ROOT, *(path for path in ROOT.iterdir() if path.is_dir())):
        if not (top / "cgroup.procs").exists():
            continue
        (top / group).mkdir(exist_ok=True)
        for key in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1
            if (top / "tasks").exists() and (top / key).exists():
                (top / group / key).write_text((top / key).read_text())


def groups(group: str) -> Iterator[Path]:
    """Its folders in every hierarchy."""
    for top in (ROOT, *(path for path in ROOT.iterdir() if path.is_dir() and path.name != group)):
        if (top / group / "cgroup.procs").exists():
            yield top / group


def settle(group: str) -> None:
    """Wait until it is gone, and take it away when nobody does: a guest that stopped a moment ago
    may still have it, and LXC starts none whose group is there.

    Raises:
        RuntimeFailed: processes in it do not end.
    """
    end = time.monotonic() + GRACE
    while any(groups(group)) and time.monotonic() < end:
        time.sleep(0.01)
    clear(group)


def clear(group: str) -> None:
    """Kill all that runs in it and remove it, with what is below it.

    Raises:
        RuntimeFailed: processes in it do not end.
    """
    end = time.monotonic() + PATIENCE
    for top in groups(group):
        while not _removed(top):
            if time.monotonic() > end:
                raise RuntimeFailed(f"processes in {top} do not end")
            time.sleep(0.02)


def _removed(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            for pid in Path(folder, "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            Path(folder).rmdir()
        except OSError:
            continue
    return not top.exists()
