"""A container boots, is reached, and ends: each of the ways."""

from __future__ import annotations

import re
import time

import pytest

from corral.lab.runtime import RuntimeFailed
from tests.fleet.runtime.guests import TEMPLATE, Machine


def wait_until_stopped(machine: Machine, vmid: int) -> None:
    until = time.monotonic() + 20
    while vmid in machine.runtime.usage():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_guest_boots_as_its_config_says(machine: Machine) -> None:
    machine.clone(101)
    machine.start(
        101,
        nameservers=(f"{machine.subnet}.1",),
        searchdomain="fleet.example",
        variables={"CORRAL_BROKER": "tcp://10.0.0.1:5555"},
    )
    assert machine.booted(101) == "running"
    own = machine.address(101)
    seen = machine.run(
        101,
        "hostname; cat /etc/hostname; getent ahostsv4 ct101 | head -1; cat /etc/resolv.conf; "
        "ip -4 -brief address show eth0; ip route show default; cat /sys/class/net/eth0/address; "
        "tr '\\0' '\\n' </proc/1/environ | grep CORRAL",
    ).splitlines()
    assert [re.sub(r"(\s|@\w+)+", " ", line).strip() for line in seen] == [
        "ct101",
        "ct101",
        f"{own} STREAM ct101.fleet.example",
        "search fleet.example",
        f"nameserver {machine.subnet}.1",
        f"eth0 UP {own}/24",
        f"default via {machine.subnet}.1 dev eth0",
        "bc:24:11:00:00:65",
        "CORRAL_BROKER=tcp://10.0.0.1:5555",
    ]
    assert machine.runtime.addresses(101)["eth0"][0] == f"{own}/24"


def test_usage_tells_what_runs_and_what_it_takes(machine: Machine) -> None:
    assert machine.runtime.usage() == {}
    machine.clone(101)
    machine.start(101, cores=1)
    machine.runtime.usage()
    machine.run(
        101, "timeout 2 sh -c 'while :; do :; done'; dd if=/dev/zero of=/big bs=1M count=30; sync"
    )
    used = machine.runtime.usage()[101]
    assert 0.3 < used.cpu <= 1
    assert 1 < used.uptime < 60
    assert 5 * 1024**2 < used.memory < 512 * 1024**2
    assert used.netin > 1000
    assert used.netout > 1000
    assert machine.runtime.size("vm-101-disk-0") > 30 * 1024**2


def test_shutdown_is_orderly_and_stop_is_not(machine: Machine) -> None:
    machine.clone(101)
    machine.start(101)
    unit = "systemd-run --unit last --property ExecStop='/bin/sh -c \"echo bye >/bye\"' sleep 1000"
    machine.run(101, unit)
    assert machine.runtime.shutdown(101, 20) is True
    assert machine.runtime.usage() == {}
    machine.start(101)
    assert machine.run(101, "cat /bye; rm /bye; sync") == "bye"
    machine.run(101, unit)
    machine.runtime.stop(101)
    assert machine.runtime.usage() == {}
    machine.start(101)
    assert machine.run(101, "ls /bye || true") == ""


def test_shutdown_gives_up_on_a_guest_that_does_not_end(machine: Machine) -> None:
    machine.clone(101)
    machine.start(101)
    machine.run(101, "systemd-run --property ExecStop='/bin/sleep 60' sleep 1000")
    before = time.monotonic()
    assert machine.runtime.shutdown(101, 1.0) is False
    assert time.monotonic() - before < 5
    assert 101 in machine.runtime.usage()
    machine.runtime.stop(101)
    assert machine.runtime.usage() == {}


def test_shutdown_right_after_the_start_is_heard(machine: Machine) -> None:
    machine.clone(101)
    machine.runtime.start(machine.guest(101), machine.log)
    assert machine.runtime.shutdown(101, 20) is True


def test_power_off_and_reboot_from_inside_are_seen(machine: Machine) -> None:
    machine.clone(101)
    machine.start(101)
    first = machine.run(
        101, "cat /proc/sys/kernel/random/boot_id; touch /run/mark; stat -c %Y /proc/1"
    )
    machine.ssh(machine.address(101), "systemctl reboot")
    until = time.monotonic() + 20
    while machine.ssh(machine.address(101), "test ! -e /run/mark").returncode != 0:
        assert time.monotonic() < until, first
        time.sleep(0.1)
    assert machine.runtime.usage()[101].uptime < 20
    machine.ssh(machine.address(101), "systemctl poweroff")
    wait_until_stopped(machine, 101)
    machine.runtime.delete("vm-101-disk-0")


def test_what_cannot_be_done_is_said(machine: Machine) -> None:
    machine.clone(101)
    machine.start(101)
    runtime = machine.runtime
    with pytest.raises(RuntimeFailed, match="already running"):
        runtime.start(machine.guest(101), machine.log)
    with pytest.raises(RuntimeFailed, match="CT 101 is running"):
        runtime.delete("vm-101-disk-0")
    with pytest.raises(RuntimeFailed, match="not running"):
        runtime.stop(102)
    with pytest.raises(RuntimeFailed, match="below others"):
        runtime.start(machine.guest(102, volume=TEMPLATE), machine.log)
    machine.clone(103)
    for wrong, reason in (
        (machine.card(103, bridge="vmbr9"), "bridge 'vmbr9' does not exist; there is vmbr0"),
        (machine.card(103, hwaddr="no address"), "startup for container '103' failed"),
    ):
        with pytest.raises(RuntimeFailed, match=reason):
            runtime.start(machine.guest(103, interfaces=(wrong,)), machine.log)
    assert set(runtime.usage()) == {101}
