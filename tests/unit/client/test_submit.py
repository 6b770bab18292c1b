"""Submissions: what goes out, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor as Pool

import msgspec
import pytest

from corral import Client, Task, messages, tasks
from corral.client import AsyncClient, engine, pending
from corral.errors import (
    BadTask,
    DuplicateId,
    NotFound,
    TaskFailed,
    TimedOut,
    TooLarge,
    UnknownKind,
    Usage,
)
from corral.messages import Accepted, Answer, Call, Outcomes, Refused, Results, Submit
from corral.tasks import Retry, State, request_id
from tests.unit.client.scripted import ScriptedBroker, accept, done, echo


def submits(broker: ScriptedBroker) -> list[Submit]:
    return [call for call in broker.calls if isinstance(call, Submit)]


def test_submit_returns_a_handle_with_the_id_that_both_sides_compute() -> None:
    with ScriptedBroker(echo) as broker, Client(broker.endpoint) as corral:
        handle = corral.submit("echo", text="hello", number=7)
        assert handle.result(timeout=5) == {"text": "hello", "number": 7}
        (call,) = submits(broker)
        assert handle.id == request_id(call.request, 0)
        assert call.collect
        assert not call.resend


def test_options_of_submit_become_fields_of_the_task() -> None:
    with ScriptedBroker(echo) as broker, Client(broker.endpoint, project="research") as corral:
        parent = corral.submit("echo")
        corral.submit(
            "train",
            after={"select": parent, "rank": "abc"},
            prefer_gpu=True,
            priority=5,
            id="mine",
            retry=1,
            run_limit=60.0,
            queue_limit=600.0,
            name="AAPL/mlp",
            symbol="AAPL",
        )
        corral.submit("train", after=[parent], force_gpu=True, project="other")
        first, second = (call.tasks[0] for call in submits(broker)[1:])
        assert first.after == {"select": parent.id, "rank": "abc"}
        assert first.needs == tasks.prefer_gpu()
        assert first.retry == Retry(limit=1)
        assert (first.priority, first.id, first.run_limit, first.queue_limit, first.name) == (
            5, "mine", 60.0, 600.0, "AAPL/mlp",
        )  # fmt: skip
        assert first.project == "research"
        assert second.project == "other"
        assert second.after == {"parent0": parent.id}
        assert second.needs == tasks.force_gpu()


@pytest.mark.parametrize(("batch", "messages_sent"), [(1, 10), (3, 4), (100, 1), (None, 1)])
def test_batch_is_the_number_of_tasks_in_one_message(batch: int | None, messages_sent: int) -> None:
    with ScriptedBroker(echo) as broker, Client(broker.endpoint) as corral:
        handles = corral.submit_many((Task("echo", {"i": i}) for i in range(10)), batch=batch)
        assert len(submits(broker)) == messages_sent
        assert [handle.result(5)["i"] for handle in handles] == list(range(10))


def test_results_come_in_the_order_in_which_tasks_complete() -> None:
    with ScriptedBroker(lambda call: [accept(call)]) as broker, Client(broker.endpoint) as corral:
        handles = corral.submit_many(Task("echo") for _ in range(3))
        results = corral.results(handles, timeout=5)
        for which in (2, 0, 1):
            broker.push(Outcomes(b"", [done(handles[which].id, which)]))
            handle, outcome = next(results)
            assert handle is handles[which]
            assert outcome.value == which
            assert outcome.state is State.SUCCEEDED
        assert next(results, None) is None


def test_the_same_handle_twice_is_yielded_twice() -> None:
    with ScriptedBroker(echo) as broker, Client(broker.endpoint) as corral:
        handle = corral.submit("echo", i=1)
        assert [one.id for one, _ in corral.results([handle, handle], timeout=5)] == [handle.id] * 2


def test_tasks_identified_by_content_share_one_handle() -> None:
    def script(call: Call) -> list[Answer]:
        assert isinstance(call, Submit)
        ids = ["same"] * len(call.tasks)
        return [Accepted(call.request, ids, known=list(range(1, len(ids))))]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        first, second = corral.submit_many([Task("train"), Task("train")])
        assert first is second
        assert first.known
        third = corral.submit("train")
        assert third is first
        broker.push(Outcomes(b"", [done("same", 42)]))
        assert third.result(5) == 42


def test_warnings_reach_the_handles() -> None:
    def script(call: Call) -> list[Answer]:
        return [Accepted(call.request, warnings=["no worker can meet the needs of train: gpus 1"])]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        handle = corral.submit("train", force_gpu=True)
        assert handle.warnings == ("no worker can meet the needs of train: gpus 1",)


def test_settings_that_a_known_task_keeps_reach_its_handle() -> None:
    def script(call: Call) -> list[Answer]:
        return [Accepted(call.request, ["new", "old"], [1], kept={1: ["needs", "priority"]})]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        new, old = corral.submit_many([Task("train"), Task("train")])
        assert (new.known, new.kept) == (False, ())
        assert (old.known, old.kept) == (True, ("needs", "priority"))


def test_a_refusal_raises_the_error_that_the_broker_names() -> None:
    def script(call: Call) -> list[Answer]:
        return [Refused(call.request, "unknown_kind", {"kind": "trian", "known": "echo, train"})]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        with pytest.raises(UnknownKind, match="kind trian") as caught:
            corral.submit("trian")
        assert "echo, train" in caught.value.cure


def test_a_refusal_among_many_says_which_tasks_it_concerns() -> None:
    def script(call: Call) -> list[Answer]:
        assert isinstance(call, Submit)
        if any(spec.id == "taken" for spec in call.tasks):
            return [Refused(call.request, "duplicate_id", {"id": "taken"})]
        return [accept(call)]

    many = [Task("echo", id="taken" if i == 25 else None) for i in range(50)]
    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        with pytest.raises(DuplicateId) as caught:
            corral.submit_many(many, batch=10)
        assert caught.value.__notes__ == ["tasks 20 to 29"]
        assert corral.submit("echo").id


def test_unanswered_messages_hold_the_rest_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_UNANSWERED", 8)
    held: list[Submit] = []
    release = threading.Event()

    def script(call: Call) -> list[Answer] | None:
        assert isinstance(call, Submit)
        held.append(call)
        return [accept(one) for one in held] if release.is_set() else None

    made: list[int] = []

    def make() -> Iterator[Task]:
        for i in range(100):
            made.append(i)
            yield Task("echo")

    async def main() -> None:
        async with AsyncClient(broker.endpoint) as corral:
            work = asyncio.ensure_future(corral.submit_many(make(), batch=1))
            while len(held) < 8:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert len(held) == 8
            assert len(made) == 8
            release.set()
            broker.push(*map(accept, held))
            assert len(await asyncio.wait_for(work, 10)) == 100

    with ScriptedBroker(script) as broker:
        asyncio.run(main())


def test_params_that_cannot_be_packed_are_named_and_nothing_is_sent() -> None:
    with ScriptedBroker(echo) as broker, Client(broker.endpoint) as corral:
        with pytest.raises(BadTask, match=r"tasks\[1\]\.params"):
            corral.submit_many([Task("echo"), Task("echo", {"x": object()})])
        assert not submits(broker)


def test_a_message_beyond_the_limit_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_MESSAGE", 1000)
    with ScriptedBroker(echo) as broker, Client(broker.endpoint) as corral:
        with pytest.raises(TooLarge, match="limit is 1000"):
            corral.submit("echo", data=b"x" * 1001)
        assert not submits(broker)


def test_result_raises_what_became_of_the_task() -> None:
    failure = tasks.Failure("ValueError", "no such symbol")

    def script(call: Call) -> list[Answer]:
        assert isinstance(call, Submit)
        id = request_id(call.request, 0)
        ended = messages.Outcome(id, State.FAILED, failure=failure)
        return [accept(call), Outcomes(b"", [ended])]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        handle = corral.submit("train")
        with pytest.raises(TaskFailed, match=f"{handle.id} failed: no such symbol"):
            handle.result(timeout=5)
        ((_, outcome),) = corral.results([handle], timeout=5)
        assert (outcome.state, outcome.value, outcome.failure) == (State.FAILED, None, failure)


def test_waiting_ends_at_the_timeout_and_the_task_goes_on() -> None:
    with ScriptedBroker(lambda call: [accept(call)]) as broker, Client(broker.endpoint) as corral:
        handle = corral.submit("sleep")
        with pytest.raises(TimedOut, match="goes on") as caught:
            handle.result(timeout=0.1)
        assert handle.id in caught.value.cure
        other = corral.submit("sleep")
        broker.push(Outcomes(b"", [done(handle.id)]))
        with pytest.raises(TimedOut, match="1 of 2 tasks"):
            list(corral.results([handle, other], timeout=0.3))


def test_large_results_are_fetched_in_pieces() -> None:
    packed = msgspec.msgpack.encode({"weights": b"w" * 2_500_000})

    def script(call: Call) -> list[Answer]:
        if isinstance(call, Submit):
            ended = messages.Outcome(request_id(call.request, 0), State.SUCCEEDED, blob="digest")
            return [accept(call), Outcomes(b"", [ended])]
        assert isinstance(call, messages.Blob)
        assert call.digest == "digest"
        piece = packed[call.offset : call.offset + call.size]
        end = call.offset + len(piece) == len(packed)
        return [messages.Chunk(call.request, piece, call.offset, len(packed), end)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        assert corral.submit("train").result(5) == {"weights": b"w" * 2_500_000}
        assert len(broker.heard(messages.Blob)) == 3


def test_results_of_ids_from_elsewhere_are_asked_for() -> None:
    def script(call: Call) -> list[Answer]:
        assert isinstance(call, Results)
        assert call.wait
        return [Outcomes(call.request, [done(id, id.upper()) for id in call.ids], last=True)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        found = {handle.id: outcome.value for handle, outcome in corral.results(["a", "b"], 5)}
        assert found == {"a": "A", "b": "B"}


def test_an_unknown_id_raises_and_costs_the_others_nothing() -> None:
    def script(call: Call) -> list[Answer]:
        assert isinstance(call, Results)
        if "gone" in call.ids:
            return [Refused(call.request, "not_found", {"noun": "task", "name": "gone"})]
        return [Outcomes(call.request, [done(id) for id in call.ids], last=True)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        gone, there = corral.handle("gone"), corral.handle("there")
        results = corral.results([gone, there], timeout=5)
        with pytest.raises(NotFound, match="no task gone"):
            list(results)
        assert there.result(5) is None


def test_a_maker_of_tasks_may_use_the_client_itself() -> None:
    with ScriptedBroker(echo) as broker, Client(broker.endpoint) as corral:

        def make() -> Iterator[Task]:
            for i in range(3):
                yield Task("echo", {"i": i}, after={"parent": corral.submit("echo").id})

        assert [h.result(5)["i"] for h in corral.submit_many(make(), batch=1)] == [0, 1, 2]


def test_threads_share_a_client() -> None:
    with ScriptedBroker(echo) as broker, Client(broker.endpoint) as corral, Pool(8) as pool:
        work = [pool.submit(lambda i=i: corral.submit("echo", i=i).result(10)) for i in range(80)]
        assert [one.result()["i"] for one in work] == list(range(80))


def test_it_works_where_an_event_loop_runs_already() -> None:
    async def notebook() -> object:
        with Client(broker.endpoint) as corral:
            return corral.submit("echo", i=1).result(5)

    with ScriptedBroker(echo) as broker:
        assert asyncio.run(notebook()) == {"i": 1}


def test_asyncio_results() -> None:
    async def main() -> dict[str, int]:
        async with AsyncClient(broker.endpoint) as corral:
            handles = await corral.submit_many((Task("echo", {"i": i}) for i in range(5)), batch=2)
            assert await handles[0].result(5) == {"i": 0}
            return {
                handle.id: outcome.value["i"] async for handle, outcome in corral.results(handles)
            }

    with ScriptedBroker(echo) as broker:
        assert sorted(asyncio.run(main()).values()) == [0, 1, 2, 3, 4]


def test_a_closed_client_says_so_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with ScriptedBroker(lambda call: [accept(call)]) as broker:
        corral = Client(broker.endpoint)
        handle = corral.submit("sleep")
        waiting = Pool(1)
        result = waiting.submit(handle.result)
        while not broker.calls:
            pass
        corral.close()
        corral.close()
        with pytest.raises(Usage, match="closed"):
            result.result(5)
        with pytest.raises(Usage, match="closed"):
            corral.submit("echo")
        waiting.shutdown()
    assert threading.active_count() == before
