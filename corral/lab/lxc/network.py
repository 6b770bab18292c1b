"""Bridges of the lab, and the network cards of a guest that runs.

A bridge of the API (vmbr0) is a bridge of this machine under a name of the lab's own, with the
host's address on it. Nothing is routed or translated: guests reach each other and this machine.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from corral.lab.lxc.commands import run
from corral.lab.runtime import Interface, RuntimeFailed


class Bridges:
    """The lab's bridges."""

    def __init__(self, lab: str, addresses: Mapping[str, str]) -> None:
        """`addresses`: the API's name of each bridge, and the host's address on it."""
        self._links = {name: f"lab{lab}n{number}" for number, name in enumerate(addresses)}
        self._addresses = addresses

    def link(self, bridge: str) -> str:
        """The name on this machine.

        Raises:
            RuntimeFailed: the lab has no such bridge.
        """
        if bridge not in self._links:
            raise RuntimeFailed(
                f"bridge '{bridge}' does not exist; there is {', '.join(self._links)}"
            )
        return self._links[bridge]

    def open(self) -> None:
        """Make those that are not there.

        Raises:
            RuntimeFailed: something else of this machine uses the subnet.
        """
        there = {link["ifname"] for link in _ip("link")}
        for name, link in self._links.items():
            if link in there:
                continue
            self._free(self._addresses[name])
            tail = secrets.token_hex(3)
            mac = f"02:1a:b0:{tail[:2]}:{tail[2:4]}:{tail[4:]}"  # its own, or it follows its guests
            run("ip", "link", "add", link, "address", mac, "type", "bridge", "forward_delay", "0")
            run("ip", "address", "add", self._addresses[name], "dev", link)
            run("ip", "link", "set", link, "up")

    def close(self) -> None:
        """Remove them, and cards that are still on them."""
        there = {link["ifname"]: link.get("master") for link in _ip("link")}
        ours = set(self._links.values()) & there.keys()
        for link in [*(name for name, master in there.items() if master in ours), *ours]:
            run("ip", "link", "delete", link)

    def _free(self, address: str) -> None:
        wanted = ip_interface(address).network
        for link in _ip("address"):
            for entry in link["addr_info"]:
                network = ip_network(f"{entry['local']}/{entry['prefixlen']}", strict=False)
                if network.version == wanted.version and network.overlaps(wanted):
                    raise RuntimeFailed(
                        f"{wanted} is in use: {link['ifname']} has {entry['local']}; "
                        "choose another subnet for the lab"
                    )


def addresses(pid: int) -> dict[str, list[str]]:
    """What a process sees: interface to its addresses with prefix lengths."""
    return {
        link["ifname"]: [f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"]]
        for link in _inside(pid, "address")
    }


def traffic(pid: int) -> tuple[int, int]:
    """Bytes in and out, over all cards but the loopback (proc_net_dev(5))."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    rows = [line.split(":")[1].split() for line in lines if line.split(":")[0].strip() != "lo"]
    return sum(int(row[0]) for row in rows), sum(int(row[8]) for row in rows)


def configure(
    pid: int, before: Sequence[Interface], after: Sequence[Interface], bridges: Bridges
) -> None:
    """Take away, add and change cards of a running guest."""
    old, new = ({card.name: card for card in cards} for cards in (before, after))
    for name, card in old.items():
        if _wire(card) != _wire(new.get(name)):
            _do(pid, "link", "delete", name)
    for name, card in new.items():
        known = old.get(name)
        if _wire(card) != _wire(known):
            known = None
            _attach(pid, card, bridges)
        if known is None or _route(card) != _route(known):
            _address(pid, card)


def _wire(card: Interface | None) -> object:
    return card and (card.hwaddr, card.bridge, card.mtu)


def _route(card: Interface) -> object:
    return (card.address, card.gateway)


def _attach(pid: int, card: Interface, bridges: Bridges) -> None:
    outer, inner = (f"veth{secrets.token_hex(4)}" for _ in range(2))
    mtu = ("mtu", str(card.mtu)) if card.mtu else ()
    run("ip", "link", "add", outer, *mtu, "type", "veth", "peer", inner, *mtu)
    try:
        run("ip", "link", "set", outer, "master", bridges.link(card.bridge), "up")
        run(
            "ip", "link", "set", inner, "address", card.hwaddr, "netns", str(pid), "name", card.name
        )
    except RuntimeFailed:
        run("ip", "link", "delete", outer)
        raise


def _address(pid: int, card: Interface) -> None:
    _do(pid, "link", "set", card.name, "up")
    _do(pid, "-4", "address", "flush", "dev", card.name)
    if card.address:
        _do(pid, "address", "add", card.address, "dev", card.name)
    if card.gateway:
        _do(pid, "route", "replace", "default", "via", card.gateway, "dev", card.name)


def _ip(kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("ip", "-json", kind, "show") or "[]")
    return found


def _inside(pid: int, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_do(pid, "-json", kind, "show"))
    return found


def _do(pid: int, *argv: str) -> str:
    return run("nsenter", "--net", "--target", str(pid), "ip", *argv)
