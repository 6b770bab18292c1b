"""What may be wrong, each with a message that names the cure, and nothing half made left unseen."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.collection.operator import (
    BROKER,
    WORKER,
    Operator,
    fleet,
    requests_since,
)
from tests.fleet.lab.process import TEMPLATE, LabProcess


def fault(lab: LabProcess, **what: Any) -> None:
    """Let something go wrong."""
    lab.own("POST", "/lab/faults", json=what)


def clear(lab: LabProcess) -> None:
    """End all faults."""
    lab.own("DELETE", "/lab/faults")
    lab.own("POST", "/lab/look")


# --- getting in ------------------------------------------------------------------------------


def test_a_wrong_secret(operator: Operator) -> None:
    said = operator.containers(environment={"PROXMOX_TOKEN_SECRET": "0000"}).message
    assert "Authentication failed!. The token corral@pve!deploy is unknown" in said
    assert "its secret is wrong" in said
    assert "pveum user token list corral@pve" in said


def test_a_token_that_is_none(operator: Operator) -> None:
    said = operator.containers(environment={"PROXMOX_TOKEN_ID": "corral@pve"}).message
    assert "give it as user@realm!name" in said


def test_no_way_in_given(operator: Operator) -> None:
    said = operator.containers(environment={"PROXMOX_HOST": None}).message
    assert "missing required arguments: host" in said


def test_a_host_that_does_not_answer_and_one_that_does(lab: LabProcess, operator: Operator) -> None:
    free = {"PROXMOX_PORT": "1"}
    said = operator.containers("--check", environment=free).message
    assert "127.0.0.1:1 cannot be reached" in said
    assert "another node" in said
    both = {"PROXMOX_HOST": f"127.0.0.2,{lab.info['host']}"}
    assert operator.containers("--check", environment=both).changed


def test_a_certificate_that_is_not_trusted(lab: LabProcess, operator: Operator) -> None:
    unknown = {"PROXMOX_CA_FILE": None}
    said = operator.containers("--check", environment=unknown).message
    assert "is not trusted" in said
    assert "pve-root-ca.pem" in said
    other = unknown | {"PROXMOX_FINGERPRINT": ":".join(["00"] * 32)}
    said = operator.containers("--check", environment=other).message
    assert "openssl x509 -noout -fingerprint -sha256" in said
    blind = unknown | {"PROXMOX_VALIDATE_CERTS": "false"}
    assert operator.containers("--check", environment=blind).changed


# --- privileges ------------------------------------------------------------------------------


def token(lab: LabProcess, folder: Path, name: str, *grants: tuple[str, str]) -> Operator:
    """An operator with a token of its own, whose user has all that the deploy token's has."""
    access = lab.client().access
    made = access.users("corral@pve").token(name).post()
    lab.info["tokens"][name] = {"id": f"corral@pve!{name}", "secret": made["value"]}
    for path, role in grants:
        access.acl.put(path=path, roles=role, tokens=f"corral@pve!{name}")
    return Operator(lab, folder / name, token=name)


def test_a_separated_token_without_its_own_acl(lab: LabProcess, tmp_path: Path) -> None:
    said = token(lab, tmp_path, "bare").containers().message
    assert "corral@pve!bare has no privilege at all" in said
    assert "both need their own: pveum acl modify" in said


def test_a_privilege_that_is_missing_is_named_before_anything_is_made(
    lab: LabProcess, tmp_path: Path
) -> None:
    lab.client().access.roles.post(
        roleid="Half", privs="VM.Allocate,VM.Audit,VM.Clone,VM.PowerMgmt,VM.Config.Memory"
    )
    half = token(lab, tmp_path, "half", ("/pool/corral", "Half"), ("/nodes", "CorralAudit"))
    refused = half.containers()
    assert "lacks VM.Config.CPU on /pool/corral" in refused.message
    assert "lacks VM.Config.Network on /pool/corral" in refused.message
    assert "lacks SDN.Use on /sdn/zones/localnetwork/vmbr0" in refused.message
    assert "--tokens 'corral@pve!half'" in refused.message
    assert not fleet(lab)


def test_nodes_whose_size_the_token_may_not_see(lab: LabProcess, tmp_path: Path) -> None:
    lab.client().access.roles.post(roleid="Pool", privs="VM.Allocate,VM.Audit,VM.Clone")
    said = token(lab, tmp_path, "small", ("/pool/corral", "Pool")).containers().message
    assert "lacks Sys.Audit on /nodes" in said


# --- the cluster is not as thought -----------------------------------------------------------


