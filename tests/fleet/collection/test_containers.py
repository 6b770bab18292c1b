"""The module `containers` by real Ansible processes: what it does, and in how many calls."""

from __future__ import annotations

import json
import math
import subprocess
import time
from pathlib import Path

from tests.evidence import Evidence
from tests.fleet.collection.operator import (
    BROKER,
    MANY,
    WIDE,
    WORKER,
    Operator,
    fleet,
    make_templates,
    populate,
)
from tests.fleet.lab.process import LabProcess

NODES = 3


def look(lab: LabProcess) -> None:
    """Let what lags behind catch up."""
    lab.own("POST", "/lab/look")


def test_who_had_an_address_before_is_forgotten_before_another_has_it(
    lab: LabProcess, operator: Operator
) -> None:
    known = operator.folder / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", known], check=True)
    key = known.with_suffix(".pub").read_text()
    known.write_text("".join(f"{host} {key}" for host in ("10.7.0.102", "10.7.0.10")))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], capture_output=True, check=True)
    _, kept = known.read_text().splitlines(keepends=True)
    assert kept.startswith("|1|")  # as ssh of Debian writes them
    with known.open("a") as file:
        file.write(f"10.7.0.101 {key}else {key}")
    operator.containers("--check", known_hosts=str(known))
    assert len(known.read_text().splitlines()) == 4
    lab.own("POST", "/lab/faults", json={"kind": "fail", "task": "vzclone", "count": 9})
    assert operator.containers(known_hosts=str(known), roles=[WORKER]).failed
    assert known.read_text() == f"{kept}else {key}"
    assert known.stat().st_mode & 0o777 == 0o600


def test_a_fleet_is_planned_made_and_left_alone(
    lab: LabProcess, operator: Operator, evidence: Evidence
) -> None:
    planned = operator.containers("--check", "--diff")
    assert planned.summary == {"create": 4}
    assert not fleet(lab)
    assert "hostname: worker-3" in planned.shown

    made = operator.containers()
    assert made.changed
    assert made["plan"]["id"] == planned["plan"]["id"]
    there = fleet(lab)
    assert sorted(there) == [4001, 5001, 5002, 5003]
    assert {one["status"] for one in there.values()} == {"running"}
    assert there[4001]["hostname"] == "broker"
    assert there[5003]["memory"] == 256
    assert "ip=10.7.0.103/24" in there[5003]["net0"]
    assert {one["node"] for vmid, one in there.items() if vmid > 5000} == {"pve1", "pve2", "pve3"}
    assert {one["address"] for one in made["containers"]} == {
        "10.7.0.10", "10.7.0.101", "10.7.0.102", "10.7.0.103",
    }  # fmt: skip

    # Directly afterwards the list of all guests is old, so each node is asked for its own.
    at_once = operator.containers()
    assert not at_once.changed
    assert at_once["calls"]["total"] == 1 + NODES
    look(lab)
    again = operator.containers()
    assert not again.changed
    assert again["calls"] == {"total": 1, "by_kind": {"GET /cluster/resources": 1}}
    evidence.record("containers, nothing to do", calls=again["calls"]["total"])


def test_thirty_are_made_in_few_calls(
    lab: LabProcess, operator: Operator, evidence: Evidence
) -> None:
    began = time.monotonic()
    made = operator.containers(roles=[WORKER | {"count": 30}])
    seconds = math.ceil(time.monotonic() - began)
    assert len(fleet(lab)) == 30
    calls = made["calls"]["total"]
    evidence.record("containers, 30 made", calls=calls, seconds=seconds)
    assert calls <= 2 * 30 + 2 + NODES * seconds


def test_drift_is_found_shown_and_mended(
    lab: LabProcess, operator: Operator, evidence: Evidence
) -> None:
    operator.containers()
    look(lab)
    api = lab.client()
    node = fleet(lab)[5002]["node"]
    mac = fleet(lab)[5002]["net0"]
    api.nodes(node).lxc(5002).config.put(cores=3)
    assert not operator.containers().changed  # its tags say that all is well

    found = operator.containers("--check", "--diff", drift=True)
    assert found.summary == {"update": 1, "none": 3}
    assert found["calls"]["total"] == 1 + 4 + 1  # and one for the privileges of a change
    (step,) = [one for one in found["plan"]["steps"] if one["action"] == "update"]
    assert step["changes"] == {"cores": {"before": "3", "after": "1"}}
    assert "changed by hand: cores" in step["reason"]
    assert "cores: '3'" in found.shown

    assert operator.containers(drift=True).changed
    assert fleet(lab)[5002]["cores"] == 1
    assert fleet(lab)[5002]["net0"] == mac  # it kept its MAC
    steady = operator.containers(drift=True)
    assert not steady.changed
    assert steady["calls"]["total"] == 1 + 4
    evidence.record("containers, drift of 4", calls=steady["calls"]["total"])


