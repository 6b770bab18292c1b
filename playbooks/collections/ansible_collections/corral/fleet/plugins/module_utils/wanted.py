"""The fleet as it is wanted: roles, network, and what each container's configuration shall be.

Read from a module's arguments, or from the same variables in a file. No I/O; what is there is in
`seen`, and the way from one to the other in `planner`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils.problems import BadWish

SLOTS = 999  #: VMIDs above its base that a role has at most
MARK = "corral"
WORD = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
VERSION = re.compile(r"[a-z0-9_][a-z0-9_+.-]*")
TAG = re.compile(r"[a-z0-9_][a-z0-9_+.-]*")

Config = dict[str, str | int]


@dataclass(frozen=True)
class Network:
    """Where addresses come from."""

    subnet: ipaddress.IPv4Network
    bridge: str = ""
    gateway: str | None = None
    vlan: int | None = None
    firewall: bool = False
    nameserver: str | None = None
    searchdomain: str | None = None


@dataclass(frozen=True)
class Role:
    """What the containers of one role have in common."""

    name: str
    vmid: int
    address_offset: int
    template: str
    count: int = 0
    hostname: str = "{role}-{ordinal}"
    cores: int = 1
    memory_mib: int = 512
    swap_mib: int = 0
    storage: str | None = None
    nodes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    onboot: bool = True
    startup: str | None = None
    slots: int = SLOTS

    def has(self, vmid: int) -> bool:
        """Whether a VMID is one of the role's own."""
        return self.vmid < vmid <= self.vmid + self.slots

    def host(self, ordinal: int) -> str:
        """The host name of one of them."""
        return self.hostname.replace("{role}", self.name).replace("{ordinal}", str(ordinal))


@dataclass(frozen=True)
class Wanted:
    """The whole fleet."""

    roles: tuple[Role, ...]
    network: Network

    def role_of(self, vmid: int) -> Role | None:
        """The role that a VMID belongs to."""
        return next((role for role in self.roles if role.has(vmid)), None)

    def address(self, role: Role, ordinal: int) -> ipaddress.IPv4Address:
        """The address plan."""
        return self.network.subnet.network_address + role.address_offset + ordinal

    def config(self, role: Role, ordinal: int) -> Config:
        """The configuration of a container, but for its tags and what it has from its template."""
        network = self.network
        eth0 = {
            "name": "eth0",
            "bridge": network.bridge,
            "ip": f"{self.address(role, ordinal)}/{network.subnet.prefixlen}",
            "gw": network.gateway,
            "tag": network.vlan,
            "firewall": 1 if network.firewall else None,
        }
        config: dict[str, str | int | None] = {
            "hostname": role.host(ordinal),
            "cores": role.cores,
            "memory": role.memory_mib,
            "swap": role.swap_mib,
            "net0": ",".join(f"{key}={value}" for key, value in eth0.items() if value is not None),
            "nameserver": network.nameserver,
            "searchdomain": network.searchdomain,
            "onboot": int(role.onboot),
            "startup": role.startup,
        }
        return {key: value for key, value in config.items() if value is not None}

    def tags(self, role: Role, ordinal: int, template: str) -> tuple[str, ...]:
        """All tags of a container that was made from a version of the template."""
        spec = digest(self.config(role, ordinal) | {"tags": ";".join(sorted(role.tags))})[:8]
        own = (MARK, f"role-{role.name}", f"spec-{spec}", f"tpl-{template}")
        return tuple(sorted({*own, *role.tags}))


def digest(value: object) -> str:
    """A hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def wanted(network: Mapping[str, Any], roles: Iterable[Mapping[str, Any]]) -> Wanted:
    """The fleet that arguments describe; unknown keys are the caller's business.

    Raises:
        BadWish: it contradicts itself.
    """
    made = sorted((_role(given) for given in roles), key=lambda role: role.vmid)
    for one, other in pairwise(made):
        if one.vmid == other.vmid:
            raise BadWish(
                f"Roles {one.name} and {other.name} have the same vmid {one.vmid}: give each a base"
                " of its own."
            )
    # A role ends where the next begins.
    bounded = [
        replace(one, slots=min(SLOTS, other.vmid - one.vmid)) for one, other in pairwise(made)
    ]
    fleet = Wanted((*bounded, *made[-1:]), _network(network))
    _check(fleet)
    return fleet


def _network(given: Mapping[str, Any]) -> Network:
    fields = {key: given[key] for key in Network.__dataclass_fields__ if given.get(key) is not None}
    try:
        return Network(**fields | {"subnet": ipaddress.IPv4Network(given.get("subnet", ""))})
    except ValueError as error:
        raise BadWish(f"network.subnet: {error}. Give it as 10.90.0.0/24.") from None


def _role(given: Mapping[str, Any]) -> Role:
    fields = {key: given[key] for key in Role.__dataclass_fields__ if given.get(key) is not None}
    try:
        fields |= {key: int(fields[key]) for key in ("vmid", "address_offset")}
        fields["template"] = str(fields["template"])
        role = Role(**fields | {key: tuple(fields.get(key, ())) for key in ("nodes", "tags")})
    except (KeyError, TypeError, ValueError) as error:
        raise BadWish(
            f"A role needs name, vmid, address_offset and template as plain values, but {error} is"
            f" wrong in {dict(given)}."
        ) from None
    what = f"Role {role.name}"
    if not WORD.fullmatch(role.name):
        raise BadWish(f"{what}: a role's name has lower-case letters, digits and hyphens.")
    if not VERSION.fullmatch(role.template):
        raise BadWish(
            f"{what}: template {role.template!r} cannot be a version: lower-case letters,"
            " digits, hyphens, dots and plus signs."
        )
    for tag in role.tags:
        if not TAG.fullmatch(tag) or tag == MARK or tag.startswith(("role-", "spec-", "tpl-")):
            raise BadWish(
                f"{what}: {tag!r} cannot be a tag of yours: use lower-case letters, digits and"
                " + . - _, and leave corral, role-, spec- and tpl- to the collection."
            )
    return role


def _check(fleet: Wanted) -> None:
    names = [role.name for role in fleet.roles]
    for name in names:
        if names.count(name) > 1:
            raise BadWish(f"Role {name} is listed twice: join the two.")
    for role in fleet.roles:
        if role.count < 0 or role.count > role.slots:
            raise BadWish(
                f"Role {role.name} wants {role.count} containers and has VMIDs for {role.slots}:"
                " lower its count, or move the base of the next role."
            )
        if role.count > 1 and "{ordinal}" not in role.hostname:
            raise BadWish(
                f"Role {role.name} wants {role.count} containers of one host name"
                f" {role.hostname!r}: put {{ordinal}} into it."
            )
