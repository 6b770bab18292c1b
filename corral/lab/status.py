"""How containers and nodes do, in the fields that the API tells.

`of_container` looks now; `look` is the status daemon, whose last view the cluster's resources show.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from corral.lab.cluster import Cluster, Container, Seen
from corral.lab.formats import parse_properties, parse_size, split_list
from corral.lab.runtime import Usage
from corral.lab.settings import GIB

MIB = 1024**2
DEFAULT_DISK = 4 * GIB  # told of a container whose root is not made yet
PRESSURES = ("cpusome", "cpufull", "iosome", "iofull", "memorysome", "memoryfull")
NODE_MEMORY = GIB // 2  # that a node itself uses
LIVE = ("tags", "lock")  # told from the config even where the rest lags


def of_container(cluster: Cluster, guest: Container, usage: Usage | None) -> dict[str, Any]:
    """The status of one container, as `/nodes/N/lxc` lists it."""
    config = guest.config
    root = parse_properties(str(config.get("rootfs", "")), "volume")
    fields: dict[str, Any] = {
        "vmid": guest.vmid,
        "type": "lxc",
        "name": guest.name,
        "status": "running" if usage else "stopped",
        "cpus": config.get("cores", cluster.settings.cores),
        "maxmem": int(config.get("memory", 512)) * MIB,
        "maxswap": int(config.get("swap", 0)) * MIB,
        "maxdisk": parse_size(root["size"]) if "size" in root else DEFAULT_DISK,
        "cpu": usage.cpu if usage else 0,
        "mem": usage.memory if usage else 0,
        "swap": usage.swap if usage else 0,
        "disk": usage.disk if usage else 0,
        "diskread": 0,
        "diskwrite": 0,
        "netin": usage.netin if usage else 0,
        "netout": usage.netout if usage else 0,
        "uptime": int(usage.uptime) if usage else 0,
    }
    fields.update({key: config[key] for key in (*LIVE, "template") if config.get(key)})
    if usage:
        fields["pid"] = usage.pid
        fields.update(dict.fromkeys((f"pressure{kind}" for kind in PRESSURES), "0.00"))
    return fields


def look(cluster: Cluster) -> None:
    """See how all containers of living nodes do."""
    usage = cluster.usage()
    now = time.time()
    with cluster.lock:
        for guest in list(cluster.containers.values()):
            if cluster.is_up(guest.node):
                fields = of_container(cluster, guest, usage.get(guest.vmid))
                cluster.seen[guest.vmid] = Seen(now, guest.node, _as_resource(fields))


def _as_resource(fields: Mapping[str, Any]) -> dict[str, Any]:
    same = split_list(
        "name status maxmem maxdisk cpu mem disk diskread diskwrite netin netout uptime"
    )
    found = {key: fields[key] for key in same}
    return found | {
        "maxcpu": fields["cpus"],
        "template": fields.get("template", 0),
        "memhost": fields["mem"],
    }


def resource_of_container(cluster: Cluster, guest: Container) -> dict[str, Any]:
    """A container in `/cluster/resources`: partly live, partly as it was seen last."""
    fields = {
        "id": f"lxc/{guest.vmid}",
        "type": "lxc",
        "node": guest.node,
        "vmid": guest.vmid,
        "status": "unknown",
    }
    fields.update(cluster.known(guest.vmid) or {})
    fields.update({key: guest.config[key] for key in LIVE if key in guest.config})
    return fields


def of_node(cluster: Cluster, node: str) -> dict[str, Any]:
    """The load of a node, as `/nodes` lists it to those who may see it."""
    seen = [
        found.fields
        for found in list(cluster.seen.values())
        if found.node == node and found.fields["status"] == "running"
    ]
    cores = cluster.settings.cores
    busy = sum(fields["cpu"] * fields["maxcpu"] for fields in seen)
    return {
        "maxcpu": cores,
        "cpu": busy / cores,
        "maxmem": cluster.settings.memory_gb * GIB,
        "mem": NODE_MEMORY + sum(fields["mem"] for fields in seen),
        "maxdisk": cluster.settings.disk_gb * GIB,
        "disk": 2 * GIB,
        "uptime": int(time.time() - cluster.started),
    }
