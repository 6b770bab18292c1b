"""kill -9 of a running `ansible` at random moments: the next run finishes what it began."""

from __future__ import annotations

import random
import subprocess
import time

import pytest

from tests.evidence import Evidence, Scale
from tests.fleet.collection.operator import (
    BROKER,
    NETWORK,
    WORKER,
    Operator,
    fleet,
    kill_group,
    requests_since,
)
from tests.fleet.lab.process import LabProcess

MOST = 9  # workers
CALLS = 20  # a run makes about as many
IDLE_SECONDS = 30


def settle(lab: LabProcess) -> None:
    """Wait for the tasks that a killed run left, as a user does before the next command."""
    until = time.monotonic() + IDLE_SECONDS
    while lab.own("GET", "/lab")["tasks"]:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.timeout(900)
def test_the_next_run_finishes_what_a_killed_one_began(
    lab: LabProcess, operator: Operator, scale: Scale, evidence: Evidence
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    kills = max(4, scale.kills // 5)
    lab.own("POST", "/lab/faults", json={"kind": "slow", "seconds": 0.2})
    killed = 0
    for _ in range(kills):
        count = chance.randint(0, MOST)
        arguments = {
            "pool": "corral",
            "network": NETWORK,
            "roles": [BROKER, WORKER | {"count": count}],
            "confirm_destroy": True,
            "confirm_empty": ["all"],
        }
        before = len(requests_since(lab, 0))
        moment = chance.randint(1, CALLS)
        running = subprocess.Popen(
            operator.command("containers", arguments),
            cwd=operator.folder,
            env=operator.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while running.poll() is None and len(requests_since(lab, 0)) < before + moment:
            time.sleep(0.02)
        if running.poll() is None:
            killed += 1
            kill_group(running)
        if chance.random() < 0.5:
            settle(lab)  # otherwise the killed run's tasks are still under way
        finished = operator.module("containers", arguments)
        assert not finished.failed, (seed, finished.returned)
        settle(lab)
        there = fleet(lab)
        workers = [vmid for vmid in there if vmid > WORKER["vmid"]]
        assert len(workers) == count, (seed, there)
        assert len(there) == count + 1, (seed, "an orphan", there)
        assert {one["status"] for one in there.values()} == {"running"}, (seed, there)
        assert not any("lock" in one for one in there.values()), (seed, there)
        assert all("spec-" in one["tags"] for one in there.values()), (seed, there)
        lab.own("POST", "/lab/look")
    assert not operator.module("containers", arguments).changed
    assert killed
    evidence.record("kill -9 of a run of the fleet", kills=killed, orphans=0, duplicates=0)
