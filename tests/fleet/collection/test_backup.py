"""The module `backup`: there and back."""

from __future__ import annotations

from tests.fleet.collection.operator import Answer, Operator, fleet
from tests.fleet.lab.process import LabProcess


def backup(operator: Operator, *flags: str, **given: object) -> Answer:
    return operator.module("backup", {"storage": "local", **given}, *flags)


def test_what_was_destroyed_comes_back(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    before = fleet(lab)[4001]
    assert backup(operator, "--check", vmids=[4001]).changed
    assert backup(operator, vmids=[4001, 5001]).changed
    listed = backup(operator, state="listed")
    assert not listed.changed
    assert {one["vmid"] for one in listed["backups"]} == {4001, 5001}

    api = lab.client()
    gone = api.nodes(before["node"]).lxc(4001).delete(force=1)
    assert lab.wait(api, gone) == "OK"
    assert 4001 not in fleet(lab)
    back = backup(operator, state="restored", vmids=[4001], pool="corral")
    assert not back.failed, back.message
    after = fleet(lab)[4001]
    assert {key: after[key] for key in ("net0", "tags", "hostname", "status")} == {
        key: before[key] for key in ("net0", "tags", "hostname", "status")
    }
    # One that is there is left alone, unless force says otherwise.
    assert not backup(operator, state="restored", vmids=[4001], pool="corral").changed
    assert backup(operator, state="restored", vmids=[4001], force=True).changed
    lab.own("POST", "/lab/look")
    assert not operator.containers().changed


def test_old_backups_are_pruned(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    for _ in range(3):
        backup(operator, vmids=[4001])
    kept = backup(operator, vmids=[4001], keep=2)
    assert len(kept["backups"]) == 2
    pruned = backup(operator, state="pruned", vmids=[4001], keep=1)
    assert [one["volid"] for one in pruned["backups"]] == [kept["backups"][0]["volid"]]
    assert not backup(operator, state="pruned", vmids=[4001], keep=1).changed


def test_what_is_missing_is_said(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    assert "There is no container 4711" in backup(operator, vmids=[4711]).message
    assert "Storage nas is on no node" in backup(operator, vmids=[4001], storage="nas").message
    none = backup(operator, state="restored", vmids=[4711], pool="corral")
    assert "has no backup at all of container 4711" in none.message
    locked = {"kind": "lock", "vmid": 4001, "lock": "snapshot"}
    lab.own("POST", "/lab/faults", json=locked)
    held = backup(operator, vmids=[4001], lock_timeout=2)
    assert "CT is locked (snapshot)" in held.message
