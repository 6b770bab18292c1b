"""A container's config in the terms of the runtime."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from corral.lab.cluster import Container
from corral.lab.formats import parse_properties, print_properties, split_list
from corral.lab.runtime import Guest, Interface
from corral.lab.volumes import disk, of_config

PREFIX = "BC:24:11"  # of the MACs that Proxmox draws
NETWORKS = tuple(f"net{number}" for number in range(32))


def guest_of(container: Container) -> Guest:
    """What the runtime needs to run it."""
    config = container.config
    variables = dict(
        entry.partition("=")[::2] for entry in str(config.get("env", "")).split("\0") if entry
    )
    cores = config.get("cores")
    return Guest(
        vmid=container.vmid,
        node=container.node,
        volume=disk(dict(of_config(config))["rootfs"]),
        hostname=container.name,
        cores=None if cores is None else int(cores),
        cpulimit=float(config.get("cpulimit", 0)),
        memory_mib=int(config.get("memory", 512)),
        swap_mib=int(config.get("swap", 0)),
        interfaces=tuple(_interfaces(container)),
        nameservers=tuple(split_list(str(config.get("nameserver", "")))),
        searchdomain=str(config.get("searchdomain", "")),
        ssh_public_keys=container.keys,
        variables=variables,
    )


def _interfaces(container: Container) -> Iterator[Interface]:
    for key in NETWORKS:
        card = parse_properties(str(container.config.get(key, "")))
        if card.get("hwaddr") and card.get("bridge") and card.get("link_down") != "1":
            address = card.get("ip", "")
            yield Interface(
                name=card["name"],
                hwaddr=card["hwaddr"],
                bridge=card["bridge"],
                address=address if "/" in address else None,
                gateway=card.get("gw"),
                mtu=int(card["mtu"]) if "mtu" in card else None,
            )


def new_hwaddr() -> str:
    """A MAC that nobody else has, most likely."""
    tail = secrets.token_hex(3).upper()
    return f"{PREFIX}:{tail[:2]}:{tail[2:4]}:{tail[4:]}"


def normal_network(text: str, fresh: bool = False) -> str:
    """A network as Proxmox stores it: ordered, with a type and a MAC, another one when `fresh`."""
    card: dict[str, str] = parse_properties(text)
    if fresh or "hwaddr" not in card:
        card["hwaddr"] = new_hwaddr()
    card["hwaddr"] = card["hwaddr"].upper()
    return print_properties({**card, "type": "veth"}, "name")
