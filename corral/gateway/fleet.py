"""The broker and the workers as resources, and the stream of everything."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.types import ASGIApp

from corral.errors import NotFound
from corral.gateway.expected import Difference, difference
from corral.gateway.history import Past
from corral.gateway.problems import NoHistory, TooManyStreams
from corral.gateway.routes import Ask, Resource, Stream
from corral.gateway.stream import EventStream
from corral.gateway.tasks import Reason
from corral.gateway.trends import Change, Depth
from corral.messages import BrokerView, WorkerView


class DrainBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to drain."""

    reason: Reason = ""
    deadline: Annotated[float, Meta(ge=0, le=1e9)] | None = None  #: seconds; null: none
    policy: Literal["wait", "requeue", "kill"] = "wait"  #: once the deadline has passed


class Moment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which past."""

    at: Annotated[float, Meta(ge=0, le=1e10)]  #: seconds since the epoch


class ResumeBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing need be said."""


async def broker(ask: Ask) -> BrokerView:
    """Tell the broker's own figures: tasks by state, workers, kinds, memory, refusals."""
    return await ask.upstream.client.status()


async def depth(ask: Ask) -> list[Depth]:
    """Tell how many tasks and workers were where, since this gateway started."""
    return ask.upstream.trends.depth.points()


async def changes(ask: Ask) -> list[Change]:
    """Tell what changed among the workers since this gateway started, the oldest first."""
    return list(ask.upstream.trends.changes)


async def past(ask: Ask) -> Past:
    """Tell how it was at a moment: tasks, workers, how many there were."""
    history = ask.upstream.history
    if history is None:
        raise NoHistory
    return await asyncio.to_thread(history.past, ask.query.at)


async def fleet(ask: Ask) -> list[WorkerView]:
    """List every worker in the registry."""
    return await ask.upstream.client.workers()


async def expected(ask: Ask) -> Difference:
    """Tell which workers ought to be there, who of them is not, and whom nobody expects."""
    file = ask.upstream.expected
    names = file.names() if file is not None else None
    return difference(names, await ask.upstream.client.workers())


async def worker(ask: Ask) -> WorkerView:
    """Tell everything about a worker."""
    name = ask.path["name"]
    found = [one for one in await ask.upstream.client.workers() if one.name == name]
    if not found:
        raise NotFound(noun="worker", name=name)
    return found[0]


async def drain(ask: Ask) -> WorkerView:
    """Give a worker nothing new; after the deadline let go of what it runs by the policy."""
    asked: DrainBody = ask.body
    ask.note.update(msgspec.to_builtins(asked))
    # The broker knows this gateway's key alone, so whose wish it was is told with the reason.
    reason = " ".join(filter(None, (asked.reason, f"({ask.caller.name} by the gateway)")))
    await ask.upstream.client.drain(ask.path["name"], reason, asked.deadline, asked.policy)
    return await worker(ask)


async def resume(ask: Ask) -> WorkerView:
    """Give a drained or draining worker work again."""
    await ask.upstream.client.resume(ask.path["name"])
    return await worker(ask)


async def stream(ask: Ask) -> ASGIApp:
    """Follow everything: an event `snapshot`, then `delta` after `delta`, ten a second at most.

    A thing that an event lists replaces what was known of it. The id of each event is told back
    in the header `Last-Event-ID` to go on from there.
    """
    upstream = ask.upstream
    if upstream.watched >= ask.hub.most:
        raise TooManyStreams(streams=ask.hub.most)
    upstream.watched += 1

    def ended() -> None:
        upstream.watched -= 1

    return EventStream(ask.hub, ask.headers.get("last-event-id", ""), ask.welcome, ended)


EVENTS = Stream("text/event-stream; charset=utf-8", "Events `snapshot` and `delta`, as JSON.")

READ = (
    Resource("GET", "/broker", broker, BrokerView),
    Resource("GET", "/broker/depth", depth, list[Depth]),
    Resource("GET", "/fleet/changes", changes, list[Change]),
    Resource("GET", "/fleet/expected", expected, Difference),
    Resource("GET", "/fleet", fleet, list[WorkerView]),
    Resource("GET", "/past", past, Past, query=Moment),
    Resource("GET", "/stream", stream, EVENTS),
    Resource("GET", "/workers/{name}", worker, WorkerView),
)

ACT = (
    Resource(
        "POST", "/workers/{name}/drain", drain, WorkerView, role="operator", body=DrainBody
    ),
    Resource(
        "POST", "/workers/{name}/resume", resume, WorkerView, role="operator", body=ResumeBody
    ),
)  # fmt: skip

RESOURCES = (*ACT, *READ)
