"""Watches, lists and logs: what is read in pieces."""

from __future__ import annotations

import asyncio
import time

import pytest

from corral import AsyncClient, Client, messages
from corral.client import engine, pending
from corral.errors import NotAllowed, NotFound
from corral.messages import Answer, Call, Refused, Shown, TaskView, Update, Updates, Watch
from corral.tasks import State
from tests.unit.client.scripted import ScriptedBroker, wait_for


def update(seq: int, state: State | None = None, id: str = "t") -> Update:
    return Update(seq=seq, at=float(seq), id=id, state=state, cause="assign")


def view(state: State, id: str = "t", attempts: int = 0) -> TaskView:
    attempt = messages.AttemptView
    tried = [attempt(number=n, worker="w1", started=0.0) for n in range(1, attempts + 1)]
    return TaskView(id=id, kind="train", state=state, worker="w1", attempts=tried)


def watching(call: Call, *states: State) -> list[Answer]:
    """A watch that brings these states, of a task that is queued when it is shown."""
    if isinstance(call, Watch):
        return [Updates(call.request, [], seq=10)]
    if isinstance(call, messages.Show):
        return [Shown(call.request, [view(State.QUEUED)])]
    return []


def test_watching_a_task_begins_with_its_state_and_ends_with_the_task() -> None:
    def script(call: Call) -> list[Answer]:
        if isinstance(call, messages.Show):
            (watch,) = broker.heard(Watch)
            items = [update(11, State.RUNNING), update(12, State.SUCCEEDED), update(13)]
            return [*watching(call), Updates(watch.request, items)]
        return watching(call)

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        seen = [(one.cause, one.state) for one in corral.handle("t").watch()]
        assert seen == [
            ("snapshot", State.QUEUED),
            ("assign", State.RUNNING),
            ("assign", State.SUCCEEDED),
        ]
        (watch,) = broker.heard(Watch)
        wait_for(lambda: broker.heard(messages.Unwatch))
        (unwatch,) = broker.heard(messages.Unwatch)
        assert unwatch.watch == watch.request


def test_watching_a_task_that_has_ended_yields_its_end_alone() -> None:
    def script(call: Call) -> list[Answer]:
        if isinstance(call, messages.Show):
            return [Shown(call.request, [view(State.FAILED)])]
        return watching(call)

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        assert [one.state for one in corral.watch_task("t")] == [State.FAILED]


def test_watching_no_task_raises() -> None:
    def script(call: Call) -> list[Answer]:
        if isinstance(call, messages.Show):
            return [Refused(call.request, "not_found", {"noun": "task", "name": "t"})]
        return watching(call)

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        with pytest.raises(NotFound, match="no task t"):
            list(corral.watch_task("t"))
        wait_for(lambda: broker.heard(messages.Unwatch))


def test_a_watch_that_is_refused_raises() -> None:
    fields = {"who": "ann", "role": "worker", "action": "corral.watch", "needed": "viewer"}

    def script(call: Call) -> list[Answer]:
        # An Unwatch has no answer, and whoever sent it may be gone.
        return [Refused(call.request, "not_allowed", fields)] if isinstance(call, Watch) else []

    with (
        ScriptedBroker(script) as broker,
        Client(broker.endpoint) as corral,
        pytest.raises(NotAllowed, match="role worker"),
    ):
        next(corral.watch())


def test_a_watch_goes_on_after_the_last_update_when_the_broker_comes_back() -> None:
    def first(call: Call) -> list[Answer]:
        return [Updates(call.request, [update(1), update(2)], seq=2)]

    def second(call: Call) -> list[Answer]:
        if not isinstance(call, Watch):
            return []
        since.append(call.since)
        return [Updates(call.request, [update(3)], seq=3)]

    since: list[int | None] = []
    broker = ScriptedBroker(first)
    with Client(broker.endpoint) as corral:
        updates = corral.watch(["t"], since=0)
        assert [next(updates).seq for _ in range(2)] == [1, 2]
        broker.stop()
        with ScriptedBroker(second, broker.port):
            assert next(updates).seq == 3
            assert since == [2]
            updates.close()


def test_a_watch_that_lost_its_place_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RESUME", 0.05)

    def first(call: Call) -> list[Answer]:
        return [Updates(call.request, [update(1)], seq=2)]

    def second(call: Call) -> list[Answer]:
        if not isinstance(call, Watch):
            return []
        since.append(call.since)
        if len(since) < 4:
            return [Refused(call.request, "too_many_watches", {"count": 1000})]
        return [Updates(call.request, [update(3)], seq=3)]

    since: list[int | None] = []
    broker = ScriptedBroker(first)
    with Client(broker.endpoint) as corral:
        updates = corral.watch(["t"], since=0)
        assert next(updates).seq == 1
        broker.stop()
        with ScriptedBroker(second, broker.port):
            assert next(updates).seq == 3
            assert since == [2] * 4
            updates.close()


