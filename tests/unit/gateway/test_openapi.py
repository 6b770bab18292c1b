"""The OpenAPI document says what is there, and describes the structs as they are written."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import msgspec

from corral.gateway.app import RESOURCES
from corral.gateway.openapi import document
from corral.jsons import encode
from corral.messages import AttemptView, Step, TaskView
from corral.tasks import Failure, State, Variant

DOCUMENT = json.loads(msgspec.json.encode(document(RESOURCES)))


def test_every_resource_is_there_once() -> None:
    told = {(verb, path) for path, there in DOCUMENT["paths"].items() for verb in there}
    assert told == {(one.verb.lower(), f"/api/v1{one.path}") for one in RESOURCES}
    names = [one["operationId"] for there in DOCUMENT["paths"].values() for one in there.values()]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere() -> None:
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT))
    assert names
    assert set(names) <= set(DOCUMENT["components"]["schemas"])


def test_every_resource_says_what_it_does_and_who_may() -> None:
    for there in DOCUMENT["paths"].values():
        for one in there.values():
            assert one["summary"].endswith(".")
            assert one["x-role"] in ("viewer", "client", "operator")
            assert "default" in one["responses"]


def fits(name: str, value: object) -> bool:
    schema: dict[str, Any] = {
        "$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"],
    }  # fmt: skip
    validator = jsonschema.Draft202012Validator(schema)
    return not list(validator.iter_errors(json.loads(encode(value))))


def test_a_task_fits_its_description() -> None:
    full = TaskView(
        id="a", kind="echo", state=State.FAILED, params={"x": [1]}, after={"p": "b"},
        needs=(Variant(cpus=1.0, gpus=1), Variant()), progress=0.5, metrics={"loss": 1.0},
        attempts=[AttemptView(number=1, worker="w", started=1.0, gpus=["u"])],
        failure=Failure("E", "m"), story=[Step(1.0, State.QUEUED, "submitted")], retry_at=2.0,
    )  # fmt: skip
    assert fits("TaskView", full)
    assert fits("TaskView", TaskView(id="a", kind="echo", state=State.QUEUED))
    assert not fits("TaskView", {"id": "a"})
    assert not fits("TaskView", {**msgspec.to_builtins(full), "story": [[1.0, "queued", ""]]})
