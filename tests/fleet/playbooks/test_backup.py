"""backup.yml and restore.yml: the broker's container is lost, and nothing with it."""

from __future__ import annotations

import pytest

from corral import Client
from tests.fleet.playbooks.fleet import (
    BROKER,
    DEADLINE,
    destroy,
    live,
    names,
    submit,
    succeeded,
    wait_until_done,
)
from tests.fleet.site import ROOT, Site

PROCESS = "systemctl show corral-broker --property MainPID"

pytestmark = pytest.mark.timeout(900)


def test_queue_and_results_outlive_the_broker_s_container(deployed: Site) -> None:
    done = submit(deployed, 20, 0.01)
    wait_until_done(deployed, done)
    queued = submit(deployed, 30, 2)
    ann = deployed.folder / "ann.key"
    deployed.corral("keys", "new", "--role", "client", "--name", "ann", "--out", str(ann))
    served = deployed.ssh(deployed.address("broker"), PROCESS).stdout
    deployed.play("backup")
    assert served == deployed.ssh(deployed.address("broker"), PROCESS).stdout  # it went on

    wrong = deployed.run("restore", "-e", "archive=backups/none.tar.zst")
    assert wrong.status == 2
    assert f"There is no archive {ROOT}/backups/none.tar.zst" in wrong.output

    archive = max((deployed.folder / "backups").iterdir())
    newer = archive.with_name("corral-99991231T000000Z.tar.zst")
    newer.write_bytes(archive.read_bytes()[:-100])
    cut = deployed.run("restore")
    newer.unlink()
    assert cut.status == 2
    assert f"{newer} cannot be used" in cut.output
    assert "-e archive=FILE" in cut.output
    assert served == deployed.ssh(deployed.address("broker"), PROCESS).stdout

    destroy(deployed, BROKER)
    restored = deployed.play("restore")
    assert "Let in again, as the archive has it: ann" in restored.output
    assert succeeded(deployed, done)
    wait_until_done(deployed, queued)
    assert live(deployed) == names()
    with Client(deployed.endpoint, key=str(ann)) as client:  # who was let in then still is
        assert client.outcome(client.submit("echo", said="hello"), DEADLINE).state == "succeeded"
    deployed.corral("keys", "revoke", "ann")
