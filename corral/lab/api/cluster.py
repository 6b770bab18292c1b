"""The cluster as a whole: resources, next free number, options, status, tasks, actions in bulk."""

from __future__ import annotations

from typing import Any

from corral.lab import status
from corral.lab.answers import Refused, forbidden, invalid
from corral.lab.api import Call, call, index
from corral.lab.api.clones import RESTART_SECONDS, move
from corral.lab.api.nodes import of_node
from corral.lab.api.power import running, shut_down, start
from corral.lab.api.storages import usage_of
from corral.lab.cluster import Cluster, Container
from corral.lab.formats import parse_properties, split_list
from corral.lab.tasks import Task

NEWEST = 25  # tasks of each node that the cluster knows of
FIRST, LAST = 100, 1_000_000  # numbers of containers, the last one exclusive
FREELY_READ = ("tag-style",)  # options that everybody sees


@call("GET", "/cluster/resources")
def resources(asked: Call) -> list[dict[str, Any]]:
    """Pools, containers, nodes, storages: those that the actor may see."""
    parts = {
        "pool": _pools,
        "vm": _containers,
        "node": _nodes,
        "storage": _storages,
        "sdn": _networks,
    }
    wanted = asked.get("type")
    return [
        entry for name, part in parts.items() if wanted in (None, name) for entry in part(asked)
    ]


def _containers(asked: Call) -> list[dict[str, Any]]:
    cluster = asked.cluster
    pools = {vmid: name for name, pool in list(cluster.kept.pools.items()) for vmid in pool.vms}
    shown = {name for name in cluster.kept.pools if asked.may(f"/pool/{name}", "Pool.Audit")}
    found = []
    for vmid, guest in sorted(cluster.containers.items()):
        if asked.may(f"/vms/{vmid}", "VM.Audit"):
            entry = status.resource_of_container(cluster, guest)
            if pools.get(vmid) in shown:
                entry["pool"] = pools[vmid]
            state = cluster.kept.ha.get(f"ct:{vmid}")
            if state is not None:
                entry["hastate"] = state.get("state", "started")
            found.append(entry)
    return found


def _pools(asked: Call) -> list[dict[str, Any]]:
    summed = ("cpu", "maxcpu", "mem", "maxmem", "uptime")
    found = []
    for name, pool in list(asked.cluster.kept.pools.items()):
        if not asked.may(f"/pool/{name}", "Pool.Audit"):
            continue
        entry: dict[str, Any] = {"id": f"/pool/{name}", "type": "pool", "pool": name}
        for vmid in pool.vms:
            seen = asked.cluster.known(vmid)
            if seen is not None and seen["status"] == "running":
                for key in summed:
                    entry[key] = entry.get(key, 0) + seen[key]
        found.append(entry)
    return found


def _nodes(asked: Call) -> list[dict[str, Any]]:
    return [
        {
            "id": f"node/{node}",
            "node": node,
            "type": "node",
            "level": "",
            "cgroup-mode": 2,
            **of_node(asked, node),
        }
        for node in asked.cluster.settings.names
    ]


def _storages(asked: Call) -> list[dict[str, Any]]:
    found = []
    for node in asked.cluster.settings.names:
        for name, config in list(asked.cluster.kept.storages.items()):
            if not asked.may(f"/storage/{name}", "Datastore.Audit"):
                continue
            entry = {
                "id": f"storage/{node}/{name}",
                "type": "storage",
                "node": node,
                "storage": name,
                "plugintype": config["type"],
                "content": config.get("content", ""),
                "shared": int(config.get("shared", 0)),
                "status": "unknown",
            }
            if asked.cluster.is_up(node):
                usage = usage_of(asked.cluster, node, name)
                entry |= {
                    "status": "available",
                    "disk": usage["used"],
                    "maxdisk": usage["total"],
                }
            found.append(entry)
    return found


def _networks(asked: Call) -> list[dict[str, Any]]:
    return [
        {
            "id": f"network/{node}/zone/localnetwork",
            "type": "network",
            "network": "localnetwork",
            "network-type": "zone",
            "node": node,
            "status": "ok",
        }
        for node in asked.cluster.settings.names
        if asked.may("/sdn/zones/localnetwork", "SDN.Audit")
    ]


