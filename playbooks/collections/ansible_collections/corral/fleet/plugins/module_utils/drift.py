"""How a configuration differs from the wanted one. No I/O.

Proxmox reorders property strings and adds to them (`hwaddr`, `type`), so of `net0` only what the
fleet says is compared; an option that the fleet does not mention is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils.wanted import Config

Changes = dict[str, dict[str, str]]

MANAGED = ("name", "bridge", "ip", "gw", "tag", "firewall")  # keys of net0
OFF = {"firewall": "0"}  # what a missing one means
DEFAULTS = {"onboot": "0", "swap": "512", "memory": "512"}  # what a missing option means


def properties(text: str) -> dict[str, str]:
    """A property string, such as `name=eth0,bridge=vmbr0`."""
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def changes(wanted: Config, has: Mapping[str, Any]) -> Changes:
    """Options that differ, with their value before and after."""
    differing = {}
    for key, value in wanted.items():
        before, after = str(has.get(key, DEFAULTS.get(key, ""))), str(value)
        same = _same_network(before, after) if key == "net0" else before == after
        if not same:
            differing[key] = {"before": before, "after": after}
    return differing


def to_write(wanted: Config, has: Mapping[str, Any]) -> Config:
    """What to write so that only the differences change: an interface keeps its MAC."""
    config = {key: wanted[key] for key in changes(wanted, has)}
    hwaddr = properties(str(has.get("net0", ""))).get("hwaddr")
    if "net0" in config and hwaddr:
        config["net0"] = f"{config['net0']},hwaddr={hwaddr}"
    return config


def address(config: Mapping[str, Any]) -> IPv4Address | None:
    """The fixed address in a guest's configuration."""
    for key in ("net0", "ipconfig0"):
        ip = properties(str(config.get(key, ""))).get("ip", "")
        if ip and ip not in ("dhcp", "manual"):
            return IPv4Interface(ip).ip
    return None


def _same_network(before: str, after: str) -> bool:
    one, other = properties(before), properties(after)
    return all(one.get(key, OFF.get(key)) == other.get(key, OFF.get(key)) for key in MANAGED)
