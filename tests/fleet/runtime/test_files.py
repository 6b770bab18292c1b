"""What the lab writes into a guest's files, beside what others have written there."""

from __future__ import annotations

from pathlib import Path

from corral.lab.lxc import files
from corral.lab.runtime import Guest, Interface


def named(hostname: str) -> Guest:
    card = Interface(
        name="eth0", hwaddr="BC:24:11:00:00:01", bridge="vmbr0", address="10.9.0.7/24", gateway=None
    )
    return Guest(vmid=7, node="pve1", volume="vm-7-disk-0", hostname=hostname, interfaces=(card,))


def test_names_that_others_gave_stay_when_a_guest_is_named_anew(tmp_path: Path) -> None:
    hosts = tmp_path / "etc/hosts"
    hosts.parent.mkdir()
    hosts.write_text("127.0.0.1 localhost\n10.9.0.8 other\n")
    files.name(tmp_path, named("one"))
    hosts.write_text(hosts.read_text() + "10.9.0.9 third\n")
    files.name(tmp_path, named("two"))
    assert hosts.read_text().splitlines() == [
        "127.0.0.1 localhost",
        "10.9.0.8 other",
        "10.9.0.9 third",
        "# --- BEGIN PVE ---",
        "::1 localhost",
        "10.9.0.7 two",
        "# --- END PVE ---",
    ]


def test_a_guest_without_names_gets_all_that_it_needs(tmp_path: Path) -> None:
    files.name(tmp_path, named("one"))
    assert (
        "127.0.0.1 localhost\n::1 localhost\n10.9.0.7 one\n" in (tmp_path / "etc/hosts").read_text()
    )