@call("GET", "/cluster/nextid")
def nextid(asked: Call) -> str:
    """A free number; it is not reserved."""
    taken = asked.cluster.containers
    wanted = asked.get("vmid")
    if wanted is not None:
        if wanted in taken:
            raise invalid({"vmid": f"VM {wanted} already exists"})
        return str(wanted)
    bounds = asked.cluster.kept.options.get("next-id", {})
    lower, upper = int(bounds.get("lower", FIRST)), int(bounds.get("upper", LAST))
    for number in range(lower, upper):
        if number not in taken:
            return str(number)
    raise Refused(f"unable to get any free VMID in range [{lower}, {upper - 1}]")


@call("GET", "/cluster/status")
def cluster_status(asked: Call) -> list[dict[str, Any]]:
    """The nodes and whether they are online."""
    names = asked.cluster.settings.names
    first = {"ip": "127.0.0.1", "level": "", "type": "node"}
    alone = len(names) == 1
    nodes = [
        {
            **first,
            "id": f"node/{node}",
            "name": node,
            "nodeid": 0 if alone else number,
            "local": int(number == 1),
            "online": int(asked.cluster.is_up(node)),
        }
        for number, node in enumerate(names, start=1)
    ]
    if alone:
        return nodes
    online = sum(asked.cluster.is_up(node) for node in names)
    head = {
        "id": "cluster",
        "type": "cluster",
        "name": "lab",
        "nodes": len(names),
        "quorate": int(online * 2 > len(names)),
        "version": len(names),
    }
    return [head, *nodes]


@call("GET", "/cluster/options")
def options(asked: Call) -> dict[str, Any]:
    """Settings of the datacenter; most of them only for an auditor."""
    kept = asked.cluster.kept.options
    if asked.may("/", "Sys.Audit"):
        shown = dict(kept)
    else:
        shown = {key: kept[key] for key in FREELY_READ if key in kept}
    return shown | {"allowed-tags": sorted(_tags(asked))}


def _tags(asked: Call) -> set[str]:
    seen = {
        tag
        for vmid, guest in list(asked.cluster.containers.items())
        if asked.may(f"/vms/{vmid}", "VM.Audit")
        for tag in split_list(str(guest.config.get("tags", "")))
    }
    return seen | set(split_list(str(asked.cluster.kept.options.get("registered-tags", ""))))


@call("PUT", "/cluster/options")
def set_options(asked: Call) -> None:
    """Change settings of the datacenter."""
    kept = asked.cluster.kept.options
    for key in split_list(asked.get("delete", "")):
        kept.pop(key, None)
    for key, value in asked.params.items():
        if key != "delete":
            composed = key in ("tag-style", "next-id", "ha", "migration", "crs", "user-tag-access")
            kept[key] = parse_properties(value) if composed else value
    asked.cluster.save()


@call("GET", "/cluster/tasks")
def tasks(asked: Call) -> list[dict[str, Any]]:
    """The newest tasks of all nodes. A token sees none, not even its own, without Sys.Audit."""
    everything = asked.may("/", "Sys.Audit")
    running = asked.cluster.tasks.running()
    newest: list[Task] = []
    counts = dict.fromkeys(asked.cluster.settings.names, 0)
    for task in [*running, *asked.cluster.tasks.archive()]:
        counts[task.node] = counts.get(task.node, 0) + 1
        if counts[task.node] <= NEWEST:
            newest.append(task)
    return [_task(task) for task in newest if everything or task.user == asked.actor.name]


def _task(task: Task) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "upid": task.upid,
        "node": task.node,
        "type": task.type,
        "id": task.id,
        "user": task.user,
        "starttime": task.starttime,
        "saved": "1" if task.endtime else "0",
    }
    if task.token:
        shown["tokenid"] = task.token
    if task.endtime is None:
        return shown | {"pid": task.pid}
    return shown | {"endtime": task.endtime, "status": task.status}


@call("GET", "/cluster/log")
def log(asked: Call) -> list[dict[str, Any]]:
    """The cluster's log; the lab keeps none."""
    return []


index("/cluster/bulk-action/guest", "start", "shutdown", "migrate", "suspend")


def _guests(asked: Call) -> list[Container]:
    """Those that are named, all of which the actor must be allowed to switch."""
    vmids = asked.get("vms")
    if vmids is None:
        asked.demand("/", "VM.PowerMgmt")
        return sorted(asked.cluster.containers.values(), key=lambda guest: guest.vmid)
    for vmid in vmids:
        asked.demand(f"/vms/{vmid}", "VM.PowerMgmt")
    unknown = [vmid for vmid in vmids if vmid not in asked.cluster.containers]
    if unknown:
        raise forbidden(f"/vms/{unknown[0]}, VM.PowerMgmt")
    return [asked.cluster.containers[vmid] for vmid in vmids]


