"""Faults on demand, and what they leave behind."""

from __future__ import annotations

import time

import pytest
import requests
from proxmoxer import ResourceException

from tests.fleet.lab.process import LabProcess


def _set(lab: LabProcess, **fault: object) -> int:
    return int(lab.own("POST", "/lab/faults", json=fault)["id"])


def test_a_task_fails_late_and_cleans_up(lab: LabProcess) -> None:
    lab.template()
    _set(lab, kind="fail", task="vzclone", after=0.3, count=1, text="no more inodes")
    api = lab.client("deploy")
    lxc = api.nodes("pve1").lxc
    upid = lxc(900).clone.post(newid=5001, pool="corral")
    assert api.nodes("pve1").tasks(upid).status.get()["status"] == "running"
    assert lab.wait(api, upid) == "clone failed: no more inodes"
    assert api.nodes("pve1").tasks(upid).log.get()[-1]["t"] == (
        "TASK ERROR: clone failed: no more inodes"
    )
    assert [guest["vmid"] for guest in lxc.get()] == [900]
    assert lab.wait(api, lxc(900).clone.post(newid=5001, pool="corral")) == "OK"


def test_a_lost_worker_leaves_its_locks(lab: LabProcess) -> None:
    lab.template()
    _set(lab, kind="lose", task="vzclone", count=1)
    api = lab.client()
    lxc = api.nodes("pve1").lxc
    assert lab.wait(api, lxc(900).clone.post(newid=5001)) == "unexpected status"
    assert lxc(900).config.get()["lock"] == "disk"
    assert lxc(5001).config.get()["lock"] == "create"
    for vmid in (900, 5001):
        lab.own("POST", f"/lab/containers/{vmid}/unlock")
    assert lab.wait(api, lxc(5001).delete()) == "OK"
    assert lab.wait(api, lxc(900).clone.post(newid=5001)) == "OK"


def test_a_lock_is_held_until_it_is_cleared(lab: LabProcess) -> None:
    lab.template()
    fault = _set(lab, kind="lock", vmid=900, lock="backup")
    lxc = lab.client().nodes("pve1").lxc
    with pytest.raises(ResourceException, match=r"CT is locked \(backup\)"):
        lxc(900).clone.post(newid=5001)
    lab.own("DELETE", f"/lab/faults/{fault}")
    assert lab.wait(lab.client(), lxc(900).clone.post(newid=5001)) == "OK"


def test_a_call_is_answered_by_the_proxy_so_often(lab: LabProcess) -> None:
    _set(lab, kind="answer", method="GET", path="/nodes/*/lxc", count=2)
    answers = [lab.ask("GET", "/nodes/pve1/lxc") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [595, 595, 200]
    assert answers[0].reason == "No route to host"


def test_a_node_dies_and_comes_back(lab: LabProcess) -> None:
    lab.template(node="pve2")
    api = lab.client()
    lxc = api.nodes("pve2").lxc
    for vmid, onboot in ((5001, 1), (5002, 0)):
        assert lab.wait(api, lxc(900).clone.post(newid=vmid)) == "OK"
        lxc(vmid).config.put(onboot=onboot)
        assert lab.wait(api, lxc(vmid).status.start.post()) == "OK"
    lab.own("POST", "/lab/look")
    _set(lab, kind="hold", task="vzstop")
    stopping = lxc(5002).status.stop.post()
    fault = _set(lab, kind="node", node="pve2")
    assert lab.ask("GET", "/nodes/pve2/lxc").status_code == 595
    seen = {entry["id"]: entry.get("status") for entry in api.cluster.resources.get()}
    assert (seen["node/pve2"], seen["node/pve1"]) == ("offline", "online")
    assert seen["lxc/5001"] == "running"  # as it was seen last
    assert seen["storage/pve2/local-lvm"] == "unknown"
    lab.own("DELETE", f"/lab/faults/{fault}")
    until = time.monotonic() + 10
    while lxc(5001).status.current.get()["status"] != "running":
        assert time.monotonic() < until
    assert lxc(5002).status.current.get()["status"] == "stopped"
    assert lab.wait(api, stopping) == "unexpected status"


def test_a_full_storage_fails_the_clone_alone(lab: LabProcess) -> None:
    lab.template()
    _set(lab, kind="full", storage="local-lvm", node="pve1")
    api = lab.client()
    status = lab.wait(api, api.nodes("pve1").lxc(900).clone.post(newid=5001))
    assert "Cannot create new thin volume" in status
    assert api.nodes("pve1").storage("local-lvm").status.get()["avail"] == 0
    assert api.nodes("pve2").storage("local-lvm").status.get()["avail"] > 0


def test_a_slow_storage_takes_its_time(lab: LabProcess) -> None:
    lab.template()
    _set(lab, kind="slow", storage="local-lvm", seconds=0.4)
    api = lab.client()
    began = time.monotonic()
    assert lab.wait(api, api.nodes("pve1").lxc(900).clone.post(newid=5001)) == "OK"
    assert time.monotonic() - began >= 0.4


def test_only_the_admin_token_sets_faults(lab: LabProcess) -> None:
    answer = requests.post(
        f"{lab.info['endpoint']}/lab/faults",
        json={"kind": "hold"},
        headers={"Authorization": "Bearer guessed"},
        verify=lab.info["ca_file"],
        timeout=10,
    )
    assert answer.status_code == 401
    assert lab.own("GET", "/lab/faults") == []


def test_what_is_no_fault_is_refused_with_a_reason(lab: LabProcess) -> None:
    with pytest.raises(requests.HTTPError):
        _set(lab, kind="earthquake")
    with pytest.raises(requests.HTTPError):
        _set(lab, kind="node", node="pve9")
