"""Updates that go wrong: each ends in order, says what to do, and the next run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corral import Variant
from tests.fleet.collection.operator import kill_group
from tests.fleet.roll.conftest import Fleet, ended
from tests.fleet.roll.flow import KIND
from tests.fleet.site import ROOT

pytestmark = pytest.mark.timeout(1200)  # the first test pays for the site


def test_a_release_without_a_bundle_touches_nobody(fleet: Fleet) -> None:
    before = fleet.lives()
    status, output = fleet.update("9.9.9")
    assert status == 2
    assert "There is no bundle" in output
    assert "make bundle RELEASE=9.9.9" in output

    # A file that was renamed is another release still.
    false = ROOT / "dist" / "corral-9.9.9.tar"
    shutil.copy(ROOT / "dist" / f"corral-{fleet.another()}.tar", false)
    try:
        status, output = fleet.update("9.9.9")
    finally:
        false.unlink()
    assert status == 2
    assert f"holds release {fleet.another()}, and not 9.9.9" in output
    assert fleet.lives() == before
    assert set(fleet.releases()) == set(fleet.workers)


def test_a_release_that_does_not_start_costs_the_canary_alone(fleet: Fleet) -> None:
    (running,) = set(fleet.releases().values())
    before = fleet.lives()
    status, output = fleet.update(fleet.broken)
    assert status == 2
    assert f"worker-1 did not pass with {fleet.broken} (Let it run the release: " in output
    assert "is at work with the release before" in output
    assert fleet.all_on(running)
    after = fleet.lives()
    assert after.pop("worker-1") != before.pop("worker-1")
    assert after == before


def test_an_update_goes_on_with_the_rest(fleet: Fleet, tmp_path: Path) -> None:
    """After one that lost the broker's machine for a moment, after one that waited too long for a
    task, and after one that was killed.
    """
    release = fleet.another()
    before = fleet.releases()
    ssh = silent_once(fleet, "broker", release, tmp_path)
    status, output = fleet.update(release, "-e", f"ansible_ssh_executable={ssh}")
    assert status != 0
    assert "broker could not be reached" in output
    assert "No worker was touched" in output
    assert fleet.releases() == before

    needs = (Variant(cpus=0.0, labels={"host": "worker-3"}),)
    long = fleet.client.submit(KIND, seconds=900.0, needs=needs)
    fleet.until(lambda: bool(fleet.seen()["worker-3"].tasks))
    status, output = fleet.update(release, "-e", "drain_timeout=3")
    assert status == 2
    for host in ("worker-2", "worker-3"):
        assert f"{host} did not pass with {release}" in output
    assert f"worker-3 runs {long.id}" in output
    assert fleet.releases() == before | {"worker-1": release}  # all are at work
    assert fleet.client.show([long.id])[0].state == "running"

    done = fleet.lives()["worker-1"]
    with fleet.update_under_way(release) as roll:
        fleet.until(lambda: fleet.updating() == {"worker-3", "worker-4"}, roll)
        kill_group(roll)
    assert fleet.updating() == {"worker-3", "worker-4"}  # nobody gives them work again

    fleet.client.cancel([long.id])
    status, output = fleet.update(release)
    assert status == 0, output
    assert fleet.all_on(release)
    assert fleet.lives()["worker-1"] == done  # it had passed


def silent_once(fleet: Fleet, host: str, release: str, folder: Path) -> Path:
    """An ssh that does not reach a machine, once, in the middle of the release's installation."""
    # Another test may have installed it.
    fleet.ssh(host, f"rm -f /opt/corral/releases/{release}/release.json")
    names = fleet.site.folder.glob("volumes/*/root/etc/hostname")
    (root,) = (one.parents[1] for one in names if one.read_text().strip() == host)
    ssh = folder / "ssh"
    ssh.write_text(f"""\
#!/bin/sh
case "$*" in *" {fleet.site.address(host)} "*)
    test -e {root}/opt/corral/wheels-{release} && mkdir {folder}/was && exit 255
esac
exec /usr/bin/ssh "$@"
""")
    ssh.chmod(0o755)
    return ssh


def test_a_machine_that_dies_in_the_middle_of_a_batch_stops_the_roll(fleet: Fleet) -> None:
    release = fleet.another()
    before = fleet.lives()
    with fleet.update_under_way(release) as roll:
        fleet.until(lambda: fleet.updating() == {"worker-2", "worker-3"}, roll)
        fleet.power("worker-2", "stop")
        status, output = ended(roll)
    assert status == 2, output
    assert f"worker-2 did not pass with {release}" in output
    assert "and is in quarantine" in output
    assert "playbooks/drain.yml -e host=worker-2 -e state=resumed" in output
    assert "worker-3 did not pass" not in output
    at_work = fleet.releases()
    assert at_work.pop("worker-1") == at_work.pop("worker-3") == release
    assert set(at_work) == {"worker-4"}
    assert fleet.lives()["worker-4"] == before["worker-4"]

    # Not reached from the beginning, it holds up nobody and is named.
    status, output = fleet.update(release)
    assert status != 0
    assert fleet.releases() == dict.fromkeys(("worker-1", "worker-3", "worker-4"), release)
    assert "worker-2 could not be reached" in output

    fleet.power("worker-2", "start")
    fleet.until(lambda: fleet.is_live("worker-2"))
    status, output = fleet.update(release)
    assert status == 0, output
    assert fleet.all_on(release)


def test_what_an_operator_drained_stays_so_and_the_last_at_work_stay_at_work(fleet: Fleet) -> None:
    release = fleet.another()
    before = fleet.lives()
    fleet.client.drain("worker-1", "new memory")
    others = set(fleet.workers) - {"worker-1"}
    try:
        status, output = fleet.update(release, "-e", "batch=3")
        assert status == 2
        assert "Without worker-2, worker-3, worker-4 there would be 0 workers at work" in output
        # Who was not switched is not rolled back, which would take it to an older release still.
        assert set(fleet.releases()) == others
        assert {name for name, life in fleet.lives().items() if life != before[name]} == {
            "worker-1"
        }

        status, output = fleet.update(release)
        assert status == 0, output
        assert fleet.releases() == dict.fromkeys(others, release)
        drained = fleet.seen()["worker-1"]
        assert drained.about["corral"] == release
        assert (drained.admission, drained.drain_reason) == ("drained", "new memory")

        before = fleet.lives()
        status, output = fleet.update(release)
        assert status == 0, output
        assert fleet.lives() == before  # nobody is due
    finally:
        fleet.client.resume("worker-1")
    assert fleet.all_on(release)
