"""Snapshots: take one, go back to one, forget one. What is wrong with a name, the task finds."""

from __future__ import annotations

import copy
import time
from typing import Any

from corral.lab.answers import Refused
from corral.lab.api import Call, call, index
from corral.lab.api.config import shown
from corral.lab.cluster import Cluster, Container
from corral.lab.guests import guest_of
from corral.lab.runtime import RuntimeFailed
from corral.lab.tasks import Task
from corral.lab.volumes import disk, is_bind, of_config, room

PATH = "/nodes/{node}/lxc/{vmid}/snapshot"
ONE = f"{PATH}/{{snapname}}"
OF_SNAPSHOT = frozenset({"snaptime", "parent", "lock", "description"})


@call("GET", PATH)
def snapshots(asked: Call) -> list[dict[str, Any]]:
    """All of them, and the present as `current`."""
    guest = asked.container
    found = [
        {"name": name, **_about(config, "snaptime", "parent"), **_description(config)}
        for name, config in guest.snapshots.items()
    ]
    present = {
        "name": "current",
        "description": "You are here!",
        "digest": guest.digest(),
        "running": int(asked.cluster.runs(guest.vmid)),
        **_about(guest.config, "parent"),
    }
    return [*found, present]


def _about(config: Any, *keys: str) -> dict[str, Any]:
    return {key: config[key] for key in keys if key in config}


def _description(config: Any) -> dict[str, str]:
    return {"description": f"{config['description']}\n"} if config.get("description") else {}


@call("POST", PATH)
def take(asked: Call) -> str:
    """Keep the present state under a name."""
    cluster, name = asked.cluster, asked["snapname"]
    if name in ("current", "pending"):
        raise Refused(f"unable to use snapshot name '{name}' (reserved name)")
    if name == "vzdump":
        raise Refused("unable to use snapshot name 'vzdump' (reserved name)")

    def work(task: Task) -> None:
        with cluster.config_lock(asked.vmid):
            guest = asked.container.unlocked()
            if guest.is_template:
                raise Refused("you can't take a snapshot if it's a template")
            if name in guest.snapshots:
                raise Refused(f"snapshot name '{name}' already used")
            cluster.set_lock(asked.node, asked.vmid, "snapshot")
        try:
            for volume in _disks(guest):
                room(cluster, task, volume.partition(":")[0])
                cluster.runtime.snapshot(disk(volume), name)
                task.log(f'  Logical volume "snap_{disk(volume)}_{name}" created.')
        except (Refused, RuntimeFailed):
            cluster.unset_lock(guest)
            raise
        kept = {key: value for key, value in guest.config.items() if key != "lock"}
        kept.pop("description", None)
        if "description" in asked.params:
            kept["description"] = asked["description"]
        guest.snapshots[name] = {**kept, "snaptime": int(time.time())}
        guest.config["parent"] = name
        cluster.unset_lock(guest)

    return cluster.tasks.start(asked.node, "vzsnapshot", asked.vmid, asked.actor, work)


def _disks(guest: Container) -> list[str]:
    return [
        volume
        for key, volume in of_config(guest.config)
        if not is_bind(volume) and volume not in guest.unmade and not key.startswith("unused")
    ]


def _known(guest: Container, name: str) -> Any:
    if name not in guest.snapshots:
        raise Refused(f"snapshot '{name}' does not exist")
    return guest.snapshots[name]


index(ONE, "config", "rollback", key="cmd")


@call("GET", f"{ONE}/config")
def read(asked: Call) -> dict[str, Any]:
    """The config at that time."""
    return shown(_known(asked.container, asked["snapname"]))


@call("PUT", f"{ONE}/config")
def describe(asked: Call) -> None:
    """Change the description."""
    with asked.cluster.config_lock(asked.vmid):
        guest = asked.container.unlocked()
        config = _known(guest, asked["snapname"])
        if "description" in asked.params:
            config["description"] = asked["description"]
        asked.cluster.save_container(guest)


@call("POST", f"{ONE}/rollback")
def roll_back(asked: Call) -> str:
    """Make config and disks what they were; a running container is stopped."""
    cluster, name = asked.cluster, asked["snapname"]

    def work(task: Task) -> None:
        with cluster.config_lock(asked.vmid):
            guest = asked.container.unlocked()
            config = copy.deepcopy(_known(guest, name))
            if cluster.runs(guest.vmid):
                cluster.runtime.stop(guest.vmid)
            for volume in _disks(guest):
                room(cluster, task, volume.partition(":")[0])
                cluster.runtime.rollback(disk(volume), name)
            told = {key: guest.config[key] for key in ("description",) if key in guest.config}
            kept = {key: value for key, value in config.items() if key not in OF_SNAPSHOT}
            guest.config = {**kept, **told, "parent": name}
            guest.pending.clear()
            cluster.save_container(guest)
            if asked.get("start"):
                cluster.runtime.start(guest_of(guest), task.log)

    return cluster.tasks.start(asked.node, "vzrollback", asked.vmid, asked.actor, work)


@call("DELETE", ONE)
def forget(asked: Call) -> str:
    """Remove one."""
    cluster, name = asked.cluster, asked["snapname"]

    def work(task: Task) -> None:
        with cluster.config_lock(asked.vmid):
            guest = asked.container.unlocked()
            _known(guest, name)
            for volume in _disks(guest):
                room(cluster, task, volume.partition(":")[0])
                cluster.runtime.delete_snapshot(disk(volume), name)
                task.log(f'  Logical volume "snap_{disk(volume)}_{name}" successfully removed.')
            _unlink(cluster, guest, name)

    return cluster.tasks.start(asked.node, "vzdelsnapshot", asked.vmid, asked.actor, work)


def _unlink(cluster: Cluster, guest: Container, name: str) -> None:
    """Whoever came from it comes from its own parent now."""
    above = guest.snapshots.pop(name).get("parent")
    for config in [guest.config, *guest.snapshots.values()]:
        if config.get("parent") == name:
            del config["parent"]
            if above is not None:
                config["parent"] = above
    cluster.save_container(guest)
