"""The gateway beside a broker that has no place for its watches: all else goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from corral import messages
from corral.client import AsyncClient
from corral.gateway import tasks, upstream
from corral.gateway.upstream import Upstream
from corral.messages import Answer, Call, Refused, Updates, Watch
from corral.tasks import State
from tests.unit.client.scripted import ScriptedBroker, done

STATUS = messages.BrokerView(
    version="1", epoch=1, seq=0, started=0.0, endpoint="", data="", tasks={}, workers={}, kinds=[]
)


def refused(call: Call) -> list[Answer]:
    return [Refused(call.request, "too_many_watches", {"count": 1000})]


async def until(what: Any) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.01)


def test_the_gateway_answers_while_it_waits_for_a_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "PAUSE", 0.05)
    monkeypatch.setattr(upstream, "POLL", 0.05)
    places: list[bool] = []

    def script(call: Call) -> list[Answer]:
        if isinstance(call, messages.Status):
            return [messages.StatusIs(call.request, STATUS)]
        if isinstance(call, messages.Workers):
            return [messages.WorkersAre(call.request, [])]
        if not isinstance(call, Watch):
            return []
        if not places:
            return refused(call)
        update = messages.Update(
            seq=7, at=1.0, id="t", kind="k", state=State.QUEUED, cause="submit"
        )
        return [Updates(call.request, [update], seq=7)]

    async def main(broker: ScriptedBroker) -> None:
        gateway = Upstream(lambda: AsyncClient(broker.endpoint, timeout=5.0), broker.endpoint)
        running = asyncio.create_task(gateway.run())
        try:
            await gateway.first_contact(10)
            await until(lambda: len(broker.heard(Watch)) > 3)
            assert await gateway.client.status() == STATUS
            assert len(set(broker.peers)) == 1  # one client all the while
            places.append(True)
            await until(lambda: [row.id for row in gateway.page.rows()] == ["t"])
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    with ScriptedBroker(script) as broker:
        asyncio.run(main(broker))


def test_who_waits_for_a_result_is_told_it_without_a_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LOOK", 0.01)

    def script(call: Call) -> list[Answer]:
        if isinstance(call, Watch):
            return refused(call)
        if isinstance(call, messages.Results):
            return [messages.Outcomes(call.request, [done("t", 42)], last=True)]
        if not isinstance(call, messages.Show):
            return []
        state = State.RUNNING if len(broker.heard(messages.Show)) < 5 else State.SUCCEEDED
        return [messages.Shown(call.request, [messages.TaskView(id="t", kind="k", state=state)])]

    async def main() -> tasks.Told:
        async with AsyncClient(broker.endpoint, timeout=5.0) as client:
            asked: Any = SimpleNamespace(
                upstream=SimpleNamespace(client=client),
                path={"id": "t"},
                query=tasks.ResultQuery(wait=10.0),
                hub=SimpleNamespace(closing=asyncio.Event()),
            )
            return await tasks.result(asked)

    with ScriptedBroker(script) as broker:
        told = asyncio.run(main())
    assert (told.status, told.value.state, told.value.value) == (200, State.SUCCEEDED, 42)
