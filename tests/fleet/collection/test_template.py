"""The module `template`, step by step, with interruptions."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.collection.operator import BROKER, WORKER, Answer, Operator, fleet
from tests.fleet.lab.process import LabProcess

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v6aTnO1oLwHyQ1dSe4p0SVv1rBfRjPxPBzqT8Cz9m a@b"
NODES = ["pve1", "pve2", "pve3"]


class Maker:
    """Somebody who makes templates."""

    def __init__(self, operator: Operator, archive: Path) -> None:
        self.operator = operator
        self.archive = archive

    def step(self, state: str, *flags: str, version: str = "7", **more: Any) -> Answer:
        common = {"state": state, "version": version, "pool": "corral"}
        return self.operator.module("template", common | more, *flags)

    def build(self, *flags: str, **more: Any) -> Answer:
        given = {
            "archive": str(self.archive),
            "storage": "local-lvm",
            "bridge": "vmbr0",
            "address": "10.7.0.5/24",
            "gateway": "10.7.0.1",
            "ssh_public_keys": [KEY],
        }
        return self.step("building", *flags, **{**given, **more})


@pytest.fixture
def maker(empty_lab: LabProcess, tmp_path: Path) -> Maker:
    archive = tmp_path / "debian-12.tar.zst"
    archive.write_bytes(b"a root file system")
    return Maker(Operator(empty_lab, tmp_path / "operator"), archive)


@pytest.fixture
def ssh() -> Iterator[int]:
    """A port of this machine where something greets as SSH does."""
    server = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            with caller:
                caller.sendall(b"SSH-2.0-lab\r\n")

    thread = threading.Thread(target=greet)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_a_version_is_built_sealed_tried_and_retired(
    empty_lab: LabProcess, maker: Maker, ssh: int
) -> None:
    planned = maker.build("--check")
    assert planned.changed
    assert not fleet(empty_lab)
    built = maker.build()
    assert (built["vmid"], built["node"], built["address"]) == (9001, "pve1", "10.7.0.5")
    assert not built["sealed"]
    assert fleet(empty_lab)[9001]["status"] == "running"
    assert not maker.build().changed

    sealed = maker.step("sealed")
    assert [(one["node"], one["version"]) for one in sealed["templates"]] == [
        (node, "7") for node in NODES
    ]
    assert not fleet(empty_lab)
    assert not maker.step("sealed").changed
    again = maker.build()
    assert again["sealed"]
    assert not again.changed

    where = {"bridge": "vmbr0", "address": "127.0.0.1/24", "ssh_port": ssh}
    assert len(maker.step("tried", **where)["steps"]) == 3
    assert not maker.step("tried", **where).changed
    # A copy made later is tried, though its source was; what a killed trial left goes first.
    api = empty_lab.client()
    assert empty_lab.wait(api, api.nodes("pve3").lxc(9003).delete()) == "OK"
    maker.step("sealed")
    trial = {"newid": 9004, "hostname": "trial-7-9004", "pool": "corral"}
    assert empty_lab.wait(api, api.nodes("pve1").lxc(9001).clone.post(**trial)) == "OK"
    assert maker.step("tried", **where)["steps"] == [
        "destroy 9004 (trial-7-9004) on pve1",
        "clone template 9003 on pve3 and wait for SSH",
    ]
    assert not fleet(empty_lab)

    assert maker.operator.containers().changed
    for version in ("8", "9", "10"):
        maker.build(version=version)
        maker.step("sealed", version=version)
    done = maker.step("retired", version="10", keep=1)
    left = {(one["node"], one["version"]) for one in done["templates"]}
    assert left == {(node, version) for node in NODES for version in ("7", "9", "10")}
    assert not maker.step("retired", version="10", keep=1).changed
    newer = [BROKER | {"template": "10"}, WORKER | {"template": "10"}]
    maker.operator.containers(roles=newer, replace=["all"], confirm_destroy=True)
    done = maker.step("retired", version="10", keep=0)
    assert {one["version"] for one in done["templates"]} == {"10"}


def test_a_template_made_a_moment_ago_is_cloned(empty_lab: LabProcess, maker: Maker) -> None:
    maker.build(nodes=["pve1"])
    empty_lab.own("POST", "/lab/look")  # the cluster's list goes on to say that it runs
    maker.step("sealed", nodes=["pve1"])
    assert maker.operator.containers(roles=[WORKER]).summary == {"create": 3}


def test_a_trial_without_ssh_fails_and_leaves_nothing(empty_lab: LabProcess, maker: Maker) -> None:
    maker.build(nodes=["pve1"])
    maker.step("sealed", nodes=["pve1"])
    where = {"bridge": "vmbr0", "address": "127.0.0.1/24", "ssh_port": 1, "ssh_timeout": 1}
    said = maker.step("tried", **where).message
    assert "gave no SSH at 127.0.0.1:1" in said
    assert not fleet(empty_lab)


def test_sealing_goes_on_where_it_was_interrupted(empty_lab: LabProcess, maker: Maker) -> None:
    maker.build()
    for method, path in (
        ("PUT", "/nodes/pve1/lxc/9001/config"),  # a template, not yet tagged
        ("POST", "/nodes/pve1/lxc/9002/migrate"),  # a copy, not yet moved
        ("POST", "/nodes/pve2/lxc/9002/template"),  # moved, not yet a template
        ("PUT", "/nodes/pve2/lxc/9002/config"),
    ):
        stop = {"kind": "answer", "method": method, "path": path, "status": 500, "text": "stop"}
        empty_lab.own("POST", "/lab/faults", json=stop)
        assert "stop" in maker.step("sealed").message
        empty_lab.own("DELETE", "/lab/faults")
    done = maker.step("sealed")
    assert [one["vmid"] for one in done["templates"]] == [9001, 9002, 9003]
    assert [one["node"] for one in done["templates"]] == NODES
    assert not fleet(empty_lab)


def test_what_is_missing_is_said(empty_lab: LabProcess, maker: Maker) -> None:
    assert "begin with state building" in maker.step("sealed").message
    assert "seal it first" in maker.step("tried", bridge="vmbr0", address="10.7.0.6/24").message
    assert "make it, or mend the path" in maker.build(archive="/nowhere.tar.zst").message
    assert "cannot be a tag" in maker.build(version="A 1").message
    assert "pve9 is offline or not in the cluster" in maker.build(nodes=["pve9"]).message
    assert "archive" in maker.step("building").message
