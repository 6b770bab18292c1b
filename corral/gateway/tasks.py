"""Tasks as resources: submit, list, show, explain, story, logs, result, cancel, retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta, Struct
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

from corral.client import AsyncClient, Outcome
from corral.errors import BadTask, TooManyWatches, Usage, WrongState
from corral.gateway import trends
from corral.gateway.problems import NotConfirmed
from corral.gateway.routes import Ask, Resource, Stream, Told
from corral.jsons import NoKind, TaskObject, task_from
from corral.messages import (
    Accepted,
    Explanation,
    Outcomes,
    Results,
    ResultView,
    Step,
    SubmittedView,
    TaskView,
)
from corral.messages import Submit as SubmitCall
from corral.tasks import TERMINAL, State, Task, request_id

MOST_AT_ONCE = 100_000  # tasks in one bulk action, or in one submission
LOOK = 1.0  # seconds between looks at a task that cannot be watched
WRONG_BY = 1.0  # seconds in which the broker says that there is no such log
Piece = asyncio.Future[bytes | None]
Short = Annotated[str, Meta(max_length=200)]
Reason = Annotated[str, Meta(max_length=1000)]

LIVE = (State.WAITING, State.QUEUED, State.RUNNING, State.RETRYING)
LOST = (State.FAILED, State.CANCELLED, State.ABORTED, State.EXPIRED)


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks to list."""

    state: list[State] = []  #: repeatable; empty: all
    kind: Short = ""
    project: Short = ""
    worker: Short = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    before: Short = ""  #: the id that ended the page before


class LogQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which log."""

    attempt: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  #: 0: the last one
    follow: bool = False  #: go on until the task ends


class ResultQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait for a result."""

    wait: Annotated[float, Meta(ge=0, le=60)] = 0.0  #: seconds


class CancelBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why."""

    reason: Reason = ""  #: kept in the task's story


class RetryBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing need be said."""