def test_a_node_that_is_none(operator: Operator) -> None:
    said = operator.containers(roles=[WORKER | {"nodes": ["pve9"]}]).message
    assert "Node pve9 is not in the cluster, which has pve1, pve2, pve3" in said
    assert "pve7 is not in the cluster" in operator.containers(cordoned=["pve7"]).message


def test_a_template_that_is_missing(lab: LabProcess, operator: Operator) -> None:
    said = operator.containers(roles=[WORKER | {"template": "9"}]).message
    assert "wants template 9, and there is 7 on pve1, pve2, pve3" in said
    assert "ansible-playbook playbooks/template.yml -e version=9" in said


def test_no_capacity(operator: Operator) -> None:
    said = operator.containers(roles=[WORKER | {"memory_mib": 80_000}]).message
    assert "No node has room for a worker" in said
    assert "pve1 lacks" in said


def test_a_vmid_that_a_stranger_has(lab: LabProcess, operator: Operator) -> None:
    api = lab.client()
    created = api.nodes("pve2").lxc(9002).clone.post(newid=5002, hostname="mail", pool="corral")
    assert lab.wait(api, created) == "OK"
    api.nodes("pve2").lxc(5002).config.put(tags="office")
    lab.own("POST", "/lab/look")
    said = operator.containers().message
    assert "VMID 5002 is wanted for worker-2 and belongs to somebody else" in said
    assert "container mail on node pve2, pool corral, tags office" in said
    assert sorted(fleet(lab)) == [5002]


def test_a_container_that_a_stranger_is_just_making(lab: LabProcess, tmp_path: Path) -> None:
    """Until it is made it has no tags, like one that an interrupted run of the fleet left."""
    operator = Operator(lab, tmp_path / "operator", token="root")  # sees what is in no pool
    single = [WORKER | {"count": 1}]
    operator.containers(roles=single)
    fault(lab, kind="hold", task="vzcreate")
    lxc = lab.client().nodes("pve1").lxc
    created = lxc.post(vmid=5002, ostemplate=TEMPLATE, rootfs="local-lvm:2", hostname="mail")
    before = len(requests_since(lab, 0))
    with ThreadPoolExecutor() as crew:
        running = crew.submit(operator.containers, roles=single)
        while not any("5002" in one.get("path", "") for one in requests_since(lab, before)):
            assert not running.done(), running.result().returned
            time.sleep(0.05)
        clear(lab)
        assert "VMID 5002 turned out to be somebody else's (mail)" in running.result().message
    assert lab.wait(lab.client(), created) == "OK"
    assert fleet(lab)[5002]["hostname"] == "mail"


def test_a_vmid_that_somebody_unseen_has(lab: LabProcess, operator: Operator) -> None:
    api = lab.client()
    created = api.nodes("pve2").lxc(9002).clone.post(newid=5002, hostname="secret")
    assert lab.wait(api, created) == "OK"
    said = operator.containers().message
    assert "VMID 5002 is taken by something that the token corral@pve!deploy cannot see" in said
    assert set(fleet(lab)) == {4001, 5001, 5002, 5003}  # the others are made
    assert fleet(lab)[5002]["hostname"] == "secret"


def test_an_address_that_somebody_has(lab: LabProcess, operator: Operator) -> None:
    api = lab.client()
    created = api.nodes("pve1").lxc(9001).clone.post(newid=700, hostname="mail", pool="corral")
    assert lab.wait(api, created) == "OK"
    net0 = "name=eth0,bridge=vmbr0,ip=10.7.0.102/24"
    api.nodes("pve1").lxc(700).config.put(tags="office", net0=net0)
    said = operator.containers().message
    assert "Address 10.7.0.102 of worker-2 is taken by guest 700" in said
    assert "address_offset of role worker" in said


