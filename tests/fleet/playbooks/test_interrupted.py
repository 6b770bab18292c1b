"""kill -9 of deploy.yml at random moments: the next run finishes what it began."""

from __future__ import annotations

import random
import subprocess

import pytest

from tests.evidence import Evidence, Scale
from tests.fleet.collection.operator import kill_group
from tests.fleet.playbooks.fleet import WORKERS, as_wanted, destroy, vmids
from tests.fleet.site import Site

MOST_SECONDS = 25.0  # a whole run takes about as long


@pytest.mark.timeout(1200)
def test_the_next_run_finishes_what_a_killed_one_began(
    deployed: Site, scale: Scale, evidence: Evidence
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    kills = max(3, scale.kills // 10)
    killed = 0
    while killed < kills:  # one that ends sooner than it is killed is none
        gone = chance.sample(sorted(vmids()), chance.randint(1, WORKERS))
        destroy(deployed, *gone)
        running = deployed.start("deploy")
        try:
            running.communicate(timeout=chance.uniform(1, MOST_SECONDS))
        except subprocess.TimeoutExpired:
            killed += 1
            kill_group(running)
            assert running.stdout is not None
            running.stdout.close()
        deployed.play("deploy")
        assert as_wanted(deployed), (seed, gone, deployed.containers(), deployed.workers())
    evidence.record("kill -9 of deploy.yml", kills=kills, orphans=0, duplicates=0)
