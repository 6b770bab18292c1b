"""What is written into a root file system, as Proxmox does: before each start, after a clone.

Files are replaced by a rename, so a link in a guest's /etc leads nowhere outside of it.
"""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

from corral.lab.lxc.commands import run
from corral.lab.runtime import Guest

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
    _write(root / "etc/hosts", _hosts(guest))


def _first_boot(root: Path) -> bool:
    file = root / "etc/machine-id"
    return file.is_file() and file.read_text().strip() == UNINITIALIZED


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.rename(path)


def _hosts(guest: Guest) -> str:
    names = f"{guest.hostname}.{guest.searchdomain} " if guest.searchdomain else ""
    own = next((card.address for card in guest.interfaces if card.address), None)
    address = ip_interface(own).ip if own else "127.0.1.1"
    return f"127.0.0.1 localhost\n::1 localhost\n{address} {names}{guest.hostname}\n"


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