def test_an_inventory_that_would_empty_the_fleet(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    lab.own("POST", "/lab/look")
    said = operator.containers(roles=[], confirm_destroy=True).message
    assert "empty the whole fleet (broker, worker)" in said
    only = operator.containers(roles=[BROKER, WORKER | {"count": 0}], confirm_destroy=True)
    assert "confirm_empty: [worker]" in only.message
    assert len(fleet(lab)) == 4
    gone = operator.containers(roles=[], confirm_destroy=True, confirm_empty=["all"])
    assert gone.summary == {"destroy": 4}
    assert not fleet(lab)


# --- it goes wrong on the way ----------------------------------------------------------------


def test_a_full_storage_and_a_task_that_fails_late(lab: LabProcess, operator: Operator) -> None:
    fault(lab, kind="full", node="pve2", storage="local-lvm")
    failed = operator.containers()
    assert "1 of the steps failed" in failed.message
    assert "create worker-1 (5001)" in failed.message
    assert "clone failed" in failed.message
    assert "the next run goes on from here" in failed.message
    assert {one["status"] for one in fleet(lab).values()} == {"running"}
    clear(lab)
    assert operator.containers().summary == {"create": 1, "none": 3}
    assert len(fleet(lab)) == 4


def test_a_task_that_fails_late_is_told_in_its_own_words(
    lab: LabProcess, operator: Operator
) -> None:
    fault(lab, kind="fail", task="vzclone", after=0.3, count=1, text="the disk broke")
    failed = operator.containers()
    assert "the disk broke" in failed.message
    assert not any("lock" in one for one in fleet(lab).values())
    assert operator.containers().summary == {"create": 1, "none": 3}


def test_a_lock_that_is_released_in_time_and_one_that_is_not(
    lab: LabProcess, operator: Operator
) -> None:
    operator.containers()
    lab.own("POST", "/lab/look")
    fault(lab, kind="lock", vmid=5001, lock="backup")
    larger = [BROKER, WORKER | {"memory_mib": 384}]
    failed = operator.containers(roles=larger, lock_timeout=2)
    assert "update worker-1 (5001)" in failed.message
    assert "Locked are 5001 (backup" in failed.message
    assert "pct unlock 5001" in failed.message
    assert fleet(lab)[5002]["memory"] == 384  # the others are done
    clear(lab)
    assert operator.containers(roles=larger).summary == {"update": 1, "none": 3}


def test_a_clone_whose_worker_is_lost(lab: LabProcess, operator: Operator) -> None:
    fault(lab, kind="lose", task="vzclone", vmid=9002, after=0.1, count=1)
    failed = operator.containers()
    assert "create worker-1 (5001)" in failed.message
    assert "unexpected status" in failed.message
    # Its locks stay until somebody at the node removes them, and that is said.
    stuck = operator.containers(lock_timeout=2)
    assert "pct unlock" in stuck.message
    for vmid in (5001, 9002):
        lab.own("POST", f"/lab/containers/{vmid}/unlock")
    # It never came into the pool, so the token cannot see it; root can, and is told what to type.
    assert "pct destroy 5001" in operator.containers().message
    assert lab.wait(lab.client(), lab.client().nodes("pve2").lxc(5001).delete()) == "OK"
    assert not operator.containers().failed
    assert sorted(fleet(lab)) == [4001, 5001, 5002, 5003]


def test_a_proxy_that_is_away_for_a_moment(lab: LabProcess, operator: Operator) -> None:
    fault(lab, kind="answer", method="POST", path="/nodes/pve2/lxc/*/clone", status=595, count=1)
    fault(lab, kind="answer", method="GET", path="/nodes/*/tasks", status=596, count=2)
    assert operator.containers().changed
    assert len(fleet(lab)) == 4


def test_a_node_that_is_offline(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    lab.own("POST", "/lab/look")
    down = fleet(lab)[5002]["node"]
    fault(lab, kind="node", node=down)
    steady = operator.containers()
    assert not steady.changed
    assert [one["vmid"] for one in steady["plan"]["steps"] if "offline" in one["reason"]] == [
        vmid for vmid in (4001, 5001, 5002, 5003) if vmid not in fleet(lab)
    ]
    more = operator.containers(roles=[BROKER, WORKER | {"count": 5}])
    assert more.summary["create"] == 2
    assert all(one["node"] != down for one in fleet(lab).values())
    clear(lab)
    assert len(fleet(lab)) == 6


@pytest.mark.parametrize("moment", ["clone", "config"])
def test_a_node_that_goes_offline_in_the_middle(
    lab: LabProcess, operator: Operator, moment: str
) -> None:
    method = {"clone": "POST", "config": "PUT"}[moment]
    path = f"/nodes/pve2/lxc/*/{moment}"
    fault(lab, kind="answer", method=method, path=path, status=595, text="No route to host")
    failed = operator.containers(lock_timeout=2)
    assert "No route to host" in failed.message
    assert "The node that this call is for cannot be reached" in failed.message
    assert set(fleet(lab)) >= {4001, 5002, 5003}
    clear(lab)
    assert not operator.containers().failed
    assert sorted(fleet(lab)) == [4001, 5001, 5002, 5003]
    assert all("spec-" in one["tags"] for one in fleet(lab).values())


def test_a_plan_file_that_is_missing(operator: Operator) -> None:
    said = operator.containers(plan_file="/nowhere/plan.json").message
    assert "make it with --check first" in said
