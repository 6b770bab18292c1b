"""What the gateway tells of tasks, workers and the broker: the structs of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from corral.client import Client
from corral.messages import BrokerView, Explanation, ResultView, TaskView, WorkerView
from corral.tasks import State, Task
from tests.integration.conftest import until
from tests.integration.gateway.conftest import House
from tests.support.daemon import environment
from tests.support.gateway import PATIENCE, Gateway
from tests.support.told import told

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def done(house: House) -> list[str]:
    """Ids of five tasks that have succeeded."""
    with Client(house.fleet.endpoint, timeout=PATIENCE) as client:
        tasks = [Task("echo", {"n": n}, name=f"task {n}", project="reading") for n in range(5)]
        handles = client.submit_many(tasks)
        assert len(list(client.results(handles, timeout=PATIENCE))) == 5
    return [handle.id for handle in handles]


def read(answer: httpx.Response, kind: Any) -> Any:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return told(answer.content, kind)


def corral(house: House, *arguments: str) -> bytes:
    """What the command line prints as JSON."""
    command = [BIN / "corral", *arguments, "--broker", house.fleet.endpoint, "-o", "json"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment()).stdout


def test_a_stranger_is_told_whether_all_is_well(rest: httpx.Client) -> None:
    health = rest.get("/health").json()
    assert health["healthy"] is True
    assert set(health) == {"healthy", "timestamp"}


def test_a_task_is_told_as_the_command_line_tells_it(
    house: House, rest: httpx.Client, done: list[str]
) -> None:
    answer = rest.get(f"/tasks/{done[0]}")
    assert read(answer, TaskView).state is State.SUCCEEDED
    assert answer.json() == msgspec.json.decode(corral(house, "task", "show", done[0]))
    assert rest.get(f"/tasks/{done[0][:8]}").json() == answer.json()


def test_the_parts_of_a_task(rest: httpx.Client, done: list[str]) -> None:
    story = rest.get(f"/tasks/{done[0]}/story").json()
    assert [step["state"] for step in story] == ["queued", "running", "succeeded"]
    assert read(rest.get(f"/tasks/{done[0]}/explain"), Explanation).id == done[0]
    result = read(rest.get(f"/tasks/{done[0]}/result"), ResultView)
    assert (result.state, result.value) == (State.SUCCEEDED, {"n": 0})


def test_a_list_has_pages(rest: httpx.Client, done: list[str]) -> None:
    url, found = "/tasks?project=reading&limit=2", []
    while url:
        answer = rest.get(url)
        found += [view.id for view in read(answer, list[TaskView])]
        url = answer.links.get("next", {}).get("url", "")
        url = url.removeprefix("/api/v1")
    assert sorted(found) == sorted(done)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("state=succeeded&state=failed", 5), ("state=queued", 0), ("kind=echo", 5),
        ("kind=sleep", 0), ("worker=w1", 5), ("worker=w2", 0), ("limit=3", 3),
    ],
)  # fmt: skip
def test_a_list_is_filtered(rest: httpx.Client, done: list[str], query: str, count: int) -> None:
    assert len(rest.get(f"/tasks?project=reading&{query}").json()) == count


def test_workers_and_the_broker(house: House, rest: httpx.Client) -> None:
    [worker] = read(rest.get("/fleet"), list[WorkerView])
    assert (worker.name, worker.slots) == ("w1", 2)
    assert read(rest.get("/workers/w1"), WorkerView).name == "w1"
    assert read(rest.get("/broker"), BrokerView).endpoint == house.fleet.endpoint


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("/tasks/none", 404, "not_found", "none"),
        ("/tasks/a%2Fb", 404, "not_found", "a/b"),
        ("/workers/none", 404, "not_found", "none"),
        ("/pipelines/none", 404, "no_such_pipeline", "none"),
        ("/nothing", 404, "no_such_path", "/api/v1/nothing"),
        ("/tasks?limitt=3", 400, "bad_request", "did you mean limit?"),
        ("/tasks?limit=0", 400, "bad_request", "limit"),
        ("/tasks?limit=3&limit=4", 400, "bad_request", "twice"),
        ("/tasks?state=odd", 400, "bad_request", "state"),
        ("/tasks?before=none", 404, "not_found", "none"),
        ("/tasks/none/result?wait=1e9", 400, "bad_request", "wait"),
    ],
)
def test_what_cannot_be_told_is_a_problem_with_a_cure(
    rest: httpx.Client, path: str, status: int, code: str, words: str
) -> None:
    answer = rest.get(path)
    problem = answer.json()
    assert answer.status_code == problem["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["code"], problem["type"]) == (code, f"urn:corral:{code}")
    assert words in problem["detail"]
    assert problem["title"]
    assert problem["next"]


def test_a_verb_that_a_path_does_not_know(rest: httpx.Client) -> None:
    answer = rest.put("/tasks")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert rest.head("/tasks").status_code == 200


def test_every_answer_carries_the_headers_that_browsers_heed(rest: httpx.Client) -> None:
    for path in ("/health", "/nothing", "/tasks"):
        headers = rest.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


def test_one_who_leaves_a_log_that_goes_on_leaves_no_error(house: House, tmp_path: Path) -> None:
    chatter = {"kind": "chatter", "params": {"words": "on and on", "seconds": 3600.0}}
    with Gateway(tmp_path, house.fleet.endpoint) as gateway, gateway.client() as rest:
        id = rest.post("/tasks", json=chatter).json()["id"]
        until("it runs", lambda: rest.get(f"/tasks/{id}").json()["state"] == "running")
        for _ in range(10):
            with rest.stream("GET", f"/tasks/{id}/logs?follow=true") as log:
                assert b"on and on" in next(log.iter_bytes())
        rest.post(f"/tasks/{id}/cancel")
        gateway.stop()  # looks at what it wrote meanwhile


def test_a_log_that_says_nothing_yet_does_not_hold_up_the_end(house: House, tmp_path: Path) -> None:
    with Gateway(tmp_path, house.fleet.endpoint) as gateway, gateway.client() as rest:
        id = rest.post("/tasks", json={"kind": "sleep", "params": {"seconds": 600}}).json()["id"]
        with rest.stream("GET", f"/tasks/{id}/logs?follow=true") as log:
            assert log.status_code == 200
            assert gateway.stop() < 2
    Client(house.fleet.endpoint).cancel([id])
