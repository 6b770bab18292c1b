"""deploy.yml, verify.yml and drift.yml on real containers."""

from __future__ import annotations

import json

import pytest

from tests.evidence import Evidence
from tests.fleet.playbooks.fleet import WORKERS, as_wanted, boot, destroy, live, names
from tests.fleet.site import Site

#: what turns a clone into a machine that Corral was never on
BARE = """\
systemctl disable --now corral-worker && rm -r /opt/corral /usr/local/bin/corral
printf '#!/bin/sh\\necho 550.54.15, GPU-1, Stand-in, 24.0 GiB\\n' >/usr/local/bin/nvidia-smi
chmod +x /usr/local/bin/nvidia-smi
"""

pytestmark = pytest.mark.timeout(900)  # the first test pays for the site


def test_check_mode_shows_the_whole_plan_of_an_empty_cluster(empty: Site) -> None:
    before = empty.mark()
    planned = empty.play("deploy", "--check", "--diff")
    for host in ("broker", *names()):
        assert f"hostname: {host}\n" in planned.output, host
    assert planned.changed.keys() == {"localhost"}
    assert {call.partition(" ")[0] for call in empty.calls(before)} == {"GET"}
    assert empty.containers() == {}


def test_a_second_deploy_changes_nothing_and_plans_with_one_call(
    deployed: Site, evidence: Evidence
) -> None:
    deployed.play("verify")
    before = deployed.mark()
    again = deployed.play("deploy")
    assert again.changed == {}
    assert again.recap.keys() == {"localhost", "broker", *names()}
    calls = deployed.calls(before)
    # The inventory is read twice, at the start and when the containers are there.
    assert calls == ["GET /cluster/resources"] * 3
    evidence.record(
        "deploy.yml again", changed=0, calls_of_the_plan=len(calls) - 2, seconds=again.seconds
    )


def test_drift_finds_what_was_done_by_hand(deployed: Site) -> None:
    deployed.play("drift")  # none
    node = deployed.containers()[5001]["node"]
    deployed.lab.client().nodes(node).lxc(5001).config.put(cores=2)
    deployed.ssh(deployed.address("worker-2"), "systemctl stop corral-worker")

    found = deployed.run("drift")
    assert found.status == 2, found.output
    assert "Differs from the inventory: localhost, worker-2;" in found.output
    assert "cores: " in found.output

    # The run that mends it has the fleet grow as well, while its broker is down: who could not be
    # let in at once is in the end.
    deployed.ssh(deployed.address("broker"), "systemctl stop corral-broker")
    new = WORKERS + 1
    try:
        mended = deployed.play("deploy", "-e", "fleet_drift=true", "-e", f"fleet_workers={new}")
        assert live(deployed) == names(new)
    finally:
        destroy(deployed, 5000 + new)
    assert mended.changed.keys() == {"localhost", "broker", *names(new)}  # all know it by name
    assert deployed.containers()[5001]["cores"] == 1
    assert as_wanted(deployed)


def test_a_gpu_host_has_its_release_before_it_must_see_its_cards(deployed: Site) -> None:
    """A machine with nothing on it but a driver, in whose place a script answers."""
    vmid, address = 6001, f"{deployed.subnet}.60"
    static = deployed.folder / "inventory/gpu.yml"
    host = {"ansible_host": address, "gpu_host_torch": False}
    static.write_text(json.dumps({"all": {"children": {"role_gpu": {"hosts": {"gpu-1": host}}}}}))
    try:
        boot(deployed, vmid, "gpu-1", address)
        bare = deployed.ssh(address, BARE)
        assert bare.returncode == 0, bare.stderr
        played = deployed.run("deploy", "--limit", "localhost,gpu-1")
        release = deployed.ssh(address, "readlink /opt/corral/current").stdout
    finally:
        static.unlink()
        destroy(deployed, vmid)
    # The release of the tests is made without what sees cards; it is there, and says so.
    assert played.status == 2
    assert release.strip() == f"/opt/corral/releases/{deployed.release}", played.output
    assert "the release does not see them" in played.output
    assert "No module named 'pynvml'" in played.output
    assert "EXTRAS=[gpu,research]" in played.output
