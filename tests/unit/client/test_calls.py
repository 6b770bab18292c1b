"""Every other call: what goes out and what comes back, by both faces."""

from __future__ import annotations

import asyncio
import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

from corral import Client, messages
from corral.client import AsyncClient, engine
from corral.errors import CorralError, NotAllowed, NotFound, Usage
from corral.messages import Answer, Call, Done, Refused
from corral.tasks import State
from tests.unit.client.scripted import ScriptedBroker, echo

DONE = Done(b"", ["changed"], {"other": "why"})
KEYS = [messages.KeyView(public="p", role="client", name="ann", added=1.0)]
WORKERS = [messages.WorkerView(name="w1", status="available", health="live", admission="open")]
BROKER = messages.BrokerView(
    version="1", epoch=2, seq=3, started=4.0, endpoint="tcp://", data="d", tasks={}, workers={}
)
COPY = messages.BackupView(path="/there", bytes=1, tasks=2, seconds=3.0)
TOLD = messages.Explanation(id="t", state=State.QUEUED, summary="It waits.")

#: method, its arguments, the call that goes out, the answer to it, what the method returns
CALLS: list[tuple[str, tuple[Any, ...], Call, Answer, Any]] = [
    ("cancel", (["t"], "why"), messages.Cancel(b"", ["t"], "why"), DONE, DONE),
    ("retry", (["t"],), messages.Retry(b"", ["t"]), DONE, DONE),
    ("explain", ("t",), messages.Explain(b"", "t"), messages.Explained(b"", TOLD), TOLD),
    ("workers", (), messages.Workers(b""), messages.WorkersAre(b"", WORKERS), WORKERS),
    ("status", (), messages.Status(b""), messages.StatusIs(b"", BROKER), BROKER),
    ("resume", ("w1",), messages.Resume(b"", "w1"), DONE, DONE),
    (
        "drain", ("w1", "update", 60.0, "requeue"),
        messages.Drain(b"", "w1", "update", 60.0, "requeue"), DONE, DONE,
    ),
    ("keys", (), messages.Keys(b"", "list"), messages.KeysAre(b"", KEYS), KEYS),
    (
        "add_key", ("p", "client", "ann"),
        messages.Keys(b"", "add", "p", "client", "ann"), messages.KeysAre(b"", KEYS), KEYS,
    ),
    (
        "revoke_key", ("ann",),
        messages.Keys(b"", "revoke", "", "", "ann"), messages.KeysAre(b"", KEYS), KEYS,
    ),
    ("backup", (), messages.Backup(b""), messages.BackedUp(b"", COPY), COPY),
    (
        "backup", (Path("/there"),),
        messages.Backup(b"", "/there"), messages.BackedUp(b"", COPY), COPY,
    ),
]  # fmt: skip


def with_request(struct: Any, request: bytes) -> Any:
    fields = {name: getattr(struct, name) for name in struct.__struct_fields__}
    return type(struct)(**{**fields, "request": request})


@pytest.mark.parametrize("face", [Client, AsyncClient])
@pytest.mark.parametrize(("method", "arguments", "call", "answer", "returned"), CALLS)
def test_a_call_and_its_answer(
    face: type, method: str, arguments: tuple[Any, ...], call: Call, answer: Answer, returned: Any
) -> None:
    async def by_asyncio() -> Any:
        async with AsyncClient(broker.endpoint) as corral:
            return await getattr(corral, method)(*arguments)

    with ScriptedBroker(lambda heard: [with_request(answer, heard.request)]) as broker:
        if face is Client:
            with Client(broker.endpoint) as corral:
                got = getattr(corral, method)(*arguments)
        else:
            got = asyncio.run(by_asyncio())
        (heard,) = broker.calls
        assert heard == with_request(call, heard.request)
        assert with_request(got, b"") == returned if isinstance(got, Done) else got == returned


