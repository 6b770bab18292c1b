"""Who gets in, and who may do what."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from proxmoxer import AuthenticationError, ProxmoxAPI, ResourceException

from tests.fleet.lab.process import LabProcess


def test_a_wrong_token_is_answered_late_and_without_a_body(tmp_path: Path) -> None:
    lab = LabProcess(tmp_path / "lab", auth_seconds=0.5)
    lab.start()
    try:
        began = time.monotonic()
        answer = lab.ask("GET", "/version", "root@pam!lab=00000000-0000-0000-0000-000000000000")
        assert time.monotonic() - began >= 0.5
        assert (answer.status_code, answer.reason) == (401, "Authentication failed!")
        assert answer.content == b""
    finally:
        lab.stop()


def test_proxmoxer_logs_in_with_a_password(lab: LabProcess) -> None:
    def log_in(password: str) -> ProxmoxAPI:
        return ProxmoxAPI(
            lab.info["host"],
            port=lab.info["port"],
            user="root@pam",
            password=password,
            verify_ssl=lab.info["ca_file"],
        )

    api = log_in(lab.info["root_password"])
    api.pools.post(poolid="made-with-a-ticket")  # which demands the CSRF token
    assert "made-with-a-ticket" in [pool["poolid"] for pool in api.pools.get()]
    with pytest.raises(AuthenticationError):
        log_in("guessed")


def test_a_privilege_separated_token_needs_an_acl_of_its_own(lab: LabProcess) -> None:
    lab.template()
    root = lab.client()
    made = root.access.users("corral@pve").token("second").post(privsep=1)
    token = f"{made['full-tokenid']}={made['value']}"
    answer = lab.ask("POST", "/nodes/pve1/lxc/900/clone", token, data={"newid": 5001})
    assert answer.reason == "Permission check failed (/vms/900, VM.Clone)"
    assert lab.ask("GET", "/access/permissions", token).json()["data"] == {}
    root.access.acl.put(path="/pool/corral", roles="CorralInventory", tokens=made["full-tokenid"])
    assert lab.ask("GET", "/nodes/pve1/lxc", token).json()["data"][0]["vmid"] == 900


def test_the_inventory_token_sees_and_changes_nothing(lab: LabProcess) -> None:
    lab.template()
    api = lab.client("inventory")
    kinds = {entry["type"] for entry in api.cluster.resources.get()}
    assert kinds == {"lxc", "node", "pool"}
    with pytest.raises(ResourceException, match=r"\(/vms/900, VM\.Config\.Disk\|"):
        api.nodes("pve1").lxc(900).config.put(cores=1)


def test_no_access_takes_away_what_others_give(lab: LabProcess) -> None:
    lab.template()
    root = lab.client()
    root.access.acl.put(path="/vms/900", roles="NoAccess", users="corral@pve")
    with pytest.raises(ResourceException, match=r"\(/vms/900, VM\.Audit\)"):
        lab.client("inventory").nodes("pve1").lxc(900).config.get()


def test_what_does_not_propagate_holds_for_the_path_alone(lab: LabProcess) -> None:
    lab.template()
    root = lab.client()
    root.access.users.post(userid="auditor@pve")
    made = root.access.users("auditor@pve").token("audit").post(privsep=0)
    token = f"{made['full-tokenid']}={made['value']}"
    acl = {"path": "/vms", "roles": "PVEAuditor", "users": "auditor@pve"}
    root.access.acl.put(**acl, propagate=0)
    assert lab.ask("GET", "/nodes/pve1/lxc", token).json()["data"] == []
    root.access.acl.put(**acl, propagate=1)
    assert len(lab.ask("GET", "/nodes/pve1/lxc", token).json()["data"]) == 1
