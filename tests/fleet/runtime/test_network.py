"""Network cards: what a start sets, and what changes under a running guest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from corral.lab.lxc import LxcRuntime
from corral.lab.runtime import RuntimeFailed
from tests.fleet.runtime.guests import Machine


def test_guests_reach_each_other(machine: Machine) -> None:
    for vmid in (101, 102):
        machine.clone(vmid)
        machine.start(vmid)
    there = (
        f"python3 -c \"import socket; socket.create_connection(('{machine.address(102)}', 22), 5)\""
    )
    machine.run(101, there)


def test_name_and_address_change_while_it_runs(machine: Machine) -> None:
    machine.clone(101)
    guest = machine.start(101)
    moved = replace(
        guest, hostname="other", interfaces=(machine.card(101, address=f"{machine.subnet}.77/24"),)
    )
    machine.runtime.configure(moved)
    machine.reach(f"{machine.subnet}.77")
    seen = machine.ssh(
        f"{machine.subnet}.77", "hostname; getent ahostsv4 other | head -1; ip route show default"
    )
    assert [" ".join(line.split()) for line in seen.stdout.splitlines()] == [
        "other",
        f"{machine.subnet}.77 STREAM other",
        f"default via {machine.subnet}.1 dev eth0",
    ]
    assert machine.runtime.addresses(101)["eth0"][0] == f"{machine.subnet}.77/24"


def test_cards_come_and_go_while_it_runs(machine: Machine) -> None:
    machine.clone(101)
    guest = machine.start(101)
    second = machine.card(
        101,
        name="eth1",
        hwaddr="BC:24:11:AA:BB:CC",
        address=f"{machine.subnet}.88/24",
        gateway=None,
    )
    machine.runtime.configure(replace(guest, interfaces=(*guest.interfaces, second)))
    assert machine.runtime.addresses(101)["eth1"][0] == f"{machine.subnet}.88/24"
    assert machine.run(101, "cat /sys/class/net/eth1/address") == "bc:24:11:aa:bb:cc"
    machine.runtime.configure(guest)
    assert set(machine.runtime.addresses(101)) == {"lo", "eth0"}
    assert machine.run(101, "hostname") == "ct101"


def test_a_subnet_in_use_is_refused(machine: Machine, tmp_path: Path) -> None:
    other = LxcRuntime(tmp_path / "other", {"vmbr0": f"{machine.subnet}.129/25"})
    with pytest.raises(RuntimeFailed, match=r"is in use: lab\w+ has .*; choose another subnet"):
        other.open()
    assert not (tmp_path / "other").exists()
