"""Storages: their config, and how full they are. What they hold is in `content`."""

from __future__ import annotations

import shutil
from typing import Any

from corral.lab.answers import Refused
from corral.lab.api import Call, call, index
from corral.lab.cluster import Cluster, digest
from corral.lab.formats import split_list
from corral.lab.settings import GIB
from corral.lab.volumes import disk, storage

PATH = "/nodes/{node}/storage"
ONE = f"{PATH}/{{storage}}"
SEE = ("Datastore.Audit", "Datastore.AllocateSpace")


# --- config ----------------------------------------------------------------------------------


@call("GET", "/storage")
def configs(asked: Call) -> list[dict[str, Any]]:
    """The config of those that the actor may see."""
    kept = asked.cluster.kept.storages
    return [
        {"storage": name, "digest": digest(kept), **config}
        for name, config in kept.items()
        if asked.may(f"/storage/{name}", *SEE) and asked.get("type") in (None, config["type"])
    ]


@call("POST", "/storage")
def create_config(asked: Call) -> dict[str, str]:
    """A new storage."""
    cluster, name = asked.cluster, asked["storage"]
    if name in cluster.kept.storages:
        raise Refused(f"create storage failed: storage ID '{name}' already defined")
    config = {key: value for key, value in asked.params.items() if key != "storage"}
    cluster.kept.storages[name] = config
    cluster.save()
    return {"storage": name, "type": config["type"]}


@call("GET", "/storage/{storage}")
def read_config(asked: Call) -> dict[str, Any]:
    """One config."""
    kept = asked.cluster.kept.storages
    config = storage(asked.cluster, asked["storage"])
    return {"storage": asked["storage"], "digest": digest(kept), **config}


@call("PUT", "/storage/{storage}")
def change_config(asked: Call) -> dict[str, str]:
    """Change a config."""
    config = storage(asked.cluster, asked["storage"])
    for key in split_list(asked.get("delete", "")):
        config.pop(key, None)
    config.update(
        {
            key: value
            for key, value in asked.params.items()
            if key not in ("storage", "delete", "digest")
        }
    )
    asked.cluster.save()
    return {"storage": asked["storage"], "type": config["type"]}


@call("DELETE", "/storage/{storage}")
def delete_config(asked: Call) -> None:
    """Forget a storage; what it holds stays."""
    storage(asked.cluster, asked["storage"])
    del asked.cluster.kept.storages[asked["storage"]]
    asked.cluster.save()


# --- how full --------------------------------------------------------------------------------


def usage_of(cluster: Cluster, node: str, name: str) -> dict[str, int]:
    """Bytes of a storage: in all, used, and left."""
    if cluster.kept.storages[name]["type"] == "dir":
        space = shutil.disk_usage(cluster.folder)
        total, used = space.total, space.used
    else:
        total = cluster.settings.disk_gb * GIB
        used = sum(
            cluster.runtime.size(disk(volume))
            for guest in list(cluster.containers.values())
            if guest.node == node
            for volume in list(guest.volumes)
            if volume.startswith(f"{name}:") and volume not in guest.unmade
        )
    if cluster.faults.is_full(node, name):
        used = total
    return {"total": total, "used": used, "avail": total - used}


@call("GET", PATH)
def storages(asked: Call) -> list[dict[str, Any]]:
    """The storages of a node that the actor may see."""
    wanted = set(split_list(asked.get("content", "")))
    found = []
    for name, config in list(asked.cluster.kept.storages.items()):
        held = set(split_list(config.get("content", "")))
        meant = asked.get("storage", name) == name and (not wanted or wanted & held)
        if meant and asked.may(f"/storage/{name}", *SEE):
            status = _status(asked, name)
            part = status["used"] / status["total"]
            found.append({"storage": name, **status, "used_fraction": part})
    return found


def _status(asked: Call, name: str) -> dict[str, Any]:
    config = storage(asked.cluster, name)
    return {
        "type": config["type"],
        "content": config.get("content", ""),
        "active": 1,
        "enabled": int(not config.get("disable")),
        "shared": int(config.get("shared", 0)),
        **usage_of(asked.cluster, asked.node, name),
    }


index(
    ONE,
    *("content", "download-url", "file-restore", "prunebackups", "rrd", "rrddata", "status"),
    *("upload",),
    key="subdir",
)


@call("GET", f"{ONE}/status")
def status(asked: Call) -> dict[str, Any]:
    """How full one is."""
    return _status(asked, asked["storage"])
