"""A container's config: read it, change it, see what is pending, resize a disk.

What an option demands of the actor is a table. A change that cannot be carried out in the running
container is stored all the same, as it is in Proxmox.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from corral.lab.answers import Refused, forbidden, invalid
from corral.lab.api import Call, call
from corral.lab.cluster import Cluster, Config, Container
from corral.lab.formats import (
    normal_tags,
    parse_properties,
    parse_size,
    print_properties,
    print_size,
    split_list,
)
from corral.lab.guests import guest_of, normal_network
from corral.lab.settings import GIB
from corral.lab.tasks import Task
from corral.lab.volumes import fresh, is_bind, made, of_config, room, storage

PATH = "/nodes/{node}/lxc/{vmid}"
CONTROL = frozenset({"node", "vmid", "delete", "digest", "revert"})
NETWORK = re.compile(r"net\d+")
MOUNT = re.compile(r"rootfs|mp\d+")
DEVICE = re.compile(r"dev\d+")
REQUIRED = frozenset({"rootfs", "arch", "ostype"})
READ_ONLY = frozenset({"unprivileged", "arch", "template"})

#: options that take effect at the next start
COLD = frozenset(
    {"cmode", "console", "debug", "entrypoint", "env", "features", "hookscript", "ostype", "tty"}
)

#: option (a pattern) -> the privilege that a change of it demands; the first that fits
DEMANDS = (
    (re.compile(r"cores|cpulimit|cpuunits"), "VM.Config.CPU"),
    (re.compile(r"memory|swap"), "VM.Config.Memory"),
    (re.compile(r"net\d+|nameserver|searchdomain|hostname"), "VM.Config.Network"),
    (re.compile(r"rootfs|mp\d+|unused\d+"), "VM.Config.Disk"),
    (re.compile(r"features|hookscript|dev\d+"), ""),  # see `_special`
    (re.compile(r".*"), "VM.Config.Options"),
)


def demand_change(
    asked: Call, old: Config, options: Iterable[str], new: Config, at: str | None = None
) -> None:
    """Raise 403 unless the actor may set or delete these options.

    `at` is the pool that a new container is for; what the pool allows is then enough.
    """
    path = f"/vms/{asked.vmid}"
    for option in options:
        privilege = next(name for pattern, name in DEMANDS if pattern.fullmatch(option))
        if privilege and not (at and asked.may(at, privilege)):
            asked.demand(path, privilege)
        _special(asked, option, old.get(option), new.get(option), at)


def _special(asked: Call, option: str, old: Any, new: Any, at: str | None) -> None:
    if NETWORK.fullmatch(option):
        for value in (old, new):
            demand_bridge(asked, value)
    if asked.actor.is_root:
        return
    if MOUNT.fullmatch(option) and new is not None:
        volume = parse_properties(str(new), "volume").get("volume", "")
        if is_bind(volume):
            raise forbidden("mount point type bind is only allowed for root@pam")
    if DEVICE.fullmatch(option):
        raise forbidden("configuring device passthrough is only allowed for root@pam")
    if option == "hookscript":
        raise forbidden("changing the hookscript is only allowed for root@pam")
    if option == "features" and new != old:
        changed = {**_flags(old), **_flags(new)}.keys() - {"nesting"}
        if any(_flags(old).get(flag) != _flags(new).get(flag) for flag in changed):
            raise forbidden("changing feature flags (except nesting) is only allowed for root@pam")
        if not (at and asked.may(at, "VM.Allocate")):
            asked.demand(f"/vms/{asked.vmid}", "VM.Allocate")


def _flags(value: Any) -> dict[str, str]:
    return parse_properties(str(value)) if value else {}


def demand_bridge(asked: Call, value: Any) -> None:
    """Raise 403 unless the actor may use the bridge of a network option."""
    card = parse_properties(str(value)) if value else {}
    if "bridge" in card:
        tag = f"/{card['tag']}" if "tag" in card else ""
        asked.demand(f"/sdn/zones/localnetwork/{card['bridge']}{tag}", "SDN.Use")


# --- reading ---------------------------------------------------------------------------------


def shown(config: Config) -> dict[str, Any]:
    """A config as it is told."""
    return {
        key: f"{value}\n" if key == "description" else value for key, value in list(config.items())
    }


def _demand_env(asked: Call, guest: Container) -> None:
    """A config with `env` can only be read by who may write it."""
    if "env" in guest.config or "env" in guest.pending:
        asked.demand(f"/vms/{asked.vmid}", "VM.Config.Options")


@call("GET", f"{PATH}/config")
def config(asked: Call) -> dict[str, Any]:
    """The config with its digest; with what is pending, unless the present one is wanted."""
    guest = asked.container
    digest = {"digest": guest.digest()}
    name = asked.get("snapshot")
    if name is not None:
        if name not in guest.snapshots:
            raise Refused(f"snapshot '{name}' does not exist")
        return shown(guest.snapshots[name]) | digest
    _demand_env(asked, guest)
    current = dict(guest.config)
    if not asked.get("current"):
        for key, value in guest.pending.items():
            current.pop(key, None)
            if value is not None:
                current[key] = value
    return shown(current) | digest


@call("GET", f"{PATH}/pending")
def pending(asked: Call) -> list[dict[str, Any]]:
    """Each option with its value, and the one to come."""
    guest = asked.container
    _demand_env(asked, guest)
    current = shown(guest.config) | {"digest": guest.digest()}
    rows = {key: {"key": key, "value": value} for key, value in current.items()}
    for key, value in guest.pending.items():
        row = rows.setdefault(key, {"key": key})
        row.update({"delete": 1} if value is None else {"pending": value})
    return list(rows.values())


# --- changing --------------------------------------------------------------------------------


@call("PUT", f"{PATH}/config")
def set_config(asked: Call) -> None:
    """Set, delete and revert options."""
    new = {key: value for key, value in asked.params.items() if key not in CONTROL}
    gone = split_list(asked.get("delete", ""))
    reverted = split_list(asked.get("revert", ""))
    if not new and not gone and not reverted:
        raise Refused("no options specified")
    _check_names(asked, gone, reverted, new)
    cluster = asked.cluster
    with cluster.config_lock(asked.vmid):
        guest = asked.container
        if "digest" in asked.params and asked["digest"] != guest.digest():
            raise Refused(
                "detected modified configuration - file changed by other user? Try again."
            )
        demand_change(asked, guest.config, gone, {})
        demand_change(asked, guest.config, new, new)
        guest.unlocked()
        for option in gone:
            if option in REQUIRED:
                raise Refused(f"unable to delete required option '{option}'")
        for option in READ_ONLY & new.keys():
            raise Refused(f"unable to modify read-only option: '{option}'")
        for option in reverted:
            guest.pending.pop(option, None)
        _allocate(asked, guest, new)
        _apply(cluster, guest, new, gone)


def _check_names(asked: Call, gone: list[str], reverted: list[str], new: dict[str, Any]) -> None:
    from corral.lab import schema

    known = schema.load().calls["PUT", f"{PATH}/config"].properties.keys() - CONTROL
    errors = {}
    for name, options in (("delete", gone), ("revert", reverted)):
        for option in options:
            if option not in known:
                errors[name] = f"unknown option '{option}'"
            elif name == "delete" and option in new:
                errors[name] = f"you can't use '-{option}' and -delete {option}' at the same time"
    if errors:
        raise invalid(errors)


def _apply(cluster: Cluster, guest: Container, new: dict[str, Any], gone: list[str]) -> None:
    """Store the change, and carry it out; what fails is stored all the same."""
    runs = cluster.runs(guest.vmid)
    errors: dict[str, str] = {}
    for option in gone:
        _delete(guest, option, runs)
    for option, value in new.items():
        if runs and option in COLD and value != guest.config.get(option):
            guest.pending[option] = value
            continue
        guest.pending.pop(option, None)
        problem = _bad_network(cluster, str(value), runs) if NETWORK.fullmatch(option) else None
        if problem is not None:
            errors[option] = problem
        if problem is not None and runs:  # the old card is unplugged by then
            guest.pending[option] = value
            guest.config.pop(option, None)
        elif problem is None and NETWORK.fullmatch(option):
            guest.config[option] = normal_network(str(value))
        else:
            guest.config[option] = normal_tags(str(value)) if option == "tags" else value
    cluster.save_container(guest)
    if errors and runs:
        raise invalid(
            {option: f"unable to hotplug {option}: {text}\n" for option, text in errors.items()}
        )
    for text in errors.values():
        raise Refused(text)
    if runs:
        cluster.runtime.configure(guest_of(guest))


def _delete(guest: Container, option: str, runs: bool) -> None:
    if option not in guest.config:
        if NETWORK.fullmatch(option):  # other options that are only pending stay so
            guest.pending.pop(option, None)
        return
    if runs and option in COLD:
        guest.pending[option] = None
        return
    value = guest.config.pop(option)
    volume = parse_properties(str(value), "volume").get("volume") if MOUNT.fullmatch(option) else ""
    if volume and not is_bind(volume):
        number = next(n for n in range(256) if f"unused{n}" not in guest.config)
        guest.config[f"unused{number}"] = volume


def _bad_network(cluster: Cluster, value: str, runs: bool) -> str | None:
    card = parse_properties(value)
    bridge = card.get("bridge")
    if bridge is not None and bridge not in cluster.settings.bridges:
        return f"bridge '{bridge}' does not exist"
    if runs and "tag" in card:
        return f"no physical interface on bridge '{bridge}'"
    return None


def _allocate(asked: Call, guest: Container, new: dict[str, Any]) -> None:
    """`local-lvm:1` as a new volume of 1 GiB; mount points beyond the root are only noted."""
    for option, value in new.items():
        if MOUNT.fullmatch(option):
            parts = parse_properties(str(value), "volume")
            wanted = re.fullmatch(r"([^:]+):(\d+(?:\.\d+)?)", parts["volume"])
            if wanted is not None:
                asked.demand(f"/storage/{wanted[1]}", "Datastore.AllocateSpace")
                storage(asked.cluster, wanted[1])
                volume = fresh(asked.cluster, guest, wanted[1])
                guest.unmade.append(volume)
                made(asked.cluster, guest, volume)
                size = print_size(int(float(wanted[2]) * GIB))
                new[option] = print_properties(
                    {**parts, "volume": volume, "size": size}, "volume", bare=True
                )


@call("PUT", f"{PATH}/resize")
def resize(asked: Call) -> str:
    """Let a disk grow; in the lab a size is a number and no limit."""
    cluster, guest, key = asked.cluster, asked.container, asked["disk"]
    guest.unlocked()
    _demand_env(asked, guest)
    value = guest.config.get(key)
    if value is None:
        raise Refused(f"No volume named {key}")
    parts = parse_properties(str(value), "volume")
    on = parts["volume"].partition(":")[0]
    asked.demand(f"/storage/{on}", "Datastore.AllocateSpace")
    old = parse_size(parts.get("size", "0"))
    change = asked["size"]
    size = old + parse_size(change[1:]) if change.startswith("+") else parse_size(change)
    if size < old:
        raise Refused("unable to shrink disk size")

    def work(task: Task) -> None:
        with cluster.config_lock(guest.vmid):
            room(cluster, task, on)
            guest.config[key] = print_properties(
                {**parts, "size": print_size(size)}, "volume", bare=True
            )
            cluster.save_container(guest)
            name = parts["volume"].rpartition(":")[2]
            task.log(f"  Logical volume pve/{name} successfully resized.")

    return cluster.tasks.start(asked.node, "resize", guest.vmid, asked.actor, work)


def disks(guest: Container) -> list[tuple[str, str]]:
    """The volumes that a config names: key and volume, without bind mounts."""
    return [(key, volume) for key, volume in of_config(guest.config) if not is_bind(volume)]
