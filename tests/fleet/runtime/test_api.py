"""The whole way: `corral lab up`, a fleet made over the API with proxmoxer, `corral lab down`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxmoxer import ProxmoxAPI

from tests.evidence import Evidence
from tests.fleet.runtime.guests import Machine
from tests.fleet.runtime.test_traces import traces

NODE = "pve1"
TASK_SECONDS = 60.0


def corral(*argv: str | Path) -> str:
    command = [Path(sys.executable).with_name("corral"), *argv]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


class Client:
    """A client of the lab, as root's token."""

    def __init__(self, lab: dict[str, object], tokens: dict[str, dict[str, str]]) -> None:
        user, _, name = tokens["root"]["id"].partition("!")
        self.api = ProxmoxAPI(
            lab["host"],
            port=lab["port"],
            user=user,
            token_name=name,
            token_value=tokens["root"]["secret"],
            verify_ssl=lab["ca_file"],
            timeout=60,
        )
        self.node = self.api.nodes(NODE)

    def done(self, upid: str) -> None:
        """Wait for a task; it must end well."""
        task, until = self.node.tasks(upid), time.monotonic() + TASK_SECONDS
        while (status := task.status.get())["status"] != "stopped":
            assert time.monotonic() < until, status
            time.sleep(0.02)
        assert status["exitstatus"] == "OK", task.log.get()


@pytest.fixture
def lab(own: Machine, tmp_path: Path) -> Iterator[Client]:
    """A lab of its own beside the runtime of the test, whose subnet and helpers it takes over."""
    own.runtime.close()
    own.folder = tmp_path / "real"
    before = traces(own.folder)
    bridges = json.dumps({"vmbr0": f"{own.subnet}.1/24"})
    up = ("lab", "up", "--data", own.folder, "--cores", "8", "--memory", "16")
    found = json.loads(corral(*up, "--set", f"bridges={bridges}", "-o", "json"))
    try:
        yield Client(found, found["tokens"])
    finally:
        corral("lab", "down", "--data", own.folder)
    assert traces(own.folder) == before
    assert not own.folder.exists()


@pytest.mark.timeout(300)
def test_a_fleet_from_template_to_grave(own: Machine, lab: Client, evidence: Evidence) -> None:
    lxc, storage = lab.node.lxc, lab.node.storage("local")
    with own.image.open("rb") as file:
        lab.done(storage.upload.post(content="vztmpl", filename=file))
    archive = f"local:vztmpl/{own.image.name}"
    assert archive in {entry["volid"] for entry in storage.content.get(content="vztmpl")}

    def card(vmid: int) -> str:
        return f"name=eth0,bridge=vmbr0,ip={own.address(vmid)}/24,gw={own.subnet}.1"

    key = own.key.with_suffix(".pub").read_text()
    lab.done(
        lxc.post(
            vmid=200, ostemplate=archive, rootfs="local-lvm:4", hostname="golden", memory=512,
            cores=1, net0=card(200), **{"ssh-public-keys": key},
        )
    )  # fmt: skip
    lab.done(lxc(200).status.start.post())
    own.reach(own.address(200))
    own.run(200, "echo golden >/etc/golden; echo uninitialized >/etc/machine-id")
    lab.done(lxc(200).status.shutdown.post(timeout=20))
    lxc(200).template.post()
    until = time.monotonic() + TASK_SECONDS
    while not lxc(200).config.get().get("template"):
        assert time.monotonic() < until
        time.sleep(0.02)

    before = time.monotonic()
    vmids = range(101, 106)
    for vmid in vmids:
        lab.done(lxc(200).clone.post(newid=vmid, hostname=f"w{vmid}"))
        lxc(vmid).config.put(cores=2, memory=384, net0=card(vmid))
    cloned = time.monotonic()
    lab.done(lab.api.cluster("bulk-action").guest.start.post(vms=list(vmids)))
    for vmid in vmids:
        own.reach(own.address(vmid))
    reached = time.monotonic()
    assert {own.run(vmid, "hostname; cat /etc/golden") for vmid in vmids} == {
        f"w{vmid}\ngolden" for vmid in vmids
    }
    assert own.run(101, "awk '/MemTotal/{print $2}' /proc/meminfo") == str(384 * 1024)
    found = lxc(101).interfaces.get()
    assert [entry["inet"] for entry in found if entry["name"] == "eth0"] == [
        f"{own.address(101)}/24"
    ]

    own.run(101, "echo one >/data")
    lab.done(lxc(101).snapshot.post(snapname="before"))
    own.run(101, "echo two >/data")
    lab.done(lxc(101).status.stop.post())
    lab.done(lxc(101).snapshot("before").rollback.post())
    lab.done(lxc(101).status.start.post())
    own.reach(own.address(101))
    assert own.run(101, "cat /data") == "one"

    lab.done(lab.node.vzdump.post(vmid=101, storage="local", mode="snapshot", compress="zstd"))
    backup = next(entry["volid"] for entry in storage.content.get(content="backup"))
    lab.done(lxc(101).status.stop.post())
    lab.done(lxc(101).delete(purge=1))
    assert own.ssh(own.address(101), "true").returncode == 255
    lab.done(lxc.post(vmid=101, ostemplate=backup, restore=1, storage="local-lvm"))
    lab.done(lxc(101).status.start.post())
    own.reach(own.address(101))
    assert own.run(101, "cat /data; hostname") == "one\nw101"

    for vmid in vmids:
        lab.done(lxc(vmid).delete(force=1))
    lab.done(lxc(200).delete())
    assert lxc.get() == []
    evidence.record(
        "five clones over the API",
        cloned_seconds=round(cloned - before, 2),
        reached_seconds=round(reached - before, 2),
    )
