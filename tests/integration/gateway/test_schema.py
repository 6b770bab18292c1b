"""Whatever the OpenAPI document allows, and much that it forbids: no 5xx, and answers that fit.

Not tried is the stream, which does not end. Not checked is that whatever fits the document is
accepted: which kinds and params there are only the broker knows.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from corral.client import Client
from corral.gateway.app import RESOURCES
from corral.gateway.openapi import document
from corral.jsons import encode
from tests.integration.gateway.conftest import House
from tests.support.gateway import PATIENCE

EXAMPLES = 10  # of each resource, beside the cases that schemathesis makes at the bounds
SCHEMA = schemathesis.openapi.from_dict(json.loads(encode(document(RESOURCES))))


@pytest.fixture(scope="module")
def real(house: House) -> dict[str, str]:
    """What is really there, for each parameter of a path."""
    with Client(house.fleet.endpoint, timeout=PATIENCE) as client:
        task = client.submit("echo", text="hello")
        assert task.result(timeout=PATIENCE) == {"text": "hello"}
    return {"id": task.id, "name": "w1"}


@SCHEMA.exclude(path="/api/v1/stream").parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_no_request_is_too_much(case: Any, house: House, real: dict[str, str]) -> None:
    origin = f"http://{house.gateway.bind}"
    excluded = [positive_data_acceptance]
    case.call_and_validate(base_url=origin, excluded_checks=excluded, timeout=PATIENCE)
    if case.method == "GET" and case.path_parameters:
        case.path_parameters = {name: real[name] for name in case.path_parameters}
        case.call_and_validate(base_url=origin, excluded_checks=excluded, timeout=PATIENCE)
