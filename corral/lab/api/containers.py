"""Containers: list them, create one from a template or a backup, delete one, see its network."""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Any

from corral.lab import status
from corral.lab.answers import Refused, forbidden, invalid
from corral.lab.api import Call, call
from corral.lab.api.backup import restored
from corral.lab.api.config import NETWORK, demand_change
from corral.lab.api.power import start
from corral.lab.cluster import Container
from corral.lab.formats import (
    normal_tags,
    parse_properties,
    print_properties,
    print_size,
    split_list,
)
from corral.lab.guests import normal_network
from corral.lab.runtime import RuntimeFailed
from corral.lab.settings import GIB
from corral.lab.tasks import Task
from corral.lab.volumes import disk, drop, file_of, fresh, is_bind, made, room, storage

PATH = "/nodes/{node}/lxc"
BELOW = split_list(
    """
    config pending status vncproxy termproxy vncwebsocket spiceproxy migrate clone rrd
    rrddata firewall snapshot resize interfaces
    """
)
DEFAULT_SIZE = 4  # GiB of a root whose size is not told
NOT_KEPT = frozenset(
    split_list("""
    bwlimit force ha-managed ignore-unpack-errors node ostemplate password pool restore
    ssh-public-keys start storage unique vmid rootfs
    """)
)
KEY = re.compile(r"(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-\S+|sk-\S+) ([A-Za-z0-9+/]+=*)(?: .*)?")


@call("GET", PATH)
def containers(asked: Call) -> list[dict[str, Any]]:
    """Those of a node that the actor may see, as they are now."""
    cluster = asked.cluster
    usage = cluster.usage()
    return [
        status.of_container(cluster, guest, usage.get(vmid))
        for vmid, guest in sorted(cluster.containers.items())
        if guest.node == asked.node and asked.may(f"/vms/{vmid}", "VM.Audit")
    ]


@call("GET", f"{PATH}/{{vmid}}")
def index(asked: Call) -> list[dict[str, str]]:
    """What there is of a container."""
    assert asked.container
    return [{"subdir": name} for name in BELOW]


@call("GET", f"{PATH}/{{vmid}}/status/current")
def current(asked: Call) -> dict[str, Any]:
    """How it does."""
    guest = asked.container
    shown = status.of_container(asked.cluster, guest, asked.cluster.usage().get(guest.vmid))
    managed = asked.cluster.kept.ha.get(f"ct:{guest.vmid}")
    return shown | {"ha": {"managed": 1, **managed} if managed else {"managed": 0}}


@call("GET", f"{PATH}/{{vmid}}/interfaces")
def interfaces(asked: Call) -> list[dict[str, Any]] | None:
    """Its network cards with their addresses; nothing while it does not run."""
    if not asked.cluster.runs(asked.vmid):
        return None
    try:
        found = asked.cluster.runtime.addresses(asked.vmid)
    except RuntimeFailed:
        return None  # it has stopped meanwhile
    cards = {
        card["name"]: card["hwaddr"].lower()
        for key, value in list(asked.container.config.items())
        if NETWORK.fullmatch(key) and "hwaddr" in (card := parse_properties(str(value)))
    }
    return [
        _interface(name, cards.get(name, "00:00:00:00:00:00"), addresses)
        for name, addresses in found.items()
    ]


