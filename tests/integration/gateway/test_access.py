"""Who may come in and what they may do: tokens, roles, hosts, other sites, pace; the audit."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import until
from tests.integration.gateway.conftest import House
from tests.support.daemon import environment
from tests.support.gateway import CORRAL, Gateway, token


def test_without_a_token_only_health_is_told_beyond_this_machine(
    house: House, tmp_path: Path
) -> None:
    known = token(tmp_path, "ann", "viewer")
    options = ("--tokens", tmp_path / "tokens.json")
    with Gateway(tmp_path, house.fleet.endpoint, *options, bind="0.0.0.0:0") as gateway:
        gateway.url = gateway.url.replace("0.0.0.0", "127.0.0.1")
        with gateway.client() as stranger:
            assert stranger.get("/health").json()["healthy"]
            paths = stranger.get("/openapi.json", headers={"authorization": f"Bearer {known}"})
            for path, verbs in paths.json()["paths"].items():
                for verb in verbs:
                    if path != "/api/v1/health":
                        url = gateway.url.removesuffix("/api/v1") + path
                        answer = stranger.request(verb, url)
                        assert answer.status_code == 401, (verb, path)
                        assert answer.headers["www-authenticate"].startswith("Bearer")
            for path in ("/nothing", "/health/", "/health/x", "//health"):
                assert stranger.get(path).status_code == 401, path
            wrong = {"authorization": f"Bearer {known}x"}
            assert stranger.get("/tasks", headers=wrong).json()["code"] == "no_token"
            basic = {"authorization": f"Basic {known}"}
            assert stranger.get("/tasks", headers=basic).status_code == 401


def test_beyond_this_machine_it_does_not_start_without_tokens(tmp_path: Path) -> None:
    command = [CORRAL, "gateway", "start", "--bind", "0.0.0.0:0"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert ended.returncode == 2
    assert "corral gateway token new" in ended.stderr


def test_a_role_is_a_bound(house: House, tmp_path: Path) -> None:
    names = {role: token(tmp_path, role, role) for role in ("viewer", "client", "operator")}
    options = ("--tokens", tmp_path / "tokens.json")
    with Gateway(tmp_path, house.fleet.endpoint, *options) as gateway, ExitStack() as ends:
        clients = (ends.enter_context(gateway.client(one)) for one in names.values())
        viewer, client, operator = clients
        task = {"kind": "echo", "params": {"who": "viewer"}}
        before = sum(viewer.get("/broker").json()["tasks"].values())
        for path, body in (
            ("/tasks", task), ("/tasks/last/cancel", {}), ("/tasks/last/retry", {}),
            ("/tasks/cancel", {"kind": "echo", "confirm": 0}), ("/workers/w1/drain", {}),
            ("/backtests/start", {"strategy_name": "ridge", "symbol": "AAPL"}),
        ):  # fmt: skip
            refused = viewer.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (403, "role_too_low"), path
        assert viewer.delete("/operations/last/cancel").status_code == 403
        assert sum(viewer.get("/broker").json()["tasks"].values()) == before
        assert client.post("/tasks", json=task).status_code == 201
        assert client.post("/workers/w1/drain").status_code == 403
        assert operator.post("/workers/w1/drain").status_code == 200
        assert operator.post("/workers/w1/resume").status_code == 200


def test_a_token_that_is_revoked_is_out_its_stream_too(house: House, tmp_path: Path) -> None:
    table = tmp_path / "tokens.json"
    known = token(tmp_path, "ann", "viewer")
    with (
        Gateway(tmp_path, house.fleet.endpoint, "--tokens", table) as gateway,
        gateway.client(known) as ann,
        ann.stream("GET", "/stream") as stream,
    ):
        pieces = stream.iter_bytes()
        assert next(pieces)
        command = [CORRAL, "gateway", "token", "revoke", "ann", "--tokens", table]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
        until("it is out", lambda: ann.get("/tasks").status_code == 401)
        for _ in pieces:  # until it ends
            pass


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1"},
    ],
)
def test_a_page_of_another_site_cannot_act(rest: httpx.Client, headers: dict[str, str]) -> None:
    before = rest.get("/broker").json()["tasks"]
    answer = rest.post("/tasks", json={"kind": "echo"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert rest.get("/broker").json()["tasks"] == before
    preflight = rest.options("/tasks", headers=headers)
    assert "access-control-allow-origin" not in preflight.headers


def test_our_own_page_can_act(house: House, rest: httpx.Client) -> None:
    own = {"origin": f"http://{house.gateway.bind}", "sec-fetch-site": "same-origin"}
    assert rest.post("/tasks", json={"kind": "echo"}, headers=own).status_code == 201


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[", ""]
)
def test_a_name_that_was_made_to_mean_this_machine_is_refused(
    rest: httpx.Client, host: str
) -> None:
    answer = rest.get("/tasks", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "wrong_host")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_names_of_this_machine(rest: httpx.Client, host: str) -> None:
    assert rest.get("/tasks", headers={"host": host}).status_code == 200


def test_who_asks_too_fast_is_told_to_wait(house: House, tmp_path: Path) -> None:
    slow = "gateway: {rate: 2}\n"
    with Gateway(tmp_path, house.fleet.endpoint, config=slow) as gateway, gateway.client() as rest:
        answers = [rest.get("/health") for _ in range(40)]
        refused = [one for one in answers if one.status_code == 429]
        assert refused
        assert refused[0].json()["code"] == "too_fast"
        assert int(refused[0].headers["retry-after"]) >= 1
        assert answers[0].status_code == 200


def test_every_action_leaves_a_line(house: House, tmp_path: Path) -> None:
    known = token(tmp_path, "ann", "client")
    audit = tmp_path / "audit.jsonl"
    options = ("--tokens", tmp_path / "tokens.json", "--audit", audit)
    with Gateway(tmp_path, house.fleet.endpoint, *options) as gateway:
        with gateway.client(known) as ann:
            id = ann.post("/tasks", json={"kind": "echo"}).json()["id"]
            ann.post(f"/tasks/{id}/cancel", json={"reason": 'to "see"\nit'})
            ann.post("/workers/w1/drain")
            ann.get("/tasks")
        httpx.post(f"{gateway.url}/tasks", json={"kind": "echo"})
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(one["who"], one["verb"], one["status"]) for one in lines] == [
        ("ann", "POST", 201), ("ann", "POST", lines[1]["status"]), ("ann", "POST", 403),
        ("", "POST", 401),
    ]  # fmt: skip
    assert lines[0]["ids"] == [id]
    assert (lines[1]["id"], lines[1]["reason"]) == (id, 'to "see"\nit')
    assert (lines[2]["role"], lines[2]["refused"]) == ("client", "role_too_low")
    assert (lines[3]["refused"], lines[3]["address"]) == ("no_token", "127.0.0.1")
    assert known not in audit.read_text() + gateway.log
