"""How requests are written: forms, JSON, repeated names; and what is refused with which words."""

from __future__ import annotations

import pytest

from tests.fleet.lab.process import LabProcess

CONFIG = "/nodes/pve1/lxc/900/config"


@pytest.mark.parametrize("word", ["True", "true", "yes", "on", "2", ""])
def test_a_boolean_is_0_or_1(lab: LabProcess, word: str) -> None:
    answer = lab.ask("PUT", CONFIG, data={"onboot": word})
    assert answer.status_code == 400
    assert answer.json()["errors"] == {"onboot": f"type check ('boolean') failed - got '{word}'"}


def test_a_body_may_be_json(lab: LabProcess) -> None:
    lab.template()
    assert lab.ask("PUT", CONFIG, json={"onboot": True, "cores": 2}).status_code == 200
    config = lab.ask("GET", CONFIG).json()["data"]
    assert (config["onboot"], config["cores"]) == (1, 2)


def test_a_name_that_is_repeated_has_a_list(lab: LabProcess) -> None:
    lab.template()
    assert lab.ask("PUT", CONFIG, data={"tags": ["Y", "x", "y"]}).status_code == 200
    assert lab.ask("GET", CONFIG).json()["data"]["tags"] == "x;y"
    answer = lab.ask("POST", "/cluster/bulk-action/guest/shutdown", data={"vms": [900, 901]})
    assert answer.reason == "Permission check failed (/vms/901, VM.PowerMgmt)"


def test_a_body_that_is_no_json_is_refused(lab: LabProcess) -> None:
    headers = {"Content-Type": "application/json"}
    answer = lab.ask("PUT", CONFIG, data="{", headers=headers)
    assert answer.status_code == 400


def test_every_bad_parameter_is_told_at_once(lab: LabProcess) -> None:
    answer = lab.ask("PUT", CONFIG, data={"cores": "many", "memory": 1, "colour": "red"})
    assert set(answer.json()["errors"]) == {"cores", "memory", "colour"}


def test_the_headers_are_those_of_the_real_one(lab: LabProcess) -> None:
    answer = lab.ask("GET", "/version")
    assert answer.headers["Server"] == "pve-api-daemon/3.0"
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
