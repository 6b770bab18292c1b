"""Storages: their config, how full they are, what they hold, and what is put there."""

from __future__ import annotations

import shutil

from corral.lab.cluster import Cluster
from corral.lab.settings import GIB


def usage_of(cluster: Cluster, node: str, name: str) -> dict[str, int]:
    """Bytes of a storage: in all, used, and left."""
    if cluster.kept.storages[name]["type"] == "dir":
        space = shutil.disk_usage(cluster.folder)
        total, used = space.total, space.used
    else:
        total = cluster.settings.disk_gb * GIB
        used = sum(
            cluster.runtime.size(volume.partition(":")[2])
            for guest in list(cluster.containers.values())
            if guest.node == node
            for volume in list(guest.volumes)
            if volume.startswith(f"{name}:") and volume not in guest.unmade
        )
    if cluster.faults.is_full(node, name):
        used = total
    return {"total": total, "used": used, "avail": total - used}