@pytest.mark.parametrize("follow", [True, False])
def test_a_log_is_followed_past_a_worker_that_is_away_for_a_moment(follow: bool) -> None:
    attempt = messages.AttemptView(number=1, worker="w1", started=1.0)
    away = {"noun": "worker", "name": "w1, which holds the log of t,"}

    def script(call: Call) -> list[Answer]:
        if isinstance(call, messages.Show):
            state = State.RUNNING if len(broker.heard(messages.Logs)) < 2 else State.SUCCEEDED
            view = messages.TaskView(id="t", kind="k", state=state, attempts=[attempt])
            return [messages.Shown(call.request, [view])]
        assert isinstance(call, messages.Logs)
        if len(broker.heard(messages.Logs)) == 2:
            return [Refused(call.request, "not_found", away)]
        rest = b"hello"[call.offset :][:3]
        return [messages.Chunk(call.request, rest, call.offset, 5, call.offset + len(rest) == 5)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        pieces = corral.logs("t", follow=follow)
        assert next(pieces) == b"hel"
        if follow:
            assert b"".join(pieces) == b"lo"
        else:
            with pytest.raises(NotFound, match="w1"):
                next(pieces)


@pytest.mark.parametrize("told", [b"", b"hel"])
def test_a_log_that_nobody_brings_back_is_not_waited_for(told: bytes) -> None:
    """Of an attempt before the last: what was told of it, and nothing more."""
    attempts = [messages.AttemptView(number=n, worker=f"w{n}", started=1.0) for n in (1, 2)]

    def script(call: Call) -> list[Answer]:
        if isinstance(call, messages.Show):
            view = messages.TaskView(id="t", kind="k", state=State.RUNNING, attempts=attempts)
            return [messages.Shown(call.request, [view])]
        assert isinstance(call, messages.Logs)
        if told and not call.offset:
            return [messages.Chunk(call.request, told, 0, 5, False)]
        return [Refused(call.request, "not_found", {"noun": "worker", "name": "w1"})]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        pieces = corral.logs("t", attempt=1, follow=True)
        if told:
            assert list(pieces) == [told]
        else:
            with pytest.raises(NotFound, match="w1"):
                next(pieces)


def test_the_two_faces_offer_the_same() -> None:
    def offered(face: type) -> dict[str, list[str]]:
        engine_only = {"ask", "batches", "burst", "finish", "post", "in_project"}
        engine_only |= {"changes", "subscribe", "unsubscribe", "updates"}
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in inspect.getmembers(face, inspect.isfunction)
            if not name.startswith("_") and name not in engine_only
        }

    assert offered(Client) == offered(AsyncClient)


def test_what_the_role_forbids_is_told() -> None:
    fields = {"who": "ann", "role": "viewer", "action": "corral.cancel", "needed": "client"}
    with (
        ScriptedBroker(lambda call: [Refused(call.request, "not_allowed", fields)]) as broker,
        Client(broker.endpoint) as corral,
        pytest.raises(NotAllowed, match="role viewer") as caught,
    ):
        corral.cancel(["t"])
    assert caught.value.exit_status == 4


def test_a_reason_that_is_too_long_is_told_before_it_is_sent() -> None:
    with ScriptedBroker(lambda call: []) as broker, Client(broker.endpoint) as corral:
        with pytest.raises(Usage, match="has 2001 characters, of at most 2000"):
            corral.cancel(["t"], "x" * 2001)
        with pytest.raises(Usage, match="of at most 2000"):
            corral.drain("w1", "x" * 2001)
        assert broker.calls == []


def test_an_error_of_a_newer_broker_stays_readable() -> None:
    with (
        ScriptedBroker(
            lambda call: [Refused(call.request, "too_tired", {"why": "late"})]
        ) as broker,
        Client(broker.endpoint) as corral,
        pytest.raises(CorralError, match="too_tired: "),
    ):
        corral.status()


def test_an_answer_of_another_kind_raises() -> None:
    with (
        ScriptedBroker(lambda call: [Done(call.request)]) as broker,
        Client(broker.endpoint) as corral,
    ):
        with pytest.raises(CorralError, match="answered with Done"):
            corral.status()
        with pytest.raises(CorralError, match="answered with Done"):
            corral.submit("echo")


def test_one_lost_answer_costs_no_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the broker answers others, only the call that it missed is sent again."""
    monkeypatch.setattr(engine, "PATIENCE", 0.3)
    monkeypatch.setattr(engine, "TICK", 0.02)

    def script(call: Call) -> list[Answer]:
        if isinstance(call, messages.Submit):
            return list(echo(call)) if len(broker.heard(messages.Submit)) > 1 else []
        return [messages.StatusIs(call.request, BROKER)]

    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.wait(0.05):
            corral.status()

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        others = threading.Thread(target=keep_asking)
        others.start()
        assert corral.submit("echo", i=1).result(5) == {"i": 1}
        stop.set()
        others.join()
        first, second = broker.heard(messages.Submit)
        assert (first.request, first.resend) == (second.request, False)
        assert second.resend
        assert len(set(broker.peers)) == 1
