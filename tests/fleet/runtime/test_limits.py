"""Limits hold, at the start and when they change under a running guest."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from corral.lab.runtime import RuntimeFailed
from tests.fleet.runtime.guests import Machine

EAT = (  # in a unit of its own, or the session that asks for it is killed with it
    'systemd-run --quiet --wait --pipe python3 -c "import time; b=bytearray({mib}<<20); '
    "b[::4096]=b'x'*len(b[::4096]); print('eaten', flush=True); time.sleep({seconds})\""
)
BURN = (
    "python3 -c 'import time; end = time.time() + 2\n"
    "while time.time() < end: pass\n"
    "print(time.process_time())'"
)


def test_a_guest_sees_and_uses_its_cores_alone(machine: Machine) -> None:
    machine.clone(101)
    guest = machine.start(101, cores=1)
    count = "nproc; grep -c ^processor /proc/cpuinfo"
    assert machine.run(101, count).split() == ["1", "1"]
    machine.runtime.configure(replace(guest, cores=None))
    online = str(len(os.sched_getaffinity(0)))
    assert machine.run(101, count).split() == [online, online]


def test_clones_are_made_while_a_guest_is_configured(machine: Machine) -> None:
    machine.clone(101)
    guest = machine.start(101)
    with ThreadPoolExecutor(1) as pool:
        cores = [1, 2] * 40
        changed = [pool.submit(machine.runtime.configure, replace(guest, cores=n)) for n in cores]
        for vmid in range(102, 142):  # each looks for who runs on the volume that it clones
            machine.clone(vmid)
        for change in changed:
            change.result()


def test_cpulimit_is_a_share_of_time(machine: Machine) -> None:
    machine.clone(101)
    guest = machine.start(101, cpulimit=0.25)
    assert float(machine.run(101, BURN)) < 0.9  # of 2 s, with Python's start
    before = throttled(machine.runtime.usage()[101].pid)
    assert before > 5
    machine.runtime.configure(replace(guest, cpulimit=0))
    machine.run(101, BURN)
    assert throttled(machine.runtime.usage()[101].pid) == before


def throttled(pid: int) -> int:
    """How often a guest had to wait because of its limit: a busy machine does not change it."""
    groups = [line.split(":") for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    own = next(path for _, names, path in groups if names in ("cpu", "cpu,cpuacct", ""))
    top = Path("/sys/fs/cgroup", own.strip("/").removesuffix("/init.scope"))
    if not top.exists():
        top = Path("/sys/fs/cgroup/cpu", own.strip("/"))
    found = dict(line.split() for line in (top / "cpu.stat").read_text().splitlines())
    return int(found["nr_throttled"])


def test_memory_ends_where_the_config_says(machine: Machine) -> None:
    machine.clone(101)
    guest = machine.start(101, memory_mib=128, swap_mib=0)
    assert machine.run(101, "awk '/MemTotal/{print $2}' /proc/meminfo") == str(128 * 1024)
    much = EAT.format(mib=256, seconds=0)
    killed = machine.ssh(machine.address(101), much)
    assert (killed.stdout, killed.returncode != 0) == ("", True)
    assert machine.run(101, EAT.format(mib=64, seconds=0)) == "eaten"
    machine.runtime.configure(replace(guest, memory_mib=512))
    assert machine.run(101, much) == "eaten"
    machine.runtime.configure(replace(guest, memory_mib=160))
    assert "eaten" not in machine.ssh(machine.address(101), much).stdout


def test_memory_in_use_cannot_be_taken_away(machine: Machine) -> None:
    machine.clone(101)
    guest = machine.start(101, memory_mib=512, swap_mib=0)
    eater = EAT.format(mib=200, seconds=1000).replace("--wait --pipe", "")
    machine.run(101, eater)
    until = time.monotonic() + 10
    while machine.runtime.usage()[101].memory < 200 * 1024**2:
        assert time.monotonic() < until
        time.sleep(0.05)
    with pytest.raises(RuntimeFailed, match="memory"):
        machine.runtime.configure(replace(guest, memory_mib=64))
