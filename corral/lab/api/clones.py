"""Clones, templates, and moves to another node.

A clone holds the lock `disk` on its source and `create` on its target until its task ends; a
second clone of one source is refused meanwhile. It copies everything but MACs, snapshots, and the
flag of a template. A template is made by a task that the answer does not name.
"""

from __future__ import annotations

import copy
from typing import Any

from corral.lab.access import Actor
from corral.lab.answers import Refused, forbidden
from corral.lab.api import Call, call
from corral.lab.api.config import NETWORK, demand_bridge
from corral.lab.cluster import Cluster, Container
from corral.lab.formats import parse_properties, print_properties
from corral.lab.guests import guest_of, normal_network
from corral.lab.runtime import RuntimeFailed
from corral.lab.tasks import Task
from corral.lab.volumes import (
    LINKED,
    based,
    disk,
    drop,
    fresh,
    is_bind,
    made,
    of_config,
    room,
    storage,
)

PATH = "/nodes/{node}/lxc/{vmid}"
RESTART_SECONDS = 180  # that a container has to stop before it moves
NOT_COPIED = frozenset({"template", "lock", "parent", "snaptime", "unused0"})


@call("POST", f"{PATH}/clone")
def clone(asked: Call) -> str:
    """A new container from another: linked if that is a template, full otherwise."""
    cluster, pool = asked.cluster, asked.get("pool")
    if pool is not None and pool not in cluster.kept.pools:
        raise forbidden(f"pool '{pool}' does not exist")
    if "storage" in asked.params:
        storage(cluster, asked["storage"])
    target_node = asked.get("target", asked.node)
    if target_node not in cluster.settings.names:
        raise Refused(f"no such cluster node '{target_node}'")
    source = cluster.set_lock(asked.node, asked.vmid, "disk")
    target = Container(asked["newid"], asked.node, {"lock": "create"})
    try:
        cluster.add(target)
    except Refused:
        cluster.unset_lock(source)
        raise
    try:
        config, mounts, full = _planned(asked, source, target_node)
    except Refused:
        cluster.forget_container(target)
        cluster.unset_lock(source)
        raise
    target.config = config
    target.firewall = copy.deepcopy(source.firewall)
    cluster.save_container(target)

    def work(task: Task) -> None:
        task.log(f"creating a clone of container {source.vmid} with ID {target.vmid}")
        try:
            _copy_disks(asked, task, target, mounts, full)
            if pool is not None:
                cluster.join_pool(pool, target.vmid)
        except (Refused, RuntimeFailed) as error:
            for volume in list(target.volumes):
                drop(cluster, target, volume)
            cluster.forget_container(target)
            cluster.unset_lock(source)
            raise Refused(f"clone failed: {error}") from None
        target.node = target_node
        cluster.unset_lock(target)
        cluster.unset_lock(source)

    return cluster.tasks.start(asked.node, "vzclone", source.vmid, asked.actor, work)


def _planned(
    asked: Call, source: Container, target_node: str
) -> tuple[dict[str, Any], dict[str, str], bool]:
    """The new config without its disks, the disks to copy, and whether in full.

    Raises:
        Refused: it cannot or may not be cloned like this.
    """
    cluster, name = asked.cluster, asked.get("snapname")
    full = bool(asked.get("full", 0 if source.is_template else 1))
    if name is not None and name not in source.snapshots:
        raise Refused(f"snapshot '{name}' does not exist")
    if name is not None:
        raise Refused(f"unable to clone from snapshot '{name}' in the lab: clone the present state")
    if full and cluster.runs(source.vmid):
        raise Refused("Full clone of a running container is only possible from a snapshot")
    config = source.config
    mounts = dict(of_config(config))
    kept = {
        key: value
        for key, value in list(config.items())
        if key not in NOT_COPIED and key not in mounts and key != "description"
    }
    for key, volume in mounts.items():
        _check_mount(asked, key, volume, full, target_node)
    for key, value in kept.items():
        if NETWORK.fullmatch(key):
            demand_bridge(asked, value)
            kept[key] = normal_network(str(value), fresh=True)
    for volume in mounts.values():
        on = asked.get("storage", volume.partition(":")[0])
        asked.demand(f"/storage/{on}", "Datastore.AllocateSpace")
    if "description" in config or "description" in asked.params:
        kept["description"] = asked.get("description", config.get("description", ""))
    if "hostname" in asked.params:
        kept["hostname"] = asked["hostname"]
    return {**kept, "lock": "create"}, mounts, full


def _check_mount(asked: Call, key: str, volume: str, full: bool, target_node: str) -> None:
    if is_bind(volume):
        raise Refused(f"unable to clone mountpoint '{key}' (type bind)")
    config = storage(asked.cluster, volume.partition(":")[0])
    if target_node != asked.node and not config.get("shared"):
        raise Refused(f"can't clone CT to node '{target_node}' (CT uses local storage)")
    if full:
        return
    if "storage" in asked.params:
        raise Refused("parameter 'storage' not allowed for linked clones")
    if config["type"] not in LINKED:
        raise Refused(f"Linked clone feature for '{volume}' is not available")