def test_a_role_is_resized_and_moved_in_place(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    known = operator.folder / "known_hosts"
    hosts = [f"10.7.0.{number} ssh-ed25519 AAAA\n" for number in (10, 101, 102, 103, 104)]
    known.write_text("".join(hosts))
    large = WORKER | {"memory_mib": 384, "tags": ["blue"]}
    larger = operator.containers(roles=[BROKER, large], known_hosts=str(known))
    assert larger.summary == {"update": 3, "none": 1}
    there = fleet(lab)
    assert there[5001]["memory"] == 384
    assert "blue" in there[5001]["tags"]
    assert {one["status"] for one in there.values()} == {"running"}
    assert known.read_text() == "".join(hosts)

    # Each gets the address that the next one had, whose host key is not its own.
    moved = large | {"address_offset": WORKER["address_offset"] + 1}
    assert operator.containers(roles=[BROKER, moved], known_hosts=str(known)).changed
    assert "ip=10.7.0.102/24" in fleet(lab)[5001]["net0"]
    assert known.read_text() == "".join(hosts[:2])


def test_what_changes_before_it_is_written_is_read_again(
    lab: LabProcess, operator: Operator
) -> None:
    """As when the task of a run that was killed ends in that moment."""
    operator.containers()
    told = "detected modified configuration - file changed by other user? Try again."
    write = {"method": "PUT", "path": "/nodes/*/lxc/5001/config"}
    answer = {"kind": "answer", "status": 500, "text": told, "count": 2}
    lab.own("POST", "/lab/faults", json=write | answer)
    larger = operator.containers(roles=[BROKER, WORKER | {"memory_mib": 384}])
    assert not larger.failed, larger.message
    assert fleet(lab)[5001]["memory"] == 384


def test_a_stopped_container_is_started(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    node = fleet(lab)[5001]["node"]
    assert lab.wait(lab.client(), lab.client().nodes(node).lxc(5001).status.stop.post()) == "OK"
    look(lab)
    started = operator.containers()
    assert started.summary == {"start": 1, "none": 3}
    assert fleet(lab)[5001]["status"] == "running"


def test_the_fleet_shrinks_from_those_that_are_named(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    small = [BROKER, WORKER | {"count": 1}]
    refused = operator.containers(roles=small)
    assert "confirm_destroy: true" in refused.message
    assert len(fleet(lab)) == 4
    done = operator.containers(roles=small, confirm_destroy=True, remove=["worker-1", "5003"])
    assert done.summary == {"destroy": 2, "none": 2}
    assert sorted(fleet(lab)) == [4001, 5002]
    look(lab)
    assert not operator.containers(roles=small).changed


def test_an_old_template_is_replaced_when_asked(lab: LabProcess, operator: Operator) -> None:
    operator.containers()
    make_templates(lab, "8", base=9010)
    newer = [BROKER, WORKER | {"template": "8"}]
    kept = operator.containers(roles=newer)
    assert not kept.changed
    assert [one["name"] for one in kept["containers"] if one["stale"]] == [
        "worker-1", "worker-2", "worker-3",
    ]  # fmt: skip
    done = operator.containers(roles=newer, replace=["worker-2"], confirm_destroy=True)
    assert done.summary == {"replace": 1, "none": 3}
    assert "tpl-8" in fleet(lab)[5002]["tags"]
    assert fleet(lab)[5002]["status"] == "running"


def test_a_reviewed_plan_is_applied_or_refused(
    lab: LabProcess, operator: Operator, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    operator.containers("--check", plan_file=str(file))
    assert json.loads(file.read_text())["summary"]["create"] == 4
    assert operator.containers(plan_file=str(file)).changed
    refused = operator.containers(roles=[BROKER, WORKER | {"count": 4}], plan_file=str(file))
    assert "The fleet has changed since" in refused.message
    assert len(fleet(lab)) == 4


def test_an_empty_bulk_start_falls_back_to_single_ones(lab: LabProcess, operator: Operator) -> None:
    fault = {"kind": "answer", "method": "POST", "path": "/cluster/bulk-action/guest/start"}
    lab.own("POST", "/lab/faults", json=fault | {"status": 501, "text": "not implemented"})
    operator.containers()
    assert {one["status"] for one in fleet(lab).values()} == {"running"}


def test_five_hundred_containers_take_one_call(
    lab: LabProcess, operator: Operator, evidence: Evidence
) -> None:
    populate(lab, MANY, WIDE)
    began = time.monotonic()
    steady = operator.containers(roles=MANY, network=WIDE, cpu_ratio=100)
    seconds = time.monotonic() - began
    assert not steady.changed
    assert steady.summary == {"none": 500}
    assert steady["calls"]["total"] == 1
    evidence.record("containers, 500 there", calls=1, process_seconds=round(seconds, 2))
