"""The SDK against a real broker and real workers, as DESIGN's example uses it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter

import pytest

from corral import Client, Task
from corral.client import AsyncClient
from corral.errors import (
    BadParams,
    BrokerUnreachable,
    CyclicParents,
    DuplicateId,
    MissingParent,
    NotFound,
    TaskCancelled,
    TaskFailed,
    TimedOut,
    TooLarge,
    UnknownKind,
)
from corral.tasks import State
from tests.integration.conftest import Fleet, until


@pytest.fixture
def corral(fleet: Fleet) -> Client:
    fleet.start_worker("w1", 2)
    return fleet.client()


def test_submit_watch_and_result(corral: Client) -> None:
    task = corral.submit("sleep", seconds=0.5)
    updates = list(task.watch())
    assert [update.state for update in updates if update.state][-1] is State.SUCCEEDED
    assert any(update.cause == "progress" for update in updates)
    assert task.result(timeout=30) >= 0.5
    assert task.show().worker == "w1"


def test_ten_thousand_tasks_come_back_as_they_went(corral: Client) -> None:
    payloads = [os.urandom(64) for _ in range(10_000)]
    tasks = (Task("echo", {"i": i, "data": data}) for i, data in enumerate(payloads))
    handles = corral.submit_many(tasks, batch=100)
    back = {}
    for handle, outcome in corral.results(handles, timeout=60):
        assert outcome.state is State.SUCCEEDED
        back[handle.id] = outcome.value
    assert [back[handle.id] for handle in handles] == [
        {"i": i, "data": data} for i, data in enumerate(payloads)
    ]


def test_one_message_per_task(corral: Client) -> None:
    handles = corral.submit_many((Task("echo", {"i": i}) for i in range(2_000)), batch=1)
    seen = Counter(outcome.value["i"] for _, outcome in corral.results(handles, timeout=60))
    assert seen == Counter(range(2_000))


def test_a_large_result_is_fetched(corral: Client) -> None:
    data = os.urandom(3_000_000)
    assert corral.submit("echo", data=data).result(timeout=30) == {"data": data}


def test_parents_come_first(corral: Client) -> None:
    first = corral.submit("echo", a=1)
    second = corral.submit("echo", after={"first": first}, b=2)
    assert second.result(timeout=30) == {"b": 2}
    assert second.show().after == {"first": first.id}


def test_failures_are_told(corral: Client) -> None:
    with pytest.raises(TaskFailed, match="out of luck"):
        corral.submit("fail", message="out of luck", retry=0).result(timeout=30)
    child = corral.submit("echo", after=[corral.submit("fail", retry=0)])
    with pytest.raises(TaskFailed, match="aborted"):
        child.result(timeout=30)
    # So short that a slot is given several at once: the limit of one is not that of the next.
    for _ in range(5):
        corral.submit("sleep", seconds=0).result(timeout=30)
    handles = corral.submit_many(
        Task("sleep", {"seconds": seconds}, run_limit=limit)
        for _ in range(2)
        for seconds, limit in ((0, 0.5), (1, None), (1, 0.5))
    )
    ended = {handle.id: outcome.state for handle, outcome in corral.results(handles, timeout=30)}
    assert [ended[handle.id] for handle in handles] == [
        State.SUCCEEDED, State.SUCCEEDED, State.FAILED,
    ] * 2  # fmt: skip


def test_cancel_retry_and_their_errors(corral: Client) -> None:
    task = corral.submit("sleep", id="run-10", seconds=60)
    with pytest.raises(TimedOut):
        task.result(timeout=0.2)
    for id in ("run-1", "last"):  # no prefix: what acts on a task wants its whole id
        assert corral.cancel([id]).unchanged == {id: "not found"}
        with pytest.raises(NotFound, match=id):
            corral.handle(id).result(timeout=10)
    assert task.cancel("enough")
    with pytest.raises(TaskCancelled, match="enough"):
        task.result(timeout=30)
    assert not task.cancel()
    assert corral.retry(["run-1"]).unchanged == {"run-1": "not found"}
    assert corral.retry([task.id]).changed == [task.id]
    assert corral.cancel([task.id]).changed == [task.id]


def test_a_task_that_nothing_can_run_is_accepted_warned_of_and_explained(corral: Client) -> None:
    task = corral.submit("echo", force_gpu=True)
    assert "gpus" in task.warnings[0]
    told = task.explain()
    assert told.state is State.QUEUED
    assert {verdict.worker for verdict in told.workers} == {"w1"}
    assert told.cure


def test_what_is_refused(corral: Client) -> None:
    with pytest.raises(UnknownKind, match="trian_model"):
        corral.submit("trian_model")
    with pytest.raises(BadParams, match="seconds"):
        corral.submit("sleep", seconds="long")
    with pytest.raises(BadParams, match="minutes"):
        corral.submit("sleep", minutes=1)
    with pytest.raises(MissingParent, match="nobody"):
        corral.submit("echo", after={"x": "nobody"})
    corral.submit("echo", id="mine", a=1)
    with pytest.raises(DuplicateId, match="mine"):
        corral.submit("echo", id="mine", a=2)
    circle = [Task("echo", after={"x": "#1"}), Task("echo", after={"x": "#0"})]
    with pytest.raises(CyclicParents):
        corral.submit_many(circle, batch=None)
    with pytest.raises(TooLarge, match="limit is"):
        corral.submit("echo", data=bytes(17 << 20))
    with pytest.raises(TooLarge, match="limit is"):
        corral.submit("echo", data=bytes(65 << 20))
    with pytest.raises(NotFound):
        corral.show(["nobody"])
    with pytest.raises(NotFound):
        corral.handle("nobody").result(timeout=10)
    assert corral.submit("echo", still="here").result(timeout=30) == {"still": "here"}


def test_ids_that_the_caller_gives_are_one_task(corral: Client) -> None:
    one = corral.submit("echo", id="once", a=1)
    assert one.result(timeout=30) == {"a": 1}
    other = corral.submit("echo", id="once", a=1)
    assert other.known
    assert other.result(timeout=30) == {"a": 1}


def test_logs_and_lists(corral: Client) -> None:
    task = corral.submit("chatter", words="hello", project="talk")
    text = b"".join(corral.logs(task.id, follow=True)).decode()
    assert "hello by print" in text
    corral.submit_many((Task("echo", project="talk") for _ in range(5)), batch=2)
    listed = corral.tasks(project="talk")
    assert len(listed) == 6
    assert listed[-1].id == task.id
    assert [view.id for view in corral.tasks(kind="chatter")] == [task.id]


def test_workers_drain_and_resume(corral: Client) -> None:
    assert corral.drain("w1", "a test").changed == ["w1"]
    until("it is drained", lambda: corral.workers()[0].admission == "drained")
    task = corral.submit("echo", a=1)
    assert corral.workers()[0].drain_reason == "a test"
    assert corral.resume("w1").changed == ["w1"]
    assert task.result(timeout=30) == {"a": 1}
    assert corral.status().tasks["succeeded"] == 1


def test_watching_everything_resumes_by_number(corral: Client) -> None:
    before = corral.status().seq
    corral.submit("echo", a=1).result(timeout=30)
    updates = corral.watch(since=before)
    states = []
    for update in updates:
        states.append(update.state)
        if update.state is State.SUCCEEDED:
            break
    assert states == [State.QUEUED, State.RUNNING, State.SUCCEEDED]


def test_asyncio(fleet: Fleet) -> None:
    async def main() -> list[int]:
        async with AsyncClient(fleet.endpoint, timeout=60) as corral:
            handles = await corral.submit_many(
                (Task("echo", {"i": i}) for i in range(300)), batch=7
            )
            seen = [outcome.value["i"] async for _, outcome in corral.results(handles, 60)]
            one = await corral.submit("sleep", seconds=0.2)
            states = [update.state async for update in one.watch()]
            assert states[-1] is State.SUCCEEDED
            return seen

    fleet.start_worker("w1", 2)
    assert sorted(asyncio.run(main())) == list(range(300))


def test_a_round_trip_takes_milliseconds(corral: Client) -> None:
    corral.submit("echo").result(timeout=30)
    taken = []
    for _ in range(50):
        began = time.perf_counter()
        corral.submit("echo", a=1).result(timeout=30)
        taken.append(time.perf_counter() - began)
    assert sorted(taken)[25] < 0.05


# --- when the broker dies ---------------------------------------------------------------


def test_results_survive_kill_9_of_the_broker(fleet: Fleet) -> None:
    fleet.start_worker("w1", 2)
    corral = fleet.client()
    handles = corral.submit_many((Task("sleep", {"seconds": 0.5}) for _ in range(8)), batch=3)
    results = corral.results(handles, timeout=60)
    next(results)
    fleet.restart_broker()
    assert len(list(results)) == 7
    assert {outcome.state for _, outcome in corral.results(handles)} == {State.SUCCEEDED}


def test_submissions_survive_kill_9_of_the_broker_and_are_made_once(fleet: Fleet) -> None:
    fleet.start_worker("w1", 2)
    corral = fleet.client()
    kills = threading.Thread(target=lambda: (time.sleep(0.3), fleet.restart_broker()))
    kills.start()
    handles = []
    began = time.monotonic()
    while kills.is_alive() or time.monotonic() - began < 1.0:
        handles += corral.submit_many((Task("echo", {"i": i}) for i in range(100)), batch=1)
    kills.join()
    values = Counter(outcome.value["i"] for _, outcome in corral.results(handles, timeout=60))
    assert values == Counter({i: len(handles) // 100 for i in range(100)})
    assert sum(corral.status().tasks.values()) == len(handles)


def test_a_watch_survives_kill_9_of_the_broker(fleet: Fleet) -> None:
    fleet.start_worker("w1", 2)
    corral = fleet.client()
    task = corral.submit("sleep", seconds=2)
    states = []
    for update in task.watch():
        states.append(update.state)
        if states == [State.QUEUED] or (len(states) == 1 and update.state is State.RUNNING):
            fleet.restart_broker()
    assert states[-1] is State.SUCCEEDED
    assert task.result(timeout=30) >= 2


def test_a_broker_that_stays_away_is_unreachable(fleet: Fleet) -> None:
    corral = fleet.client(timeout=1.0)
    corral.status()
    fleet.broker.kill()
    with pytest.raises(BrokerUnreachable, match=fleet.endpoint):
        corral.status()
    with pytest.raises(BrokerUnreachable):
        corral.submit("echo")
    fleet.broker.start()
    until("the same client works again", lambda: corral.status().version)
