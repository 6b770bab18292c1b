"""What is written into a root file system, as Proxmox does: before each start, after a clone.

Files are replaced by a rename, so a link in a guest's /etc leads nowhere outside of it.
"""

from __future__ import annotations

import re
from ipaddress import ip_interface
from pathlib import Path

from corral.lab.lxc.commands import run
from corral.lab.runtime import Guest

BEGIN, END = "# --- BEGIN PVE ---\n", "# --- END PVE ---\n"
OWN = re.compile(f"^{BEGIN}.*?^{END}", re.MULTILINE | re.DOTALL)  # what is ours in a guest's file
KEPT = "surrogateescape"  # of a file in no encoding that we know
UNINITIALIZED = "uninitialized"  # machine-id(5): the next boot is a first boot


def after_create(root: Path) -> None:
    """Make SSH host keys where an archive has none and no unit of its own to make them."""
    keyless = not any((root / "etc/ssh").glob("ssh_host_*_key"))
    if (root / "etc/ssh/sshd_config").is_file() and keyless and not _first_boot(root):
        run("ssh-keygen", "-A", "-f", root)


def after_clone(root: Path) -> None:
    """Let a clone be another machine, unless its own first boot will see to that."""
    if (root / "etc/machine-id").is_file() and not _first_boot(root):
        _write(root / "etc/machine-id", "")


def before_start(root: Path, guest: Guest) -> None:
    """Name, network and keys as the config says."""
    name(root, guest)
    _write(root / "etc/resolv.conf", _resolv_conf(guest))
    _write(root / "etc/network/interfaces", _interfaces(guest))
    keys = root / "root/.ssh/authorized_keys"
    if guest.ssh_public_keys and not keys.exists():
        keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(keys, guest.ssh_public_keys.rstrip("\n") + "\n", 0o600)


def name(root: Path, guest: Guest) -> None:
    """Its name, and how it finds itself by that name."""
    _write(root / "etc/hostname", f"{guest.hostname}\n")
    hosts = root / "etc/hosts"
    theirs = hosts.read_text(errors=KEPT) if hosts.is_file() and not hosts.is_symlink() else ""
    _write(hosts, _hosts(guest, OWN.sub("", theirs)))


def _first_boot(root: Path) -> bool:
    file = root / "etc/machine-id"
    return file.is_file() and file.read_text().strip() == UNINITIALIZED


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.write_text(text, errors=KEPT)
    fresh.chmod(mode)
    fresh.rename(path)


def _hosts(guest: Guest, theirs: str) -> str:
    """What others have written, and a section of our own."""
    names = f"{guest.hostname}.{guest.searchdomain} " if guest.searchdomain else ""
    own = next((card.address for card in guest.interfaces if card.address), None)
    address = ip_interface(own).ip if own else "127.0.1.1"
    local = "".join(
        f"{loopback} localhost\n"
        for loopback in ("127.0.0.1", "::1")
        if not re.search(rf"^\s*{re.escape(loopback)}\s", theirs, re.MULTILINE)
    )
    return f"{theirs}{BEGIN}{local}{address} {names}{guest.hostname}\n{END}"


def _resolv_conf(guest: Guest) -> str:
    search = [f"search {guest.searchdomain}"] if guest.searchdomain else []
    servers = [f"nameserver {address}" for address in guest.nameservers]
    return "".join(f"{line}\n" for line in search + servers)


def _interfaces(guest: Guest) -> str:
    """For an image with ifupdown: the addresses are set before it boots."""
    cards = "".join(
        f"\nauto {card.name}\niface {card.name} inet manual\n" for card in guest.interfaces
    )
    return f"auto lo\niface lo inet loopback\n{cards}"