def _copy_disks(
    asked: Call, task: Task, target: Container, mounts: dict[str, str], full: bool
) -> None:
    cluster = asked.cluster
    source = cluster.container(asked.node, asked.vmid)
    for key, volume in mounts.items():
        on = asked.get("storage", volume.partition(":")[0])
        copied = fresh(cluster, target, on)
        if full:
            task.log(f"create full clone of mountpoint {key} ({volume})")
        else:
            task.log(f"create linked clone of mount point {key} ({volume})")
        room(cluster, task, on)
        if volume in source.unmade:
            target.unmade.append(copied)
        else:
            cluster.runtime.clone(disk(volume), disk(copied), full, task.log)
        made(cluster, target, copied)
        task.log(f'  Logical volume "{disk(copied)}" created.')
        value = asked.cluster.container(asked.node, asked.vmid).config[key]
        parts = parse_properties(str(value), "volume")
        target.config[key] = print_properties({**parts, "volume": copied}, "volume", bare=True)


@call("POST", f"{PATH}/template")
def template(asked: Call) -> None:
    """Make a template of a container. The answer comes at once, and names no task."""
    cluster = asked.cluster
    with cluster.config_lock(asked.vmid):
        guest = asked.container.unlocked()
        if guest.snapshots:
            raise Refused("unable to create template, because CT contains snapshots")
        if guest.is_template:
            raise Refused("you can't convert a template to a template")
        if cluster.runs(guest.vmid):
            raise Refused("you can't convert a CT to template if the CT is running")

    def work(task: Task) -> None:
        with cluster.config_lock(guest.vmid):
            task.point()
            for key, volume in list(of_config(guest.config)):
                _base(cluster, guest, key, volume)
            guest.config["template"] = 1
            cluster.save_container(guest)

    cluster.tasks.start(asked.node, "vztemplate", guest.vmid, asked.actor, work)


def _base(cluster: Cluster, guest: Container, key: str, volume: str) -> None:
    if is_bind(volume):
        return
    new = based(volume)
    if volume in guest.unmade:
        guest.unmade[guest.unmade.index(volume)] = new
    else:
        cluster.runtime.rename(disk(volume), disk(new))
    guest.volumes[new] = guest.volumes.pop(volume)
    parts = parse_properties(str(guest.config[key]), "volume")
    guest.config[key] = print_properties({**parts, "volume": new}, "volume", bare=True)


@call("GET", f"{PATH}/migrate")
def preconditions(asked: Call) -> dict[str, Any]:
    """Where a container could go."""
    guest = asked.container
    others = [node for node in asked.cluster.settings.names if node != asked.node]
    return {
        "running": int(asked.cluster.runs(guest.vmid)),
        "allowed-nodes": [node for node in others if asked.cluster.is_up(node)],
        "not-allowed-nodes": {},
        "local-resources": [],
    }


@call("POST", f"{PATH}/migrate")
def migrate(asked: Call) -> str:
    """Move a container to another node; a running one only by a restart."""
    restart, timeout = bool(asked.get("restart")), asked.get("timeout", RESTART_SECONDS)
    return move(asked.cluster, asked.actor, asked.container, asked["target"], restart, timeout)


def move(
    cluster: Cluster, actor: Actor, guest: Container, target: str, restart: bool, timeout: int
) -> str:
    """Begin the move of a container; returns the task."""
    node = guest.node
    if target not in cluster.settings.names:
        raise Refused(f"no such cluster node '{target}'")
    if target == node:
        raise Refused("target is local node.")
    if not cluster.is_up(target):
        raise Refused(f"target node '{target}' is offline")
    runs = cluster.runs(guest.vmid)
    if runs and not restart:
        raise Refused("running container can only be migrated in restart mode")
    guest.unlocked()

    def work(task: Task) -> None:
        cluster.set_lock(node, guest.vmid, "migrate")
        try:
            task.log(f"starting migration of CT {guest.vmid} to node '{target}' (127.0.0.1)")
            if runs and not cluster.runtime.shutdown(guest.vmid, timeout):
                raise Refused(f"CT {guest.vmid} did not stop within {timeout} seconds")
            task.point()
            _refuse_linked(cluster, guest)
        except (Refused, RuntimeFailed):
            cluster.unset_lock(guest)
            if runs and not cluster.runs(guest.vmid):
                cluster.runtime.start(guest_of(guest), task.log)
            raise
        guest.node = target
        cluster.unset_lock(guest)
        if runs:
            task.log("start container on target node")
            cluster.runtime.start(guest_of(guest), task.log)
        task.log("migration finished successfully")

    return cluster.tasks.start(node, "vzmigrate", guest.vmid, actor, work)


def _refuse_linked(cluster: Cluster, guest: Container) -> None:
    """A template that others are layers over stays where they are."""
    for _, volume in of_config(guest.config):
        made = not is_bind(volume) and volume not in guest.unmade
        if made and cluster.runtime.children(disk(volume)):
            raise Refused(f"can't migrate local disk '{volume}': there are linked clones of it")


@call("GET", f"{PATH}/feature")
def feature(asked: Call) -> dict[str, int]:
    """Whether the storages of a container can do something."""
    types = {
        storage(asked.cluster, volume.partition(":")[0])["type"]
        for _, volume in of_config(asked.container.config)
        if not is_bind(volume)
    }
    able = asked["feature"] == "copy" or types <= LINKED
    return {"hasFeature": int(able)}
