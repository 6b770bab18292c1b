"""The named formats of the API's schema, and its property strings (`name=eth0,bridge=vmbr0`).

A format is a function that returns or raises `ValueError` with Proxmox's words. A format that is
not in the table lets everything pass. Lists are told by their suffix: `pve-vmid-list`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping

SEPARATORS = re.compile(r"[,;\s\0]+")
LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"

CONTENT = ("backup", "images", "import", "iso", "none", "rootdir", "snippets", "vztmpl")


def split_list(text: str) -> list[str]:
    """The items of a list as the API takes it: any of `,` `;` space and NUL between them."""
    return [item for item in SEPARATORS.split(text) if item]


PRIVILEGES = frozenset(
    split_list(
        """
    Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit
    Group.Allocate Mapping.Audit Mapping.Modify Mapping.Use Permissions.Modify Pool.Allocate
    Pool.Audit Realm.Allocate Realm.AllocateUser SDN.Allocate SDN.Audit SDN.Use
    Sys.AccessNetwork Sys.Audit Sys.Console Sys.Incoming Sys.Modify Sys.PowerMgmt Sys.Syslog
    User.Modify VM.Allocate VM.Audit VM.Backup VM.Clone VM.Config.CDROM VM.Config.CPU
    VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network
    VM.Config.Options VM.Console VM.GuestAgent.Audit VM.GuestAgent.FileRead
    VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted
    VM.Migrate VM.PowerMgmt VM.Replicate VM.Snapshot VM.Snapshot.Rollback
    """
    )
)


def _shaped(pattern: str, words: str) -> Callable[[str], None]:
    compiled = re.compile(pattern)

    def check(value: str) -> None:
        if not compiled.fullmatch(value):
            raise ValueError(words.replace("%s", value))

    return check


def _one_of(allowed: Iterable[str], words: str) -> Callable[[str], None]:
    members = frozenset(allowed)

    def check(value: str) -> None:
        if value not in members:
            raise ValueError(words.replace("%s", value))

    return check


def _address(kind: Callable[[str], object], words: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        try:
            kind(value)
        except ValueError:
            raise ValueError(words) from None

    return check


def _network(*names: str, kind: Callable[[str], object], words: str) -> Callable[[str], None]:
    """An address with its prefix length, or one of some words."""

    def interface(value: str) -> None:
        if "/" not in value:
            raise ValueError(value)
        kind(value)

    address = _address(interface, words)
    return lambda value: None if value in names else address(value)


def _storage_path(value: str) -> None:
    if not value.startswith("/"):
        raise ValueError("value does not look like a valid absolute path")


def _startup(value: str) -> None:
    if not re.fullmatch(
        r"(?:\d+|(?:order=)?\d+|up=\d+|down=\d+)(?:,(?:order|up|down)=\d+)*", value
    ):
        raise ValueError("unable to parse startup options")


NAMED: Mapping[str, Callable[[str], None]] = {
    "pve-vmid": _shaped(r"[1-9]\d{2,8}", "value does not look like a valid VM ID"),
    "pve-node": _shaped(LABEL, "value does not look like a valid node name"),
    "pve-configid": _shaped(r"[a-zA-Z][a-zA-Z0-9_-]+", "invalid configuration ID '%s'"),
    "pve-storage-id": _shaped(
        r"[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]", "storage ID '%s' contains illegal characters"
    ),
    "pve-poolid": _shaped(
        r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){0,2}",
        "value '%s' does not look like a valid pool name",
    ),
    "pve-userid": _shaped(
        r"[^\s:/]{1,57}@[A-Za-z][A-Za-z0-9._-]+",
        "value '%s' does not look like a valid user name",
    ),
    "pve-tokenid": _shaped(
        r"[^\s:/]{1,57}@[A-Za-z][A-Za-z0-9._-]+![A-Za-z][A-Za-z0-9._-]+",
        "value '%s' does not look like a valid token ID",
    ),
    "pve-roleid": _shaped(r"[A-Za-z0-9._-]+", "role name '%s' contains invalid characters"),
    "pve-priv": _one_of(PRIVILEGES, "invalid privilege '%s'"),
    "pve-storage-content": _one_of(CONTENT, "invalid content type '%s'"),
    "pve-tag": _shaped(r"[A-Za-z0-9_][A-Za-z0-9_+.-]*", "invalid characters in tag"),
    "dns-name": _shaped(rf"(?:{LABEL}\.)*{LABEL}", "value does not look like a valid DNS name"),
    "mac-addr": _shaped(
        r"[0-9A-Fa-f][02468ACEace](?::[0-9A-Fa-f]{2}){5}",
        "value does not look like a valid unicast MAC address",
    ),
    "ipv4": _address(ipaddress.IPv4Address, "value does not look like a valid IPv4 address"),
    "ipv6": _address(ipaddress.IPv6Address, "value does not look like a valid IPv6 address"),
    "ip": _address(ipaddress.ip_address, "value does not look like a valid IP address"),
    "lxc-ip-with-ll-iface": _address(
        lambda value: ipaddress.ip_address(value.partition("%")[0]),
        "value does not look like a valid IP address",
    ),
    "pve-ipv4-config": _network(
        "dhcp", "manual",
        kind=ipaddress.IPv4Interface,
        words="value does not look like a valid ipv4 network configuration",
    ),
    "pve-ipv6-config": _network(
        "auto", "dhcp", "manual",
        kind=ipaddress.IPv6Interface,
        words="value does not look like a valid ipv6 network configuration",
    ),
    "disk-size": _shaped(
        r"\d+(?:\.\d+)?[KMGT]?", "value does not look like a valid disk size: %s"
    ),
    "pve-storage-path": _storage_path,
    "pve-startup-order": _startup,
    "pve-volume-id": _shaped(r"[A-Za-z][\w.-]*:.+", "unable to parse volume ID '%s'\n"),
    "pve-lxc-dev-string": _shaped(r"/dev/.+", "%s is not a valid device path"),
}  # fmt: skip


def check_format(name: str, value: str) -> None:
    """Raise `ValueError` when `value` is not of the named format.

    The words end with a line feed, as they do in Proxmox's answers.
    """
    single = name.removesuffix("-opt").removesuffix("-list")
    check = NAMED.get(single)
    if check is None or (name.endswith("-opt") and not value):
        return
    try:
        for item in split_list(value) if name.endswith("-list") else [value]:
            check(item)
    except ValueError as error:
        raise ValueError(f"invalid format - {error}\n") from None


def normal_tags(text: str) -> str:
    """Tags as Proxmox stores them: lower case, sorted, each once, `;` between; none is a space."""
    return ";".join(sorted({tag.lower() for tag in split_list(text)})) or " "


def parse_properties(text: str, default_key: str | None = None) -> dict[str, str]:
    """`a=1,b=2` as a mapping; a part without a name belongs to `default_key`."""
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part:
            continue
        key, equals, value = part.partition("=")
        if equals and re.fullmatch(r"[a-zA-Z][\w-]*", key):
            found[key] = value
        elif default_key is not None:
            found[default_key] = part
        else:
            raise ValueError(f"value without key, but schema does not define a default key: {part}")
    return found


def print_properties(
    values: Mapping[str, object], first: str | None = None, bare: bool = False
) -> str:
    """A mapping as a property string: `first` leads, the rest follows in alphabetical order.

    With `bare` the first value stands without its name, as a volume does.
    """
    parts = [f"{key}={values[key]}" for key in sorted(values) if key != first]
    if first is not None and first in values:
        parts.insert(0, str(values[first]) if bare else f"{first}={values[first]}")
    return ",".join(parts)


UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(text: str) -> int:
    """`4G` in bytes."""
    unit = UNITS.get(text[-1:].upper())
    return int(float(text[:-1]) * unit) if unit else int(float(text))


def print_size(size: int) -> str:
    """Bytes in the largest unit that leaves a whole number."""
    for letter in ("T", "G", "M", "K"):
        if size and size % UNITS[letter] == 0:
            return f"{size // UNITS[letter]}{letter}"
    return str(size)