def test_many_that_lost_their_places_at_once_all_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RESUME", 0.05)
    ids = [f"t{number}" for number in range(300)]
    refused: set[str] = set()

    def second(call: Call) -> list[Answer]:
        if not isinstance(call, Watch):
            return []
        [id] = call.ids
        if id not in refused:
            refused.add(id)
            return [Refused(call.request, "too_many_watches", {"count": 1000})]
        return [Updates(call.request, [update(3)], seq=3)]

    async def follow(broker: ScriptedBroker) -> None:
        async with AsyncClient(broker.endpoint) as corral:
            streams = [corral.watch([id], since=0) for id in ids]
            assert {(await anext(one)).seq for one in streams} == {1}
            broker.stop()
            with ScriptedBroker(second, broker.port):
                went_on = asyncio.gather(*(anext(one) for one in streams))
                assert {one.seq for one in await asyncio.wait_for(went_on, 20)} == {3}
                for one in streams:
                    await one.aclose()

    asyncio.run(follow(ScriptedBroker(lambda call: [Updates(call.request, [update(1)], seq=2)])))
    assert refused == set(ids)


def test_a_snapshot_stands_for_what_was_missed() -> None:
    def script(call: Call) -> list[Answer]:
        if not isinstance(call, Watch):
            return []
        shown = [view(State.RUNNING, "a"), view(State.SUCCEEDED, "b")]
        return [Updates(call.request, [update(91, State.SUCCEEDED, "a")], snapshot=shown, seq=90)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        updates = corral.watch(since=1)
        seen = [next(updates) for _ in range(3)]
        updates.close()
        assert [(one.cause, one.id, one.state) for one in seen] == [
            ("snapshot", "a", State.RUNNING),
            ("snapshot", "b", State.SUCCEEDED),
            ("assign", "a", State.SUCCEEDED),
        ]


def test_a_slow_reader_keeps_memory_bounded_and_goes_on_from_what_it_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending, "MAX_BEHIND", 5)
    monkeypatch.setattr(engine, "RESUME", 0.0)

    def script(call: Call) -> list[Answer]:
        if not isinstance(call, Watch):
            return []
        begin = (call.since or 0) + 1
        pieces = [[update(seq) for seq in range(at, at + 4)] for at in range(begin, 101, 4)]
        return [Updates(call.request, items) for items in pieces]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        updates = corral.watch(since=0)
        assert [next(updates).seq for _ in range(100)] == list(range(1, 101))
        updates.close()
        assert len(broker.heard(Watch)) > 5


def test_one_that_falls_behind_stops_what_comes_and_begins_anew_a_second_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending, "MAX_BEHIND", 5)

    def script(call: Call) -> list[Answer]:
        if not isinstance(call, Watch):
            return []
        begin = (call.since or 0) + 1
        return [Updates(call.request, [update(seq) for seq in range(begin, begin + 9)])]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        began = time.monotonic()
        updates = corral.watch(since=0)
        assert [next(updates).seq for _ in range(9)] == list(range(1, 10))
        wait_for(lambda: broker.heard(messages.Unwatch))
        assert len(broker.heard(Watch)) == 1
        assert next(updates).seq == 10
        assert time.monotonic() - began >= engine.RESUME
        assert len(broker.heard(Watch)) == 2
        updates.close()


def test_a_list_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from corral.client import aio

    monkeypatch.setattr(aio, "PAGE", 2)
    there = [f"t{number}" for number in range(5)]

    def script(call: Call) -> list[Answer]:
        assert isinstance(call, messages.List)
        at = there.index(call.before) + 1 if call.before else 0
        page = [view(State.QUEUED, id) for id in there[at : at + call.limit]]
        return [Shown(call.request, page)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        assert [task.id for task in corral.tasks()] == there
        assert [task.id for task in corral.tasks(limit=3)] == there[:3]


def logs_of(written: dict[int, bytearray], call: messages.Logs) -> list[Answer]:
    log = written[call.attempt]
    piece = bytes(log[call.offset : call.offset + 7])
    end = call.offset + len(piece) == len(log)
    return [messages.Chunk(call.request, piece, call.offset, len(log), end)]


def test_a_log_is_followed_from_before_the_start_until_the_task_ends() -> None:
    written = {1: bytearray(), 2: bytearray()}
    story = iter(
        [(State.QUEUED, 0), (State.RUNNING, 1), (State.RUNNING, 1), (State.RUNNING, 2)]
        + [(State.SUCCEEDED, 2)] * 2
    )

    def script(call: Call) -> list[Answer]:
        if isinstance(call, messages.Logs):
            return logs_of(written, call)
        state, attempts = next(story)
        if attempts:
            written[attempts] += f"attempt {attempts} {state}\n".encode()
        return [Shown(call.request, [view(state, attempts=attempts)])]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        text = b"".join(corral.logs("t", follow=True)).decode().splitlines()
        assert text == [
            "attempt 1 running",
            "attempt 1 running",
            "attempt 2 running",
            "attempt 2 succeeded",
        ]
        assert b"".join(corral.logs("t")) == bytes(written[2])


def test_a_task_that_never_began_has_no_log() -> None:
    def script(call: Call) -> list[Answer]:
        return [Shown(call.request, [view(State.CANCELLED)])]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        assert list(corral.logs("t", follow=True)) == []