def _here(cluster: Cluster) -> str:
    return cluster.settings.names[0]


@call("POST", "/cluster/bulk-action/guest/start")
def bulk_start(asked: Call) -> str:
    """Start many; one that cannot be started fails the task, after all have been tried."""
    guests = _guests(asked)

    def work(task: Task) -> None:
        task.log(f"Starting guests: {', '.join(str(guest.vmid) for guest in guests)}")
        failed: list[int] = []
        begun: list[tuple[Container, Task]] = []
        for guest in guests:
            task.point()
            task.log(f"Starting CT {guest.vmid}")
            if running(asked.cluster, guest):
                task.warn(f"500 CT {guest.vmid} already running")
                failed.append(guest.vmid)
            else:
                begun.append((guest, _found(asked, start(asked.cluster, asked.actor, guest))))
        for guest, child in begun:
            child.done.wait()
            if child.status != "OK" and not child.status.startswith("WARNINGS"):
                task.warn(f"Starting CT {guest.vmid} failed: {child.status}")
                failed.append(guest.vmid)
        if failed:
            listed = ", ".join(str(vmid) for vmid in sorted(failed))
            raise Refused(f"Some guests failed to start: {listed}")

    return asked.cluster.tasks.start(_here(asked.cluster), "bulk-start", "", asked.actor, work)


@call("POST", "/cluster/bulk-action/guest/shutdown")
def bulk_shutdown(asked: Call) -> str:
    """Shut many down; one that does not run is a warning."""
    guests = _guests(asked)
    timeout = asked.get("timeout", 180)
    force = bool(asked.get("force-stop", 1))

    def work(task: Task) -> None:
        task.log(f"Shutting down guests: {', '.join(str(guest.vmid) for guest in guests)}")
        begun = []
        for guest in reversed(guests):
            task.point()
            if not running(asked.cluster, guest):
                task.warn(f"Skipping CT {guest.vmid}, not running.")
                continue
            task.log(f"Shutting down CT {guest.vmid} (Timeout = {timeout} seconds)")
            upid = shut_down(asked.cluster, asked.actor, guest, timeout, force)
            begun.append((guest, _found(asked, upid)))
        for guest, child in begun:
            child.done.wait()
            if child.status != "OK":
                task.warn(f"Stopping CT {guest.vmid} failed: {child.status}")

    return asked.cluster.tasks.start(_here(asked.cluster), "bulk-shutdown", "", asked.actor, work)


@call("POST", "/cluster/bulk-action/guest/migrate")
def bulk_migrate(asked: Call) -> str:
    """Move many; one that cannot be moved fails the task, after all have been tried."""
    guests, target = _guests(asked), asked["target-node"]
    for guest in guests:
        asked.demand(f"/vms/{guest.vmid}", "VM.Migrate")

    def work(task: Task) -> None:
        task.log(f"Migrating guests: {', '.join(str(guest.vmid) for guest in guests)}")
        failed: list[int] = []
        for guest in guests:
            task.point()
            task.log(f"Migrating CT {guest.vmid} to {target}")
            try:
                upid = move(
                    asked.cluster, asked.actor, guest, target, restart=True, timeout=RESTART_SECONDS
                )
            except Refused as refused:
                task.warn(f"Migrating CT {guest.vmid} failed: {refused}")
                failed.append(guest.vmid)
                continue
            child = _found(asked, upid)
            child.done.wait()
            if child.status != "OK":
                task.warn(f"Migrating CT {guest.vmid} failed: {child.status}")
                failed.append(guest.vmid)
        if failed:
            listed = ", ".join(str(vmid) for vmid in failed)
            raise Refused(f"Some guests failed to migrate: {listed}")

    return asked.cluster.tasks.start(_here(asked.cluster), "bulk-migrate", "", asked.actor, work)


@call("POST", "/cluster/bulk-action/guest/suspend")
def bulk_suspend(asked: Call) -> str:
    """Suspend many; containers are skipped."""
    guests = _guests(asked)

    def work(task: Task) -> None:
        for guest in guests:
            task.warn(f"Skipping CT {guest.vmid}, containers cannot be suspended.")

    return asked.cluster.tasks.start(_here(asked.cluster), "bulk-suspend", "", asked.actor, work)


def _found(asked: Call, upid: str) -> Task:
    task = asked.cluster.tasks.find(upid)
    assert task is not None
    return task
