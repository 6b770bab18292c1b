"""How soon a clone is at work, and how soon many are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.evidence import Evidence, Scale
from tests.fleet.playbooks.fleet import WORKERS, destroy, live, names
from tests.fleet.site import Site

CLONE_SECONDS = 10.0
MANY_SECONDS = 60.0
ALONE = 9  # its ordinal: nobody's in the fleet
PATIENCE = 120.0


@pytest.mark.timeout(900)
def test_a_clone_is_reachable_and_registered_within_seconds(
    deployed: Site, evidence: Evidence
) -> None:
    vmid, host, address = 5000 + ALONE, f"worker-{ALONE}", deployed.address(f"worker-{ALONE}")
    lab, api = deployed.lab, deployed.lab.client()
    node = "pve1"
    template = next(one for one in api.nodes(node).lxc.get() if one.get("template"))["vmid"]
    began = time.monotonic()
    try:
        cloned = api.nodes(node).lxc(template).clone.post(newid=vmid, hostname=host, pool="corral")
        assert lab.wait(api, cloned) == "OK"
        gateway = f"{deployed.subnet}.1"
        card = f"name=eth0,bridge=vmbr0,ip={address}/24,gw={gateway}"
        api.nodes(node).lxc(vmid).config.put(net0=card, cores=1, memory=512)
        assert lab.wait(api, api.nodes(node).lxc(vmid).status.start.post()) == "OK"
        key = _public_key(deployed, address)
        reachable = time.monotonic() - began
        deployed.corral("keys", "add", "--role", "worker", "--name", host, "--", key)
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
    try:
        with ThreadPoolExecutor(1) as operator:
            playing = operator.submit(deployed.run, "deploy", "-e", f"fleet_workers={count}")
            _until(lambda: names(count) <= live(deployed) or playing.done())
            registered = time.monotonic() - began
        played = playing.result()
    finally:
        destroy(deployed, *(5000 + ordinal for ordinal in range(WORKERS + 1, count + 1)))
    assert played.status == 0, played.output
    evidence.record(
        "many clones at work", workers=count, registered_after_seconds=registered,
        deployed_after_seconds=played.seconds,
    )  # fmt: skip
    assert registered <= MANY_SECONDS


def _public_key(site: Site, address: str) -> str:
    """The worker's, once it can be reached."""
    found: list[str] = []

    def look() -> bool:
        done = site.ssh(address, "cat /var/lib/corral-worker/worker.key")
        if done.returncode == 0:
            found.append(json.loads(done.stdout)["public"])
        return bool(found)

    _until(look)
    return found[0]


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)
