"""Volumes: how a config names them, and what is done to them on a storage.

`local-lvm:vm-101-disk-0` and `ctdir:101/vm-101-disk-0.raw` are both known to the runtime by the
name of the disk alone. Every operation here is one of a task, and where a slow or full storage is
felt.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corral.lab.answers import Refused
from corral.lab.cluster import Cluster, Config, Container
from corral.lab.formats import parse_properties
from corral.lab.tasks import Task

LINKED = frozenset({"lvmthin", "zfspool", "rbd", "btrfs"})  # types with linked clones
DISKS = re.compile(r"rootfs|mp\d+|unused\d+")
FOLDERS = {"vztmpl": "template/cache", "backup": "dump", "iso": "template/iso"}


def storage(cluster: Cluster, name: str) -> dict[str, Any]:
    """A storage's config.

    Raises:
        Refused: there is none of that name.
    """
    if name not in cluster.kept.storages:
        raise Refused(f"storage '{name}' does not exist")
    return cluster.kept.storages[name]


def of_config(config: Config) -> Iterator[tuple[str, str]]:
    """The disks of a config: key, and volume id (or the path of a bind mount)."""
    for key, value in list(config.items()):
        if DISKS.fullmatch(key):
            yield key, parse_properties(str(value), "volume")["volume"]


def is_bind(volume: str) -> bool:
    """Whether it is a folder or device of the host."""
    return volume.startswith("/")


def disk(volume: str) -> str:
    """The name by which the runtime knows a volume."""
    return volume.rpartition(":")[2].rpartition("/")[2].removesuffix(".raw")


def fresh(cluster: Cluster, guest: Container, on: str) -> str:
    """An id that no volume of this container has."""
    taken = {disk(volume) for volume in guest.volumes}
    number = next(n for n in range(1000) if f"vm-{guest.vmid}-disk-{n}" not in taken)
    name = f"vm-{guest.vmid}-disk-{number}"
    if storage(cluster, on)["type"] == "dir":
        return f"{on}:{guest.vmid}/{name}.raw"
    return f"{on}:{name}"


def based(volume: str) -> str:
    """What a volume is called in a template."""
    return re.sub(r"\bvm-(\d+-disk-\d+)", r"base-\1", volume)


def folder(cluster: Cluster, node: str, name: str, content: str) -> Path:
    """Where a storage keeps templates or backups."""
    path = cluster.folder / "nodes" / node / name / FOLDERS[content]
    path.mkdir(parents=True, exist_ok=True)
    return path


def file_of(cluster: Cluster, node: str, volume: str) -> Path:
    """The file behind `local:vztmpl/debian.tar.zst`; it need not exist."""
    name, _, rest = volume.partition(":")
    content, _, file = rest.partition("/")
    if content not in FOLDERS or "/" in file or not file:
        raise Refused(f"unable to parse directory volume name '{rest}'")
    return folder(cluster, node, name, content) / file


def room(cluster: Cluster, task: Task, on: str) -> None:
    """Before something is written: a slow storage delays, a full one fails.

    Raises:
        Refused: it is full.
    """
    task.point(cluster.faults.delay(task.node, on))
    if cluster.faults.is_full(task.node, on):
        pool = storage(cluster, on)
        if pool["type"] == "lvmthin":
            raise Refused(
                f"lvcreate '{pool['vgname']}/{pool['thinpool']}' error:   Cannot create new thin "
                f"volume, free space in thin pool {pool['vgname']}/{pool['thinpool']} reached "
                "threshold."
            )
        raise Refused(f"unable to write to storage '{on}': No space left on device")


def made(cluster: Cluster, guest: Container, volume: str) -> None:
    """Note that a volume of a container exists now."""
    guest.volumes[volume] = int(time.time())
    cluster.save_container(guest)


def drop(cluster: Cluster, guest: Container, volume: str) -> None:
    """Delete a volume of a container."""
    if guest.volumes.pop(volume, None) is not None:
        if volume not in guest.unmade:
            cluster.runtime.delete(disk(volume))
        cluster.save_container(guest)
