"""What can be done over REST: submit, cancel, retry, one by one and by filter, drain and resume."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.conftest import until
from tests.integration.gateway.conftest import House

LONG = {"kind": "sleep", "params": {"seconds": 600}}


def submit(rest: httpx.Client, *tasks: dict[str, Any]) -> list[str]:
    answer = rest.post("/tasks", json=list(tasks))
    assert answer.status_code == 201, answer.text
    return [one["id"] for one in answer.json()]


def state(rest: httpx.Client, id: str) -> str:
    return str(rest.get(f"/tasks/{id}").json()["state"])


def test_a_task_is_submitted_and_its_result_fetched(rest: httpx.Client) -> None:
    task = {"kind": "echo", "params": {"a": [1, "x"]}, "needs": [{"cpus": 0.5}], "priority": 2}
    answer = rest.post("/tasks", json=task)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert told == {"id": told["id"], "known": False, "warnings": [], "kept": []}
    view = rest.get(answer.headers["location"].removeprefix("/api/v1")).json()
    assert (view["params"], view["priority"], view["needs"][0]["cpus"]) == ({"a": [1, "x"]}, 2, 0.5)
    result = rest.get(f"/tasks/{told['id']}/result?wait=60")
    assert (result.status_code, result.json()["value"]) == (200, {"a": [1, "x"]})


def test_several_tasks_are_one_submission(rest: httpx.Client) -> None:
    first = {"kind": "echo", "params": {"n": 1}}
    ids = submit(rest, first, {"kind": "echo", "after": {"parent": "#0"}})
    assert rest.get(f"/tasks/{ids[1]}").json()["after"] == {"parent": ids[0]}
    before = rest.get("/broker").json()["tasks"]
    refused = rest.post("/tasks", json=[first, {"kind": "no_such_kind"}])
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_kind")
    assert sum(rest.get("/broker").json()["tasks"].values()) == sum(before.values())


def test_the_same_id_is_the_same_task(rest: httpx.Client) -> None:
    task = {"kind": "echo", "params": {"n": 1}, "id": "of/my"}
    assert rest.post("/tasks", json=task).json()["known"] is False
    assert rest.post("/tasks", json=task).json()["known"] is True
    assert rest.get("/tasks/of%2Fmy").json()["id"] == "of/my"
    other = rest.post("/tasks", json={**task, "params": {"n": 2}})
    assert (other.status_code, other.json()["code"]) == (409, "duplicate_id")


def test_a_result_that_is_not_there_yet(rest: httpx.Client) -> None:
    [id] = submit(rest, LONG)
    answer = rest.get(f"/tasks/{id}/result?wait=0.2")
    assert answer.status_code == 202
    assert answer.json()["value"] is None
    assert answer.json()["state"] in ("queued", "running")
    rest.post(f"/tasks/{id}/cancel")
    assert rest.get(f"/tasks/{id}/result").json()["state"] == "cancelled"


def test_a_task_is_cancelled_and_run_again(rest: httpx.Client) -> None:
    [id] = submit(rest, LONG)
    cancelled = rest.post(f"/tasks/{id}/cancel", json={"reason": "no longer wanted"})
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert "no longer wanted" in str(rest.get(f"/tasks/{id}/story").json())
    assert rest.post(f"/tasks/{id}/cancel").status_code == 200  # it is as was asked for
    again = rest.post(f"/tasks/{id}/retry")
    assert (again.status_code, again.json()["run"]) == (200, 2)
    refused = rest.post(f"/tasks/{id}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
    assert "run again" in refused.json()["detail"]
    rest.post(f"/tasks/{id}/cancel")


def test_all_that_match_are_cancelled_once_that_is_confirmed(rest: httpx.Client) -> None:
    wanted = {"project": "bulk", "state": "waiting"}
    [parent] = submit(rest, LONG)
    child = {"kind": "echo", "project": "bulk", "after": {"p": parent}}
    ids = submit(rest, *[child] * 12)
    asked = rest.post("/tasks/cancel", json=wanted).json()
    assert (asked["matched"], asked["confirmed"], asked["changed"]) == (12, False, [])
    wrong = rest.post("/tasks/cancel", json={**wanted, "confirm": 11})
    assert (wrong.status_code, wrong.json()["code"]) == (409, "not_confirmed")
    assert "12 tasks match" in wrong.json()["detail"]
    assert state(rest, ids[0]) == "waiting"
    done = rest.post("/tasks/cancel", json={**wanted, "confirm": 12, "reason": "all"}).json()
    assert sorted(done["changed"]) == sorted(ids)
    assert {state(rest, id) for id in ids} == {"cancelled"}
    again = rest.post("/tasks/retry", json={"project": "bulk", "confirm": 12}).json()
    assert sorted(again["changed"]) == sorted(ids)
    rest.post(f"/tasks/{parent}/cancel")


def test_a_bulk_action_wants_a_filter(rest: httpx.Client) -> None:
    answer = rest.post("/tasks/cancel", json={"confirm": 0})
    assert (answer.status_code, answer.json()["code"]) == (400, "usage")


def test_a_worker_is_drained_and_resumed(house: House, rest: httpx.Client) -> None:
    drained = rest.post("/workers/w1/drain", json={"reason": "a new disk"})
    assert drained.status_code == 200
    assert drained.json()["admission"] in ("draining", "drained")
    assert drained.json()["drain_reason"] == "a new disk (local by the gateway)"
    until("it is drained", lambda: rest.get("/workers/w1").json()["admission"] == "drained")
    assert rest.post("/workers/w1/resume").json()["admission"] == "open"
    missing = rest.post("/workers/none/drain")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


def test_a_log_is_followed_to_its_end(rest: httpx.Client) -> None:
    [id] = submit(rest, {"kind": "chatter", "params": {"words": "hello"}})
    rest.get(f"/tasks/{id}/result?wait=60")
    with rest.stream("GET", f"/tasks/{id}/logs?follow=true") as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        text = answer.read().decode()
    assert "hello by print" in text
    assert "hello by process" in text
    assert rest.get(f"/tasks/{id}/logs").text == text


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"{", 422, "bad_body", "no JSON"),
        (b'{"kind": 3}', 422, "bad_body", "kind"),
        (b'{"kind": "echo", "prams": {}}', 422, "bad_body", "prams"),
        (b"{}", 422, "bad_task", "kind"),
        (b"[]", 400, "usage", "1 to"),
        (b'{"kind": "echo", "params": {"n": 1e400}}', 422, "bad_body", "out of range"),
        (b'{"kind": "echo", "params": {"n": 10000000000000000000000}}', 400, "usage", "be sent"),
        (b'{"kind": "sleep", "params": {"seconds": "x"}}', 422, "bad_params", "seconds"),
        (b'{"kind": "a b"}', 422, "bad_task", "kind"),
        (b"[" * 10_000, 422, "bad_body", ""),
        (b"\xff\xfe", 422, "bad_body", "no JSON"),
    ],
)  # fmt: skip
def test_a_body_that_does_not_fit_is_refused(
    rest: httpx.Client, body: bytes, status: int, code: str, words: str
) -> None:
    answer = rest.post("/tasks", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert words in answer.json()["detail"]
    assert "--help" not in answer.json()["next"]


def test_only_json_of_a_fair_size_is_read(rest: httpx.Client) -> None:
    form = rest.post("/tasks", content=b"kind=echo", headers={"content-type": "text/plain"})
    assert (form.status_code, form.json()["code"]) == (415, "wrong_media_type")
    large = b'{"kind": "echo", "params": {"a": "%b"}}' % (b"x" * (9 << 20))
    head = {"content-type": "application/json"}
    announced = rest.post("/tasks", content=large, headers=head)
    assert (announced.status_code, announced.json()["code"]) == (413, "body_too_large")
    pieces = (large[start : start + 65536] for start in range(0, len(large), 65536))
    in_pieces = rest.post("/tasks", content=pieces, headers=head)
    assert in_pieces.status_code == 413


# --- pipelines --------------------------------------------------------------------------


def test_a_pipeline_is_submitted_listed_and_shown_as_a_graph(rest: httpx.Client) -> None:
    yaml = "name: over rest\nsymbols: [AAPL]\ntargets: [up_5d]\nfamilies: [ridge]\n"
    answer = rest.post("/pipelines", json={"yaml": yaml})
    assert answer.status_code == 201, answer.text
    ids = [task["id"] for task in answer.json()["tasks"]]
    assert (answer.json()["name"], len(ids)) == ("over rest", 4)
    graph = rest.get("/pipelines/over%20rest").json()
    assert [place["id"] for place in graph["graph"]] == ids
    assert [list(place["after"].values()) for place in graph["graph"]] == [
        [], *([id] for id in ids[:3])
    ]  # fmt: skip
    until(
        "it is listed",
        lambda: "over rest" in [one["name"] for one in rest.get("/pipelines").json()],
    )
    again = rest.post("/pipelines", json={"yaml": yaml}).json()
    assert again["reused"] == 4
    rest.post("/tasks/cancel", json={"project": "over rest", "confirm": 4})


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "either `shipped` or `yaml`"),
        ({"shipped": "../demo"}, 404, "demo"),
        ({"yaml": "name: x\nsymbols: [AAPL]\ntargets: [up_5d]\nfamilies: [oracle]\n"}, 422, "4"),
        ({"yaml": "name: [unclosed"}, 422, "line"),
    ],
)
def test_what_is_no_pipeline_is_refused(
    rest: httpx.Client, body: dict[str, str], status: int, told: str
) -> None:
    answer = rest.post("/pipelines", json=body)
    assert (answer.status_code, told in answer.json()["detail"]) == (status, True), answer.text