def _interface(name: str, hwaddr: str, addresses: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": name, "hwaddr": hwaddr, "hardware-address": hwaddr}
    listed = []
    for address in addresses:
        kind = "inet" if ipaddress.ip_interface(address).version == 4 else "inet6"
        shown.setdefault(kind, address)
        plain, _, prefix = address.partition("/")
        listed.append({"ip-address": plain, "prefix": prefix, "ip-address-type": kind})
    return shown | {"ip-addresses": listed}


# --- create ----------------------------------------------------------------------------------


@call("POST", PATH)
def create(asked: Call) -> str:
    """A new container from a template, or one from a backup."""
    cluster, vmid, pool = asked.cluster, asked.vmid, asked.get("pool")
    restore = bool(asked.get("restore"))
    if pool is not None and pool not in cluster.kept.pools:
        raise forbidden(f"pool '{pool}' does not exist")
    _demand_create(asked, pool, restore)
    on, size = _root(asked)
    config = {key: value for key, value in asked.params.items() if key not in NOT_KEPT}
    demand_change(asked, {}, sorted(config), config, f"/pool/{pool}" if pool else None)
    asked.demand(f"/storage/{on}", "Datastore.AllocateSpace")
    if "rootdir" not in storage(cluster, on)["content"]:
        raise invalid({"storage": f"storage '{on}' does not support container directories"})
    _check_keys(asked.get("ssh-public-keys", ""))
    archive = _archive(asked, restore)
    guest = _reserved(asked, restore)
    begin = _restorer if restore else _creator
    work = begin(asked, guest, config, on, size, archive)
    return cluster.tasks.start(
        asked.node, "vzrestore" if restore else "vzcreate", vmid, asked.actor, work
    )


def _demand_create(asked: Call, pool: str | None, restore: bool) -> None:
    vmid = asked.vmid
    if asked.may(f"/vms/{vmid}", "VM.Allocate"):
        return
    if pool is not None and asked.may(f"/pool/{pool}", "VM.Allocate"):
        return
    there = vmid in asked.cluster.containers
    if restore and there and asked.get("force") and asked.may(f"/vms/{vmid}", "VM.Backup"):
        return
    raise forbidden()


def _root(asked: Call) -> tuple[str, int]:
    """On which storage, and of how many bytes."""
    parts = parse_properties(asked.get("rootfs", ""), "volume")
    name, _, size = parts.get("volume", "").partition(":")
    on = name or asked.get("storage", "local")
    storage(asked.cluster, on)
    gib = float(size) if re.fullmatch(r"\d+(\.\d+)?", size) else DEFAULT_SIZE
    return on, int(gib * GIB)


def _check_keys(keys: str) -> None:
    for line in keys.splitlines():
        found = KEY.fullmatch(line.strip())
        if line.strip() and not line.startswith("#") and found is None:
            raise Refused("SSH public key validation error")
        if found is not None:
            base64.b64decode(found[1])


def _archive(asked: Call, restore: bool) -> str:
    volume = str(asked["ostemplate"])
    name, colon, rest = volume.partition(":")
    if not colon:
        raise Refused(
            "Only root can pass arbitrary filesystem paths. "
            "at /usr/share/perl5/PVE/Storage.pm line 651."
        )
    storage(asked.cluster, name)
    wanted = "backup" if restore else "vztmpl"
    if rest.partition("/")[0] != wanted:
        raise Refused(f"unable to use volume {volume} - content type needs to be '{wanted}'")
    return volume


def _reserved(asked: Call, restore: bool) -> Container:
    """The container's config with a lock in it; for a restore over one, that one."""
    cluster = asked.cluster
    old = cluster.containers.get(asked.vmid)
    if restore and old is not None and old.node == asked.node and asked.get("force"):
        if cluster.runs(old.vmid):
            raise Refused("can't overwrite running container")
        if old.config.get("protection"):
            raise Refused(f"can't remove CT {old.vmid} - protection mode enabled")
        return cluster.set_lock(asked.node, asked.vmid, "create")
    guest = Container(asked.vmid, asked.node, {"lock": "create"})
    cluster.add(guest)
    return guest


def _creator(
    asked: Call, guest: Container, config: dict[str, Any], on: str, size: int, archive: str
) -> Any:
    cluster = asked.cluster
    file = file_of(cluster, asked.node, archive)

    def work(task: Task) -> None:
        try:
            with cluster.config_lock(guest.vmid):
                volume = _unpacked(asked, task, guest, on, file, archive)
                root = {"volume": volume, "size": print_size(size)}
                guest.config = _complete(config)
                guest.keys = asked.get("ssh-public-keys", "")
                guest.config["rootfs"] = print_properties(root, "volume", bare=True)
                cluster.save_container(guest)
        except (Refused, RuntimeFailed) as error:
            _undo(asked, guest)
            raise Refused(f"unable to create CT {guest.vmid} - {error}") from None
        _finish(asked, guest)

    return work


def _unpacked(asked: Call, task: Task, guest: Container, on: str, file: Any, archive: str) -> str:
    cluster = asked.cluster
    volume = fresh(cluster, guest, on)
    room(cluster, task, on)
    if not file.is_file():
        task.log(f"volume '{archive}' does not exist")
        raise Refused(f"volume '{archive}' does not exist")
    cluster.runtime.create(disk(volume), file, task.log)
    made(cluster, guest, volume)
    return volume


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, with what is set for every container."""
    full = {"arch": "amd64", "ostype": "debian", "memory": 512, "swap": 512, **config}
    for key, value in full.items():
        if NETWORK.fullmatch(key):
            full[key] = normal_network(value)
    if "tags" in full:
        full["tags"] = normal_tags(full["tags"])
    return full


def _restorer(
    asked: Call, guest: Container, config: dict[str, Any], on: str, size: int, archive: str
) -> Any:
    cluster = asked.cluster
    file = file_of(cluster, asked.node, archive)
    old = {key: value for key, value in guest.config.items() if key != "lock"}
    was = list(guest.volumes)
    guest.config = {"lock": "create"}
    cluster.save_container(guest)

    def work(task: Task) -> None:
        try:
            with cluster.config_lock(guest.vmid):
                if not file.is_file():
                    raise Refused(f"volume '{archive}' does not exist")
                task.log(f"recovering backed-up configuration from '{archive}'")
                kept = restored(file)
                volume = _unpacked(asked, task, guest, on, file, archive)
                root = parse_properties(str(kept.config.get("rootfs", "")), "volume")
                guest.config = {**kept.config, **config}
                guest.config["rootfs"] = print_properties(
                    {**root, "volume": volume}, "volume", bare=True
                )
                guest.firewall = kept.firewall
                if asked.get("unique"):
                    for key, value in list(guest.config.items()):
                        if NETWORK.fullmatch(key):
                            guest.config[key] = normal_network(str(value), fresh=True)
                guest.snapshots, guest.pending = {}, {}
                for other in was:
                    drop(cluster, guest, other)
                cluster.save_container(guest)
        except (Refused, RuntimeFailed) as error:
            if was:
                guest.config = old
                cluster.save_container(guest)
            else:
                _undo(asked, guest)
            raise Refused(f"unable to restore CT {guest.vmid} - {error}") from None
        _finish(asked, guest)

    return work


def _undo(asked: Call, guest: Container) -> None:
    for volume in list(guest.volumes):
        drop(asked.cluster, guest, volume)
    asked.cluster.forget_container(guest)


def _finish(asked: Call, guest: Container) -> None:
    cluster, pool = asked.cluster, asked.get("pool")
    if pool is not None and pool in cluster.kept.pools and not cluster.pool_of(guest.vmid):
        cluster.join_pool(pool, guest.vmid)
    if asked.get("ha-managed"):
        cluster.kept.ha[f"ct:{guest.vmid}"] = {"state": "stopped"}
        cluster.save()
    if asked.get("start"):
        start(cluster, asked.actor, guest)


# --- delete ----------------------------------------------------------------------------------


@call("DELETE", f"{PATH}/{{vmid}}")
def destroy(asked: Call) -> str:
    """Remove a container with its volumes."""
    cluster, guest = asked.cluster, asked.container
    force, purge = bool(asked.get("force")), bool(asked.get("purge"))
    _may_go(asked, guest, force, purge)

    def work(task: Task) -> None:
        with cluster.config_lock(guest.vmid):
            cluster.container(guest.node, guest.vmid).unlocked()
            if cluster.runs(guest.vmid):
                if not force:
                    raise Refused(f"unable to destroy CT {guest.vmid} - container is running")
                cluster.runtime.stop(guest.vmid)
            task.point()
            for volume in list(guest.volumes):
                task.point(cluster.faults.delay(task.node, volume.partition(":")[0]))
                drop(cluster, guest, volume)
                if not is_bind(volume):
                    name = disk(volume)
                    task.log(f'  Logical volume "{name}" successfully removed.')
            if purge:
                task.log(f"purging CT {guest.vmid} from related configurations..")
                cluster.kept.ha.pop(f"ct:{guest.vmid}", None)
                cluster.save()
            cluster.forget_container(guest)
            cluster.access.forget(f"/vms/{guest.vmid}")

    return cluster.tasks.start(asked.node, "vzdestroy", guest.vmid, asked.actor, work)


def _may_go(asked: Call, guest: Container, force: bool, purge: bool) -> None:
    vmid = guest.vmid
    if guest.config.get("protection"):
        raise Refused(f"can't remove CT {vmid} - protection mode enabled")
    if f"ct:{vmid}" in asked.cluster.kept.ha and not purge:
        raise Refused(
            f"unable to remove CT {vmid} - used in HA resources and purge parameter not set."
        )
    guest.unlocked()
    if asked.cluster.runs(vmid) and not force:
        raise Refused(f"unable to destroy CT {vmid} - container is running")
