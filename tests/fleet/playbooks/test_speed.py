"""How soon a clone is at work, and how soon many are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.evidence import Evidence, Scale
from tests.fleet.collection.operator import kill_group
from tests.fleet.playbooks.fleet import WORKERS, boot, destroy, live, names
from tests.fleet.site import PLAY_SECONDS, Site

CLONE_SECONDS = 10.0
MANY_SECONDS = 60.0
ALONE = 9  # its ordinal: nobody's in the fleet
PATIENCE = 120.0
KEY = "systemctl start corral-key && cat /var/lib/corral-worker/worker.key"


@pytest.mark.timeout(900)
def test_a_clone_is_reachable_and_registered_within_seconds(
    deployed: Site, evidence: Evidence
) -> None:
    vmid, host, address = 5000 + ALONE, f"worker-{ALONE}", deployed.address(f"worker-{ALONE}")
    began = time.monotonic()
    try:
        boot(deployed, vmid, host, address, pool="corral")
        reachable = time.monotonic() - began
        key = json.loads(deployed.ssh(address, KEY).stdout)
        deployed.corral("keys", "add", "--role", "worker", "--name", host, "--", key["public"])
        _until(lambda: host in live(deployed))
        registered = time.monotonic() - began
    finally:
        destroy(deployed, vmid)
        known = json.loads(deployed.corral("keys", "list", "-o", "json"))
        if any(one["name"] == host and not one["revoked"] for one in known):
            deployed.corral("keys", "revoke", host)
    evidence.record(
        "a clone at work", reachable_after_seconds=reachable, registered_after_seconds=registered
    )
    assert registered <= CLONE_SECONDS


@pytest.mark.timeout(900)
def test_many_clones_are_at_work_within_a_minute(
    deployed: Site, scale: Scale, evidence: Evidence
) -> None:
    count = 20 if scale.name == "long" else 6
    began = time.monotonic()
    playing = deployed.start("deploy", "-e", f"fleet_workers={count}")
    try:
        _until(lambda: names(count) <= live(deployed) or playing.poll() is not None)
        registered = time.monotonic() - began
        if scale.name == "long":  # else what comes after that is other tests'
            output, _ = playing.communicate(timeout=PLAY_SECONDS)
            assert playing.returncode == 0, output
    finally:
        if playing.poll() is None:
            kill_group(playing)
        assert playing.stdout is not None
        playing.stdout.close()
        destroy(deployed, *(5000 + ordinal for ordinal in range(WORKERS + 1, count + 1)))
    evidence.record("many clones at work", workers=count, registered_after_seconds=registered)
    assert registered <= MANY_SECONDS


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)
