"""While the broker is away the gateway says so at once, and goes on by itself when it is back."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.integration.conftest import Fleet, until
from tests.support.gateway import Gateway


def healthy(rest: httpx.Client) -> bool:
    return bool(rest.get("/health").json()["healthy"])


def test_a_broker_that_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    with Gateway(tmp_path, fleet.endpoint) as gateway, gateway.client() as rest:
        assert rest.get("/tasks").status_code == 200
        fleet.broker.kill()
        until("it is missed", lambda: not healthy(rest))
        answer = rest.get("/tasks")
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (503, "broker_away")
        assert int(answer.headers["retry-after"]) > 0
        assert fleet.endpoint in problem["detail"]
        assert "since 20" in problem["detail"]
        fleet.broker.start()
        until("it is heard", lambda: healthy(rest))
        assert rest.get("/tasks").json() == []


def test_a_gateway_that_is_there_before_its_broker(fleet: Fleet, tmp_path: Path) -> None:
    fleet.broker.kill()
    with Gateway(tmp_path, fleet.endpoint) as gateway, gateway.client() as rest:
        assert not healthy(rest)
        assert rest.get("/broker").status_code == 503
        fleet.broker.start()
        until("it is heard", lambda: healthy(rest))
        assert rest.get("/broker").status_code == 200