class Selection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All tasks that match; at least one of state, kind and project must be given."""

    state: State | None = None
    kind: Short = ""
    project: Short = ""
    reason: Reason = ""  #: of a cancel
    confirm: Annotated[int, Meta(ge=0)] | None = None  #: how many match; without it nothing is done


class Bulk(Struct, frozen=True, kw_only=True):
    """What was done to all tasks that match, or would be."""

    matched: int
    confirmed: bool  #: False: nothing was done; send again with `confirm` as `matched` is
    changed: list[str] = []
    unchanged: dict[str, str] = {}  #: id -> why it was left as it is


# --- submit -----------------------------------------------------------------------------


async def submit(ask: Ask) -> Told:
    """Submit a task, or several: a list is accepted whole or not at all.

    A task that its content identifies, or that brings its own id, is one task however often it is
    submitted; `known` tells that it was there. In a list, "#0" in `after` is the first task of it.
    """
    several = isinstance(ask.body, list)
    drafts = ask.body if several else [ask.body]
    if not 0 < len(drafts) <= MOST_AT_ONCE:
        raise Usage(what=f"a submission holds 1 to {MOST_AT_ONCE} tasks")
    views = await submit_all(ask.upstream.client, [_task(one, n) for n, one in enumerate(drafts)])
    ask.note["ids"] = [view.id for view in views[:100]]
    if several:
        return Told(views, 201)
    return Told(views[0], 201, {"location": f"/api/v1/tasks/{quote(views[0].id, safe='')}"})


def _task(draft: Any, index: int) -> Task:
    try:
        return task_from(draft, Task(kind=""))
    except NoKind:
        raise BadTask(path=f"tasks[{index}].kind", why="it names no kind") from None


async def submit_all(client: AsyncClient, tasks: Sequence[Task]) -> list[SubmittedView]:
    """Store tasks, all or none. Their outcomes are not collected: others ask for them."""
    listed = list(client.in_project(tasks))
    accepted = await client.ask(SubmitCall, Accepted, listed)
    ids = accepted.ids or [request_id(accepted.request, n) for n in range(len(listed))]
    known = {index % len(listed) for index in accepted.known}
    kept = {index % len(listed): tuple(names) for index, names in (accepted.kept or {}).items()}
    warnings = tuple(accepted.warnings)
    return [
        SubmittedView(id=id, known=index in known, warnings=warnings, kept=kept.get(index, ()))
        for index, id in enumerate(ids)
    ]


# --- look -------------------------------------------------------------------------------


async def listed(ask: Ask) -> Told:
    """List tasks, newest first; the header `link` names the next page."""
    asked: Filter = ask.query
    found = await ask.upstream.client.tasks(
        asked.state,
        kind=asked.kind,
        project=asked.project,
        worker=asked.worker,
        limit=asked.limit,
        before=asked.before,
    )
    if len(found) < asked.limit:
        return Told(found)
    same = [(name, value) for name, value in _given(asked).items() if name != "before"]
    query = urlencode([*same, ("before", found[-1].id)], doseq=True)
    return Told(found, headers={"link": f'</api/v1/tasks?{query}>; rel="next"'})


def _given(asked: Filter) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(asked)
    return {name: value for name, value in fields.items() if value}


async def _view(ask: Ask) -> TaskView:
    return (await ask.upstream.client.show([ask.path["id"]]))[0]


async def show(ask: Ask) -> TaskView:
    """Tell everything about a task. The id may be cut to a unique prefix, or be `last`."""
    return await _view(ask)


async def explain(ask: Ask) -> Explanation:
    """Say why a task does not run, worker by worker and need by need, and what would let it."""
    return await ask.upstream.client.explain(ask.path["id"])


async def story(ask: Ask) -> list[Step]:
    """Tell every step of a task with its cause: when, state, cause, why, worker, attempt."""
    return (await _view(ask)).story


async def curve(ask: Ask) -> list[trends.Told]:
    """Tell how far a task was over time, and its metrics: as far as this gateway has heard it."""
    return ask.upstream.trends.curve((await _view(ask)).id)


async def logs(ask: Ask) -> ASGIApp:
    """Give what an attempt has written, byte for byte; with `follow` until the task ends."""
    asked: LogQuery = ask.query
    id = (await _view(ask)).id
    pieces = ask.upstream.client.logs(id, asked.attempt, asked.follow)
    assert isinstance(pieces, AsyncGenerator)
    closing = asyncio.create_task(ask.hub.closing.wait())
    piece: Piece = asyncio.ensure_future(anext(pieces, None))
    # What is wrong is told before the answer begins, but nobody waits for a first line.
    either: set[asyncio.Future[Any]] = {piece, closing}
    await asyncio.wait(either, timeout=WRONG_BY, return_when=asyncio.FIRST_COMPLETED)
    if piece.done():
        piece.result()
    return StreamingResponse(_until_closing(closing, piece, pieces), media_type=LOG.media_type)


async def _until_closing(
    closing: asyncio.Future[Any], piece: Piece, rest: AsyncGenerator[bytes, None]
) -> AsyncIterator[bytes]:
    """The pieces, but no longer than the gateway runs, or the reader stays."""
    try:
        while True:
            await asyncio.wait({piece, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not piece.done() or (data := piece.result()) is None:
                return
            yield data
            piece = asyncio.ensure_future(anext(rest, None))
    finally:
        closing.cancel()
        if not piece.done():
            piece.cancel()  # and with it what makes the pieces, which cannot be closed at work
        else:
            await rest.aclose()


async def result(ask: Ask) -> Told:
    """Give what a task returned, or why it did not; `wait` so many seconds for it."""
    client = ask.upstream.client
    view = await _view(ask)
    if view.state not in TERMINAL and ask.query.wait:
        await _ended(ask, client, view.id)
        [view] = await client.show([view.id])
    if view.state not in TERMINAL:
        told = ResultView(id=view.id, state=view.state, value=None, failure=None)
        return Told(told, 202)
    ended = await outcome_of(client, view.id)
    return Told(
        ResultView(id=ended.id, state=ended.state, value=ended.value, failure=ended.failure)
    )


async def outcome_of(client: AsyncClient, id: str) -> Outcome:
    """How a task ended that has ended."""
    [item] = (await client.ask(Results, Outcomes, [id], False)).items
    return Outcome(item, await client.blob(item.blob) if item.blob else None)


async def _ended(ask: Ask, client: AsyncClient, id: str) -> None:
    """Wait until a task ends, but no longer than was asked for, or than the gateway runs."""

    async def follow() -> None:
        with suppress(TooManyWatches):
            async for _ in client.watch_task(id):
                pass
        while (await client.show([id]))[0].state not in TERMINAL:
            await asyncio.sleep(LOOK)

    following = asyncio.create_task(follow())
    closing = asyncio.create_task(ask.hub.closing.wait())
    try:
        await asyncio.wait(
            {following, closing}, timeout=ask.query.wait, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        for task in (following, closing):
            task.cancel()
        await asyncio.gather(following, closing, return_exceptions=True)


# --- change -----------------------------------------------------------------------------


async def cancel(ask: Ask) -> TaskView:
    """Cancel a task for good; it is durable when the answer comes."""
    view = await _view(ask)
    ask.note.update(id=view.id, reason=ask.body.reason)
    done = await ask.upstream.client.cancel([view.id], ask.body.reason)
    return await _after(ask, view.id, done.unchanged, State.CANCELLED, "be cancelled")


async def retry(ask: Ask) -> TaskView:
    """Open a new run of a task that ended without success."""
    view = await _view(ask)
    ask.note.update(id=view.id)
    done = await ask.upstream.client.retry([view.id])
    return await _after(ask, view.id, done.unchanged, None, "be run again")


async def _after(
    ask: Ask, id: str, unchanged: dict[str, str], fine: State | None, action: str
) -> TaskView:
    [view] = await ask.upstream.client.show([id])
    if id in unchanged and view.state is not fine:
        raise WrongState(id=id, state=view.state.value, action=action)
    return view


async def _selected(ask: Ask, states: Sequence[State]) -> tuple[list[str], Bulk | None]:
    """The ids of what matches, or what to answer because it is not confirmed."""
    wanted: Selection = ask.body
    if not (wanted.state or wanted.kind or wanted.project):
        raise Usage(what="say which tasks: state, kind or project")
    found = await ask.upstream.client.tasks(
        [wanted.state] if wanted.state else states,
        kind=wanted.kind,
        project=wanted.project,
        limit=MOST_AT_ONCE + 1,
    )
    if len(found) > MOST_AT_ONCE:
        raise Usage(what=f"more than {MOST_AT_ONCE} tasks match; narrow the filter")
    ask.note.update(filter=msgspec.to_builtins(wanted), matched=len(found))
    if wanted.confirm is None:
        return [], Bulk(matched=len(found), confirmed=False)
    if wanted.confirm != len(found):
        raise NotConfirmed(matched=len(found), confirm=wanted.confirm)
    return [view.id for view in found], None


async def cancel_all(ask: Ask) -> Bulk:
    """Cancel all tasks that match, once `confirm` says how many these are."""
    ids, unconfirmed = await _selected(ask, LIVE)
    if unconfirmed is not None:
        return unconfirmed
    done = await ask.upstream.client.cancel(ids, ask.body.reason)
    return _bulk(ids, done.changed, done.unchanged)


async def retry_all(ask: Ask) -> Bulk:
    """Run all tasks again that match, once `confirm` says how many these are."""
    ids, unconfirmed = await _selected(ask, LOST)
    if unconfirmed is not None:
        return unconfirmed
    done = await ask.upstream.client.retry(ids)
    return _bulk(ids, done.changed, done.unchanged)


def _bulk(ids: list[str], changed: list[str], unchanged: dict[str, str]) -> Bulk:
    return Bulk(matched=len(ids), confirmed=True, changed=changed, unchanged=unchanged)


LOG = Stream("text/plain; charset=utf-8", "What the attempt has written, byte for byte.")

READ = (
    Resource("GET", "/tasks", listed, list[TaskView], query=Filter),
    Resource("GET", "/tasks/{id}/explain", explain, Explanation),
    Resource("GET", "/tasks/{id}/story", story, list[Step]),
    Resource("GET", "/tasks/{id}/curve", curve, list[trends.Told]),
    Resource("GET", "/tasks/{id}/logs", logs, LOG, query=LogQuery),
    Resource(
        "GET", "/tasks/{id}/result", result, ResultView, query=ResultQuery,
        other={202: "It goes on; only its state is told."},
    ),
    Resource("GET", "/tasks/{id}", show, TaskView),
)  # fmt: skip

ACT = (
    Resource(
        "POST", "/tasks", submit, SubmittedView | list[SubmittedView], role="client",
        body=TaskObject | list[TaskObject], status=201,
    ),
    Resource("POST", "/tasks/cancel", cancel_all, Bulk, role="client", body=Selection),
    Resource("POST", "/tasks/retry", retry_all, Bulk, role="client", body=Selection),
    Resource("POST", "/tasks/{id}/cancel", cancel, TaskView, role="client", body=CancelBody),
    Resource("POST", "/tasks/{id}/retry", retry, TaskView, role="client", body=RetryBody),
)  # fmt: skip

RESOURCES = (*ACT, *READ)  #: what would fit two paths is at the first of them
