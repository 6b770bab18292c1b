"""Locks, tasks in the middle of their work, and fields that lag behind."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable

import pytest
from proxmoxer import ProxmoxAPI, ResourceException

from tests.fleet.lab.process import LabProcess


def _set(lab: LabProcess, **fault: object) -> int:
    return int(lab.own("POST", "/lab/faults", json=fault)["id"])


def _refusal(call: Callable[..., object], **params: object) -> str:
    with pytest.raises(ResourceException) as refused:
        call(**params)
    return str(refused.value.content)


def test_of_five_clones_at_once_one_is_accepted(lab: LabProcess) -> None:
    lab.template()
    hold = _set(lab, kind="hold", task="vzclone")

    def clone(vmid: int) -> str:
        api = lab.client()
        try:
            return str(api.nodes("pve1").lxc(900).clone.post(newid=vmid))
        except ResourceException as error:
            return str(error.content)

    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        answers = list(threads.map(clone, range(5001, 5006)))
    accepted = [answer for answer in answers if answer.startswith("UPID:")]
    assert len(accepted) == 1
    assert sorted(answers)[:4] == ["CT is locked (disk)"] * 4
    api = lab.client()
    assert api.nodes("pve1").lxc(900).config.get()["lock"] == "disk"
    assert len(api.nodes("pve1").lxc.get()) == 2
    lab.own("DELETE", f"/lab/faults/{hold}")
    assert lab.wait(api, accepted[0]) == "OK"
    assert "lock" not in api.nodes("pve1").lxc(900).config.get()


def test_a_clone_is_hidden_from_its_token_until_it_is_in_the_pool(lab: LabProcess) -> None:
    lab.template()
    hold = _set(lab, kind="hold", task="vzclone")
    api = lab.client("deploy")
    lxc = api.nodes("pve1").lxc
    upid = lxc(900).clone.post(newid=5001, pool="corral")
    assert api.nodes("pve1").tasks(upid).status.get()["status"] == "running"
    assert _refusal(lxc(5001).config.get) == "Permission check failed (/vms/5001, VM.Audit)"
    lab.own("DELETE", f"/lab/faults/{hold}")
    assert lab.wait(api, upid) == "OK"
    assert lxc(5001).config.get()["hostname"] == "template"


def test_names_and_states_lag_where_tags_and_locks_do_not(lab: LabProcess) -> None:
    lab.template()
    lab.own("POST", "/lab/look")
    api = lab.client()
    lxc = api.nodes("pve1").lxc
    assert lab.wait(api, lxc(900).clone.post(newid=5001, hostname="w1")) == "OK"
    lxc(900).config.put(hostname="renamed", tags="fresh")

    def seen() -> dict[int, tuple[object, ...]]:
        found = api.cluster.resources.get(type="vm")
        return {
            guest["vmid"]: (guest.get("name"), guest["status"], guest.get("tags"))
            for guest in found
        }

    assert seen() == {900: ("template", "stopped", "fresh"), 5001: (None, "unknown", None)}
    assert {guest["name"] for guest in lxc.get()} == {"renamed", "w1"}
    lab.own("POST", "/lab/look")
    assert seen() == {900: ("renamed", "stopped", "fresh"), 5001: ("w1", "stopped", None)}


def test_a_change_waits_for_a_task_that_holds_the_config_and_gives_up(lab: LabProcess) -> None:
    lab.template()
    api = lab.client()
    lxc = api.nodes("pve1").lxc
    assert lab.wait(api, lxc(900).clone.post(newid=5001)) == "OK"
    hold = _set(lab, kind="hold", task="vzstart")
    upid = lxc(5001).status.start.post()
    began = time.monotonic()
    wanted = "can't lock file '/run/lock/lxc/pve-config-5001.lock' - got timeout"
    assert _refusal(lxc(5001).config.put, cores=2) == wanted
    assert time.monotonic() - began >= 0.3
    lab.own("DELETE", f"/lab/faults/{hold}")
    assert lab.wait(api, upid) == "OK"
    lxc(5001).config.put(cores=2)


def test_stopping_a_clone_undoes_it(lab: LabProcess) -> None:
    lab.template()
    _set(lab, kind="hold", task="vzclone")
    api = lab.client()
    upid = api.nodes("pve1").lxc(900).clone.post(newid=5001)
    api.nodes("pve1").tasks(upid).delete()
    assert lab.wait(api, upid) == "clone failed: interrupted by signal"
    assert [guest["vmid"] for guest in api.nodes("pve1").lxc.get()] == [900]
    assert "lock" not in api.nodes("pve1").lxc(900).config.get()


def test_a_template_with_linked_clones_stays(lab: LabProcess) -> None:
    lab.template()
    api = lab.client()
    lxc = api.nodes("pve1").lxc
    assert lab.wait(api, lxc(900).clone.post(newid=5001)) == "OK"
    status = lab.wait(api, lxc(900).delete())
    assert status == "volume 'base-900-disk-0' is still in use by linked clones"
    assert lab.wait(api, lxc(5001).delete()) == "OK"
    assert lab.wait(api, lxc(900).delete()) == "OK"


def test_a_container_moves_to_another_node(lab: LabProcess) -> None:
    lab.template()
    api: ProxmoxAPI = lab.client()
    lxc = api.nodes("pve1").lxc
    assert lab.wait(api, lxc(900).clone.post(newid=5001, full=1)) == "OK"
    assert lab.wait(api, lxc(5001).status.start.post()) == "OK"
    refused = "running container can only be migrated in restart mode"
    assert _refusal(lxc(5001).migrate.post, target="pve2") == refused
    assert lab.wait(api, lxc(5001).migrate.post(target="pve2", restart=1)) == "OK"
    moved = api.nodes("pve2").lxc(5001).status.current.get()
    assert moved["status"] == "running"
    missing = "Configuration file 'nodes/pve1/lxc/5001.conf' does not exist"
    assert _refusal(lxc(5001).config.get) == missing
