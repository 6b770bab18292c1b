"""Many at once: how soon a clone can be reached, and what each of them costs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.evidence import Evidence
from tests.fleet.runtime.guests import Machine

COUNT = 20
WITHIN = 60.0  # seconds for all of them, on 2 cores
ONE_WITHIN = 10.0  # seconds from the clone to an answer over SSH


def test_one_clone_is_reached_soon(machine: Machine, evidence: Evidence) -> None:
    before = time.monotonic()
    machine.clone(101)
    cloned = time.monotonic()
    machine.start(101)
    reached = time.monotonic()
    assert machine.booted(101) == "running"
    assert reached - before < ONE_WITHIN
    evidence.record(
        "a linked clone of a template boots soon",
        cloned_seconds=round(cloned - before, 2),
        reached_seconds=round(reached - before, 2),
        running_seconds=round(time.monotonic() - before, 2),
    )


@pytest.mark.timeout(240)
def test_twenty_guests_at_once(machine: Machine, evidence: Evidence) -> None:
    vmids = range(101, 101 + COUNT)
    before = time.monotonic()
    with ThreadPoolExecutor(COUNT) as threads:
        list(threads.map(machine.clone, vmids))
        cloned = time.monotonic()
        list(threads.map(machine.start, vmids))
        reached = time.monotonic()
        assert set(threads.map(machine.booted, vmids)) == {"running"}
        running = time.monotonic()
        used = machine.runtime.usage()
        assert set(used) == set(vmids)
        each = sum(guest.memory for guest in used.values()) / COUNT
        assert (
            list(threads.map(lambda vmid: machine.runtime.shutdown(vmid, 60), vmids))
            == [True] * COUNT
        )
    assert running - before < WITHIN
    assert each < 64 * 1024**2
    evidence.record(
        f"{COUNT} clones run at once",
        cloned_seconds=round(cloned - before, 2),
        reached_seconds=round(reached - before, 2),
        running_seconds=round(running - before, 2),
        stopped_seconds=round(time.monotonic() - running, 2),
        mib_each=round(each / 1024**2, 1),
    )
