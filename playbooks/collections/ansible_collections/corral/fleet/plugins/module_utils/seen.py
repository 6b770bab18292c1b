"""The cluster as one call shows it: nodes, guests, templates.

Reads the answer of /cluster/resources, where tags, lock and node are live, and name, status and
the template flag may be ten seconds old. `with_live` lays a node's own, live list over it. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils.wanted import MARK

TEMPLATE = "template"  #: tag of a finished template
BUILDING = "building"  #: tag of one that is being made
MIB = 1024**2


@dataclass(frozen=True)
class Node:
    """One node. Size is unknown (0) to a token without Sys.Audit."""

    name: str
    online: bool
    cores: int = 0
    memory: int = 0  # bytes


@dataclass(frozen=True)
class Guest:
    """A container or a virtual machine, anybody's."""

    vmid: int
    node: str
    kind: str = "lxc"  # or qemu
    name: str = ""  # "" while it is unknown
    status: str = "unknown"
    tags: frozenset[str] = frozenset()
    lock: str = ""
    flag: bool | None = None  # whether it is a template; None while that is unknown
    cores: float = 0
    memory: int = 0  # bytes
    pool: str = ""

    @property
    def ours(self) -> bool:
        """Whether it belongs to a fleet."""
        return MARK in self.tags

    @property
    def role(self) -> str:
        """The role that its tags name, or nothing."""
        return self._tagged("role-")

    @property
    def version(self) -> str:
        """The version of the template that its tags name, or nothing."""
        return self._tagged("tpl-")

    @property
    def spec(self) -> str:
        """The hash of the configuration that was last applied, or nothing."""
        return self._tagged("spec-")

    @property
    def is_template(self) -> bool:
        """A finished template; its clones have its tags too, until they get their own."""
        return self.ours and TEMPLATE in self.tags and self.flag is True

    @property
    def doubtful(self) -> bool:
        """Whether what lags behind decides something: is it up, is it a template yet?"""
        if not self.ours or self.kind != "lxc" or BUILDING in self.tags or self.is_template:
            return False
        return self.status != "running" or TEMPLATE in self.tags

    def _tagged(self, prefix: str) -> str:
        found = (tag.removeprefix(prefix) for tag in self.tags if tag.startswith(prefix))
        return min(found, default="")

    def __str__(self) -> str:
        kind = "container" if self.kind == "lxc" else "virtual machine"
        owner = f"pool {self.pool}" if self.pool else "no pool"
        tags = f", tags {' '.join(sorted(self.tags))}" if self.tags else ""
        return f"{kind} {self.name or 'without a name yet'} on node {self.node}, {owner}{tags}"


@dataclass(frozen=True)
class Cluster:
    """All that the token sees."""

    nodes: Mapping[str, Node]
    guests: Mapping[int, Guest]

    def online(self, node: str) -> bool:
        """Whether a node is up."""
        return node in self.nodes and self.nodes[node].online

    def doubtful_nodes(self) -> list[str]:
        """Nodes that are up and whose own list must be asked."""
        nodes = {guest.node for guest in self.guests.values() if guest.doubtful}
        return sorted(node for node in nodes if self.online(node))

    def templates(self) -> list[Guest]:
        """Finished templates, by version and VMID."""
        found = [guest for guest in self.guests.values() if guest.is_template]
        return sorted(found, key=lambda guest: (guest.version, guest.vmid))


def cluster(resources: Iterable[Mapping[str, Any]]) -> Cluster:
    """What /cluster/resources shows."""
    nodes, guests = {}, {}
    for entry in resources:
        if entry["type"] == "node":
            nodes[entry["node"]] = Node(
                name=entry["node"],
                online=entry.get("status") == "online",
                cores=int(entry.get("maxcpu", 0)),
                memory=int(entry.get("maxmem", 0)),
            )
        elif entry["type"] in ("lxc", "qemu"):
            guests[int(entry["vmid"])] = _guest(entry)
    # A dead node's guests read as running for minutes.
    for vmid, guest in guests.items():
        if guest.node not in nodes or not nodes[guest.node].online:
            guests[vmid] = replace(guest, status="unknown")
    return Cluster(nodes, guests)


def with_live(seen: Cluster, lists: Mapping[str, Iterable[Mapping[str, Any]]]) -> Cluster:
    """The same cluster, where nodes' own lists of containers say what is so now."""
    guests = dict(seen.guests)
    for listed in lists.values():
        for entry in listed:
            vmid = int(entry["vmid"])
            if vmid in guests:
                guests[vmid] = replace(
                    guests[vmid],
                    name=entry.get("name", ""),
                    status=entry["status"],
                    flag=bool(entry.get("template", 0)),
                    lock=entry.get("lock", ""),
                )
    return replace(seen, guests=guests)


def tags(text: str) -> frozenset[str]:
    """Tags as Proxmox writes them."""
    return frozenset(text.replace(",", ";").replace(" ", ";").split(";")) - {""}


def _guest(entry: Mapping[str, Any]) -> Guest:
    return Guest(
        vmid=int(entry["vmid"]),
        node=entry["node"],
        kind=entry["type"],
        name=entry.get("name", ""),
        status=entry.get("status", "unknown"),
        tags=tags(entry.get("tags", "")),
        lock=entry.get("lock", ""),
        flag=None if "template" not in entry else bool(entry["template"]),
        cores=entry.get("maxcpu", 0),
        memory=int(entry.get("maxmem", 0)),
        pool=entry.get("pool", ""),
    )
