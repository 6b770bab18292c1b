"""Nodes: their list, status, version, network."""

from __future__ import annotations

import ipaddress
import platform
import time
from typing import Any

from corral.lab import status
from corral.lab.api import Call, call
from corral.lab.cluster import RELEASE
from corral.lab.formats import split_list

BELOW = split_list(
    """
    aplinfo apt capabilities ceph certificates config disks dns firewall hardware hosts
    journal lxc migrateall netstat network qemu query-oci-repo-tags query-url-metadata
    replication report rrd rrddata scan sdn services spiceshell startall status stopall
    storage subscription suspendall syslog tasks termproxy time version vncshell
    vzdump wakeonlan
    """
)


@call("GET", "/version")
def version(asked: Call) -> dict[str, str]:
    """The release that the lab answers as."""
    return dict(RELEASE)


@call("GET", "/nodes/{node}/version")
def node_version(asked: Call) -> dict[str, str]:
    """The same; all nodes are of one release."""
    return dict(RELEASE)


@call("GET", "/nodes")
def nodes(asked: Call) -> list[dict[str, Any]]:
    """All nodes; their load only for those who may see it."""
    return [
        {
            "id": f"node/{node}",
            "node": node,
            "type": "node",
            "level": "",
            "ssl_fingerprint": asked.cluster.fingerprint,
            **of_node(asked, node),
        }
        for node in asked.cluster.settings.names
    ]


def of_node(asked: Call, node: str) -> dict[str, Any]:
    """Whether a node is online, and its load for an auditor."""
    if not asked.cluster.is_up(node):
        return {"status": "offline"}
    load = status.of_node(asked.cluster, node) if asked.may(f"/nodes/{node}", "Sys.Audit") else {}
    return {"status": "online", **load}


@call("GET", "/nodes/{node}")
def index(asked: Call) -> list[dict[str, str]]:
    """What there is of a node."""
    return [{"name": name} for name in BELOW]


@call("GET", "/nodes/{node}/status")
def node_status(asked: Call) -> dict[str, Any]:
    """One node's load in full."""
    load = status.of_node(asked.cluster, asked.node)
    system = platform.uname()
    used, total = load["disk"], load["maxdisk"]
    return {
        "uptime": load["uptime"],
        "cpu": load["cpu"],
        "wait": 0,
        "idle": 0,
        "loadavg": ["0.00", "0.00", "0.00"],
        "memory": _measure(load["mem"], load["maxmem"]),
        "swap": {"used": 0, "free": 0, "total": 0},
        "rootfs": {"used": used, "avail": total - used, "free": total - used, "total": total},
        "ksm": {"shared": 0},
        "boot-info": {"mode": "legacy-bios"},
        "pveversion": f"pve-manager/{RELEASE['version']}/{RELEASE['repoid']}",
        "kversion": f"Linux {system.release} {system.version}",
        "current-kernel": {
            "sysname": system.system,
            "release": system.release,
            "version": system.version,
            "machine": system.machine,
        },
        "cpuinfo": {
            "cores": load["maxcpu"],
            "cpus": load["maxcpu"],
            "sockets": 1,
            "model": system.processor or system.machine,
            "vendor": "",
            "family": "",
            "flags": "",
            "hvm": "",
            "mhz": "0.000",
            "user_hz": 100,
        },
    }


def _measure(used: int, total: int) -> dict[str, int]:
    return {"used": used, "free": total - used, "available": total - used, "total": total}


@call("GET", "/nodes/{node}/time")
def node_time(asked: Call) -> dict[str, Any]:
    """The node's clock."""
    now = int(time.time())
    return {"time": now, "localtime": now, "timezone": "UTC"}


@call("GET", "/nodes/{node}/dns")
def dns(asked: Call) -> dict[str, str]:
    """The node's resolver."""
    first = next(iter(asked.cluster.settings.bridges.values()))
    return {"dns1": str(ipaddress.ip_interface(first).ip), "search": "test"}


@call("GET", "/nodes/{node}/journal")
def journal(asked: Call) -> list[str]:
    """The node's journal; the lab has none."""
    return []


@call("GET", "/nodes/{node}/qemu")
def machines(asked: Call) -> list[dict[str, Any]]:
    """Virtual machines; the lab has none."""
    return []


@call("GET", "/nodes/{node}/network")
def network(asked: Call) -> list[dict[str, Any]]:
    """The bridges, for those who may use them, and a card."""
    found = [_card()] if "bridge" not in str(asked.get("type", "")) else []
    for priority, (name, address) in enumerate(asked.cluster.settings.bridges.items(), start=4):
        if asked.may(f"/sdn/zones/localnetwork/{name}", "SDN.Audit", "SDN.Use"):
            found.append(_bridge(name, address, priority))
    return found


def _card() -> dict[str, Any]:
    return {
        "iface": "eth0",
        "type": "eth",
        "method": "manual",
        "method6": "manual",
        "families": ["inet"],
        "priority": 3,
        "active": 1,
        "exists": 1,
    }


def _bridge(name: str, address: str, priority: int) -> dict[str, Any]:
    interface = ipaddress.ip_interface(address)
    return {
        "iface": name,
        "type": "bridge",
        "method": "static",
        "method6": "manual",
        "families": ["inet"],
        "priority": priority,
        "active": 1,
        "autostart": 1,
        "address": str(interface.ip),
        "netmask": str(interface.network.prefixlen),
        "cidr": str(interface),
        "bridge_ports": "",
        "bridge_stp": "off",
        "bridge_fd": "0",
    }
