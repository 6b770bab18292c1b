"""The inventory plugin by real ansible-inventory processes."""

from __future__ import annotations

import time
from typing import Any

from tests.evidence import Evidence
from tests.fleet.collection.operator import (
    BROKER,
    MANY,
    NETWORK,
    WIDE,
    WORKER,
    Operator,
    fleet,
    make_templates,
    populate,
    requests_since,
)
from tests.fleet.lab.process import LabProcess


def plain(value: Any) -> Any:
    """A value without Ansible's mark of where it came from."""
    return value["__ansible_unsafe"] if isinstance(value, dict) else value


def test_hosts_groups_and_variables_in_one_call(
    lab: LabProcess, operator: Operator, tmp_path: Any, evidence: Evidence
) -> None:
    operator.containers()
    lab.own("POST", "/lab/look")
    reader = Operator(lab, tmp_path / "reader", token="inventory")
    before = len(requests_since(lab, 0))
    found = reader.listed(reader.inventory())
    asked = [one for one in requests_since(lab, 0)[before:] if "path" in one]
    assert len(asked) == 1
    evidence.record("inventory of the fleet", calls=len(asked))

    assert found["role_worker"]["hosts"] == ["worker-1", "worker-2", "worker-3"]
    assert found["role_broker"]["hosts"] == ["broker"]
    assert len(found["template_7"]["hosts"]) == 4
    assert len(found["fleet_running"]["hosts"]) == 4
    assert "fleet_stale" not in found
    variables = found["_meta"]["hostvars"]["worker-2"]
    assert plain(variables["ansible_host"]) == "10.7.0.102"
    assert variables["fleet_vmid"] == 5002
    assert plain(variables["fleet_node"]) == fleet(lab)[5002]["node"]
    assert "worker-2" in found[f"node_{fleet(lab)[5002]['node']}"]["hosts"]


def test_a_container_that_was_just_made_has_its_name_and_address(
    lab: LabProcess, operator: Operator
) -> None:
    operator.containers()  # nobody looks: Proxmox knows no name yet
    found = operator.listed(operator.inventory())
    assert plain(found["_meta"]["hostvars"]["worker-1"]["ansible_host"]) == "10.7.0.101"


def test_the_subnet_may_come_from_a_lookup(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    lookup = "{{ lookup('ansible.builtin.env', 'HALF') }}.0.0/24"
    file = operator.inventory(network=NETWORK | {"subnet": lookup})
    found = operator.listed(file, HALF="10.9")
    assert plain(found["_meta"]["hostvars"]["worker-1"]["ansible_host"]) == "10.9.0.101"


def test_stale_and_unreachable_ones_are_told_apart(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    lab.own("POST", "/lab/look")
    make_templates(lab, "8", base=9010)
    down = fleet(lab)[5002]["node"]
    lab.own("POST", "/lab/faults", json={"kind": "node", "node": down})
    found = operator.listed(operator.inventory([BROKER, WORKER | {"template": "8"}]))
    assert found["fleet_stale"]["hosts"] == ["worker-1", "worker-2", "worker-3"]
    assert "worker-2" in found["fleet_node_down"]["hosts"]
    assert "worker-2" not in found["fleet_running"]["hosts"]


def test_the_cache_saves_the_call(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    file = operator.inventory(
        cache=True, cache_plugin="ansible.builtin.jsonfile",
        cache_connection=str(operator.folder / "cache"),
    )  # fmt: skip
    first = operator.listed(file)
    before = len(requests_since(lab, 0))
    assert operator.listed(file) == first
    assert len(requests_since(lab, 0)) == before
    # --flush-cache asks again
    ended = operator.run("ansible-inventory", "-i", str(file), "--list", "--flush-cache")
    assert ended.returncode == 0
    assert len(requests_since(lab, 0)) == before + 1


def test_a_token_that_sees_nothing_is_an_error(
    lab: LabProcess, operator: Operator, tmp_path: Any
) -> None:
    operator.containers()
    made = lab.client().access.users("corral@pve").token("blind").post()
    lab.info["tokens"]["blind"] = {"id": "corral@pve!blind", "secret": made["value"]}
    blind = Operator(lab, tmp_path / "blind", token="blind")
    ended = blind.run(
        "ansible-inventory", "-i", str(blind.inventory()), "--list",
        environment={"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"},
    )  # fmt: skip
    assert ended.returncode != 0
    said = " ".join(ended.stderr.split())
    assert "corral@pve!blind has no privilege at all" in said
    assert "pveum acl modify" in said


def test_a_missing_plan_of_addresses_is_an_error(operator: Operator) -> None:
    file = operator.inventory(fleet_file="nowhere.yml")
    ended = operator.run("ansible-inventory", "-i", str(file), "--list")
    assert "write fleet_network and fleet_roles into it" in " ".join(ended.stderr.split())


def test_five_hundred_hosts_are_listed_in_a_second(
    lab: LabProcess, operator: Operator, evidence: Evidence
) -> None:
    populate(lab, MANY, WIDE)
    file = operator.inventory(MANY, network=WIDE)
    empty = operator.folder / "empty.yml"
    empty.write_text("all: {}")

    def listing(path: Any) -> float:
        began = time.monotonic()
        operator.listed(path)
        return time.monotonic() - began

    # What Ansible itself takes to start is not the plugin's.
    own = min(listing(file) for _ in range(3)) - min(listing(empty) for _ in range(3))
    assert len(operator.listed(file)["role_worker"]["hosts"]) == 500
    evidence.record("inventory of 500 containers", seconds=round(own, 2))
    assert own < 1
