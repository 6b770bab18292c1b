"""A fleet that shrinks: who goes, what becomes of their work, and what the last worker may do."""

from __future__ import annotations

import pytest

from corral import Variant
from tests.fleet.roll.conftest import SLOTS, Fleet
from tests.fleet.roll.flow import KIND, PATIENCE

pytestmark = pytest.mark.timeout(1200)  # the first test pays for the site

SHORT, LONG = 20.0, 900.0  # seconds: about as long as a drain waits, and longer than the test


def test_remove_needs_the_host_named(fleet: Fleet) -> None:
    before = fleet.lives()
    for arguments in ((), ("-e", "host=worker-9"), ("-e", "host=broker")):
        played = fleet.site.run("remove", *arguments)
        assert played.status == 2
        assert "Say which one: -e host=worker-3" in played.output
    assert fleet.lives() == before
    assert set(fleet.releases()) == set(fleet.workers)


def test_the_idle_leave_first_and_the_last_one_is_not_updated_unasked(fleet: Fleet) -> None:
    busy = [*["worker-1", "worker-3"] * SLOTS, "worker-4"]
    tasks = [
        fleet.client.submit(
            KIND,
            seconds=SHORT if host == "worker-4" else LONG,
            needs=(Variant(cpus=0.0, labels={"host": host}),),
        )
        for host in busy
    ]
    fleet.until(lambda: sum(len(one.tasks) for one in fleet.seen().values()) == len(busy))
    shrunk = fleet.site.run("scale", "-e", "workers=2")
    assert shrunk.status == 0, shrunk.output
    assert set(fleet.releases()) == {"worker-1", "worker-3"}
    short = fleet.client.outcome(tasks.pop(), PATIENCE)
    assert (short.state, short.value) == ("succeeded", 1)  # its first attempt
    views = fleet.client.show([one.id for one in tasks])
    assert [view.state for view in views] == ["running"] * len(tasks)
    assert sorted(view.worker for view in views) == sorted(busy[:-1])
    fleet.client.cancel([one.id for one in tasks])
    fleet.until(lambda: not any(one.slots_used for one in fleet.seen().values()))

    # One that nobody reaches can be taken away.
    fleet.power("worker-3", "stop")
    gone = fleet.site.run("remove", "-e", "host=worker-3")
    assert gone.status == 0, gone.output
    assert {one["hostname"] for one in fleet.site.containers().values()} == {"broker", "worker-1"}

    last = fleet.site.run("remove", "-e", "host=worker-1")
    assert last.status == 2
    assert "-e confirm_empty=worker" in last.output
    assert set(fleet.releases()) == {"worker-1"}

    release = fleet.another()
    before = fleet.lives()
    status, output = fleet.update(release)
    assert status == 2
    assert "worker-1 is the only worker at work" in output
    assert "playbooks/scale.yml -e workers=2" in output
    assert "-e allow_outage=true" in output
    assert fleet.lives()["worker-1"] == before["worker-1"]
    status, output = fleet.update(release, "-e", "allow_outage=true")
    assert status == 0, output
    assert fleet.releases() == {"worker-1": release}

    # Who comes later under a name that was fenced gets work, also when the run that fenced it was
    # ended before it could lift that.
    fleet.client.drain("worker-1", "worker-1 is removed")
    grown = fleet.site.run("scale", "-e", "workers=3")
    assert grown.status == 0, grown.output
    assert set(fleet.releases()) == {"worker-1", "worker-2", "worker-3"}
