"""What keeps a client's promises: every call is answered or raises, no outcome is missed.

A call that stays unanswered is sent again with the same request id, on a new connection when the
broker is silent; the broker makes nothing twice of it. Outcomes are pushed by the broker as they
are recorded; after a reconnect, and after a long silence, they are asked for. Which calls there
are, and how they read to a user, is told in `corral.client.aio`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

from corral import errors, messages, wire
from corral.client.handles import BaseHandle, Inbox, Outcome
from corral.client.link import Link
from corral.client.pending import Burst, Sent, Stream, error_in, shown_as_update
from corral.errors import BadTask, BrokerUnreachable, CorralError, NotFound, TimedOut, TooLarge
from corral.keys import KeyFile
from corral.messages import (
    Answer,
    Blob,
    Call,
    Chunk,
    Outcomes,
    Refused,
    Results,
    Submit,
    TaskView,
    Underway,
    Unwatch,
    Update,
    Updates,
    Watch,
)
from corral.settings import BrokerSettings
from corral.tasks import Task

MAX_MESSAGE = BrokerSettings().max_message
PATIENCE, IMPATIENCE, MAX_PATIENCE = 2.5, 1.5, 20.0  # s until a resend; grows by this, up to this
HARD_LIMIT = 3  # times the timeout: for a call that alone stays unanswered
TICK = 0.25  # s between looks at the clock while something is awaited
QUIET, MAX_QUIET = 5.0, 60.0  # s without an outcome after which missing ones are asked for
RESUME = 1.0  # s between two beginnings of a watch: its reader falls behind, or it has no place
ASKED_AT_ONCE = 10_000  # ids in one call for results
POSTS_PER_DRAIN, POSTS_PER_TURN = 32, 512  # messages sent before answers, then others, are heard

H = TypeVar("H", bound=BaseHandle)
A = TypeVar("A", bound=Answer)


_NO_HANDLE = [None]


class Engine(Generic[H]):
    """Calls, submissions, outcomes and watches over one link. Runs on one event loop."""

    def __init__(
        self,
        endpoints: Sequence[str],
        key: KeyFile | None,
        timeout: float | None,
        handle: Callable[..., H],
        face: object,
    ) -> None:
        self._endpoints, self._key, self._timeout = endpoints, key, timeout
        self._make, self._face = handle, face
        self._identity, self._count = os.urandom(8), 0
        self._link: Link | None = None
        self._closed = False
        self._unanswered: dict[bytes, Sent] = {}
        self._outstanding: dict[str, H] = {}  #: accepted, outcome not known
        self._asks: set[bytes] = set()  #: requests for outcomes that have no answer
        self._unasked: set[str] = set()  #: of these, the ones that the broker does not push
        self._inboxes: set[Inbox] = set()
        self._streams: dict[bytes, Stream] = {}
        self._refused: CorralError | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._heard_at = self._asked_at = self._told_at = 0.0
        self._quiet = QUIET

    # --- the link -------------------------------------------------------------------------

    def _open(self) -> Link:
        if self._closed:
            raise errors.Usage(what="this client is closed")
        if self._refused is not None:
            raise self._refused
        if self._link is None:
            self._loop = asyncio.get_running_loop()
            self._link = Link(self._endpoints, self._key, self._on_answers, self._on_up, self._fail)
        return self._link

    @property
    def connected(self) -> bool:
        """Whether a broker has shaken hands, and has not gone since."""
        return self._link is not None and self._link.up

    async def close(self) -> None:
        """End the connection. Tasks go on; what still waits for an answer is told so."""
        self._closed = True
        if self._link is not None:
            self._fail(errors.Usage(what="this client was closed"))
            if self._ticking is not None:
                self._ticking.cancel()
            self._link.close()
            self._link = None
        self._outstanding.clear()

    def _on_up(self) -> None:
        """A broker has shaken hands: say everything that it may not have heard."""
        now = self._loop.time()
        self._forget_asks()
        for stream in list(self._streams.values()):  # one that is refused at once leaves them
            self._send_watch(stream)  # before what is asked after it
        for sent in list(self._unanswered.values()):
            self._send(sent, now)
        self._ask_missing(list(self._outstanding), wait=True)

    def _forget_asks(self) -> None:
        """All outcomes that are missing are about to be asked for anew."""
        for request in self._asks:
            self._unanswered.pop(request, None)
        self._asks.clear()

    def _fail(self, error: CorralError) -> None:
        """No broker will answer: tell everybody who waits."""
        if not self._closed:
            self._refused = error
        for sent in list(self._unanswered.values()):
            sent.answered(sent, error)
        self._unanswered.clear()
        for inbox in self._inboxes:
            inbox.fail(error)
        for stream in self._streams.values():
            stream.error = error
            stream.wake()

    def _send(self, sent: Sent, now: float) -> None:
        """Send what is unanswered; when no broker is there, `_on_up` does it."""
        assert self._link is not None
        if self._link.up:
            self._link.send(sent.frames if not sent.tries else sent.again())
            sent.tries += 1
            sent.sent = now

    def _on_answers(self, answers: list[Answer]) -> None:
        self._heard_at = self._loop.time()
        for answer in answers:
            if isinstance(answer, Outcomes):
                self._collect(answer.items)
                if answer.last and not answer.request:
                    self._forget_asks()
                    self._ask_missing(list(self._outstanding), wait=True)
            elif isinstance(answer, Updates | Refused) and answer.request in self._streams:
                stream = self._streams[answer.request]
                stream.put(answer)
                if stream.behind:  # what would come until it begins anew costs all, and is not read
                    self.unsubscribe(stream)
                continue
            elif isinstance(answer, Underway):
                if (sent := self._unanswered.get(answer.request)) is not None:
                    sent.since = sent.sent = self._heard_at
                continue
            if (sent := self._unanswered.pop(answer.request, None)) is not None:
                sent.answered(sent, answer)

    # --- time -----------------------------------------------------------------------------

    def _watch_clock(self) -> None:
        if self._ticking is None:
            self._ticking = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        link = self._link
        if link is None or not (self._unanswered or self._inboxes):
            return
        self._watch_clock()
        now = self._loop.time()
        for sent in list(self._unanswered.values()):
            if self._hopeless(sent, now):
                del self._unanswered[sent.request]
                sent.answered(sent, self._unreachable())
        if not link.up:
            link.hurry(now, PATIENCE)
            return
        late = [
            sent
            for sent in self._unanswered.values()
            if now - sent.sent > min(PATIENCE * IMPATIENCE ** (sent.tries - 1), MAX_PATIENCE)
        ]
        if late and now - self._heard_at > PATIENCE:
            link.reopen()  # and `_on_up` sends all of it again
            return
        for sent in late:
            self._send(sent, now)
        asked = now - self._asked_at
        if self._inboxes and (min(asked, now - self._told_at) > self._quiet or asked > MAX_QUIET):
            self._quiet = min(self._quiet * 2, MAX_QUIET)
            waited = [id for id, handle in self._outstanding.items() if handle.inboxes]
            self._ask_missing(waited, wait=False)
        link.receive()

    def _hopeless(self, sent: Sent, now: float) -> bool:
        if self._timeout is None:
            return False
        silent = now - max(sent.since, self._heard_at)
        hard = HARD_LIMIT * self._timeout if not sent.count else float("inf")
        return silent > self._timeout or now - sent.since > hard

    def _unreachable(self) -> BrokerUnreachable:
        return BrokerUnreachable(endpoint=", ".join(self._endpoints), seconds=self._timeout)

    # --- calls ----------------------------------------------------------------------------

    def _new_request(self) -> bytes:
        self._count += 1
        return self._identity + (self._count & 0xFFFFFFFF).to_bytes(4, "big")

    async def ask(self, call: type[Call], answer: type[A], *fields: Any) -> A:
        """Make one call, of these fields behind its request id, and return the answer.

        Raises:
            BrokerUnreachable: nothing came within the client's timeout.
            KeyRefused, KeyMismatch, NotAllowed: the broker does not let this key do it.
            CorralError: what the broker says is wrong with the call.
        """
        link = self._open()
        request = self._new_request()
        future: asyncio.Future[Any] = self._loop.create_future()

        def answered(_: Sent, told: Answer | CorralError) -> None:
            if not future.done():
                future.set_result(told)

        now = self._loop.time()
        make: Callable[..., Call] = call
        frames = _packed(make(request, *fields))
        sent = self._unanswered[request] = Sent(request, frames, answered, now, now)
        self._send(sent, now)
        link.receive()
        self._watch_clock()
        try:
            told = await future
        finally:
            self._unanswered.pop(request, None)
        if not isinstance(told, answer):
            raise error_in(told)
        return told

    # --- submissions ----------------------------------------------------------------------

    async def submit_many(self, tasks: Iterable[Task], batch: int | None = 100) -> list[H]:
        """Submit tasks, `batch` of them in each message, and return their handles in order.

        Messages follow each other without waiting; how many may be unanswered is bounded. When
        this returns, every task is on the broker's stable storage. `batch=None` puts all tasks
        into one message, which is accepted or refused whole; then a parent may be named `#3`, the
        task at index 3.

        Raises:
            BadTask, BadParams, UnknownKind, MissingParent, CyclicParents, DuplicateId, TooLarge,
            Busy, StoreFull, NotAllowed: what is wrong; messages before it may have been accepted.
            BrokerUnreachable: no answer came for the client's timeout.
        """
        burst = self.burst()
        await self.post(burst, tasks, batch)
        return await self.finish(burst)

    def burst(self) -> Burst[H]:
        """A submission that `post` fills and `finish` ends."""
        return Burst(self._outstanding, self._make, self._face)

    async def post(self, burst: Burst[H], tasks: Iterable[Task], batch: int | None) -> None:
        """Send tasks as part of a burst; returns when there is room for more."""
        link = self._open()
        self._watch_clock()
        burst.now = self._loop.time()
        rest = iter(tasks)
        while chunk := list(islice(rest, batch)):
            if burst.error is not None:
                return
            self._post(link, burst, chunk)
            burst.posted += 1
            if burst.posted % POSTS_PER_DRAIN == 0 or burst.full:
                link.receive()
                while burst.full and burst.error is None:
                    await self._room(burst)
                burst.now = self._loop.time()
            if burst.posted % POSTS_PER_TURN == 0:
                await asyncio.sleep(0)
        link.receive()

    def _post(self, link: Link, burst: Burst[H], chunk: list[Task]) -> None:
        now = burst.now
        request = self._new_request()
        # Broker and worker carry a task with its params packed; on the wire the two are the same.
        specs: list[Any] = chunk
        try:
            frames = wire.call(Submit(request, specs, collect=True))
        except (TypeError, ValueError, OverflowError, RecursionError) as bad:
            raise _unpackable(chunk, len(burst.handles), bad) from None
        size = len(frames[-1])
        if size > MAX_MESSAGE:
            raise TooLarge(what="a message of this submission", size=size, limit=MAX_MESSAGE)
        count, handles = len(chunk), burst.handles
        tries = 1 if link.up else 0  # when no broker is there, `_on_up` sends it
        sent = Sent(request, frames, burst.answered, now, now, tries, len(handles), count)
        handles += _NO_HANDLE if count == 1 else _NO_HANDLE * count
        burst.unanswered += 1
        burst.bytes += size
        self._unanswered[request] = sent
        if tries:
            link.send(frames)

    async def _room(self, burst: Burst[H]) -> None:
        burst.room = self._loop.create_future()
        try:
            await burst.room
        finally:
            burst.room = None

    async def finish(self, burst: Burst[H]) -> list[H]:
        """The handles of a burst, once every message is answered."""
        while burst.unanswered:
            await self._room(burst)
        if burst.error is not None:
            raise burst.error
        return [handle for handle in burst.handles if handle is not None]

    # --- outcomes -------------------------------------------------------------------------

    def handle(self, id: str) -> H:
        """A handle for a task that was submitted elsewhere, by its whole id."""
        known = self._outstanding.get(id)
        if known is None:
            known = self._outstanding[id] = self._make(id, self._face)
            self._unasked.add(id)
        return known

    def _collect(self, items: Sequence[messages.Outcome]) -> None:
        pop = self._outstanding.pop
        for item in items:
            handle = pop(item.id, None)
            if handle is not None:
                handle.told = item
                for inbox in handle.inboxes:
                    inbox.put(handle)
        if items:
            self._told_at, self._quiet = self._heard_at, QUIET

    def _ask_missing(self, ids: list[str], wait: bool) -> None:
        """Ask for outcomes; the answers find their handles by themselves."""
        if not ids:
            return
        self._asked_at = now = self._loop.time()
        self._unasked.difference_update(ids)
        for start in range(0, len(ids), ASKED_AT_ONCE):
            asked = ids[start : start + ASKED_AT_ONCE]
            request = self._new_request()
            self._asks.add(request)
            answered = self._refused_results(asked, wait)
            frames = _packed(Results(request, asked, wait))
            sent = self._unanswered[request] = Sent(request, frames, answered, now, now)
            self._send(sent, now)
        self._watch_clock()

    def _refused_results(self, asked: list[str], wait: bool) -> Callable[[Sent, Any], None]:
        def answered(sent: Sent, told: Answer | CorralError) -> None:
            self._asks.discard(sent.request)
            if not isinstance(told, Refused):
                return
            error = errors.from_wire(told.code, told.fields)
            unknown = isinstance(error, NotFound) and error.fields.get("name") in asked
            lost = [str(error.fields["name"])] if unknown else asked
            for id in lost:
                if (handle := self._outstanding.pop(id, None)) is not None:
                    handle.told = error
                    for inbox in handle.inboxes:
                        inbox.put(handle)
            if unknown:
                rest = [id for id in asked if id in self._outstanding]
                self._loop.call_soon(self._ask_missing, rest, wait)

        return answered

    async def outcome(self, handle: H, timeout: float | None = None) -> Outcome:
        """How a task ends; waits up to `timeout` seconds for it."""
        async for batch in self.batches([handle], timeout):
            return batch[0][1]
        raise AssertionError("a batch is never empty")

    async def batches(
        self, handles: Sequence[H], timeout: float | None = None
    ) -> AsyncIterator[list[tuple[H, Outcome]]]:
        """Outcomes in the order in which they come, as many at a time as have come.

        Raises:
            TimedOut: some tasks go on.
            NotFound: a handle names no task.
        """
        self._open()
        inbox = Inbox()
        missing = len(handles)
        for handle in handles:
            if handle.told is None:
                handle.inboxes = (*handle.inboxes, inbox)
            else:
                inbox.put(handle)
        if self._unasked:
            self._ask_missing([h.id for h in handles if h.id in self._unasked], wait=True)
        if not self._inboxes:
            self._asked_at = self._loop.time()  # what is pushed need not be asked for at once
        self._inboxes.add(inbox)
        self._watch_clock()
        deadline = None if timeout is None else self._loop.time() + timeout
        try:
            while missing:
                try:
                    async with asyncio.timeout_at(deadline):
                        came: list[Any] = await inbox.take()
                except TimeoutError:
                    raise _timed_out(handles, missing, timeout) from None
                missing -= len(came)
                yield [
                    (handle, Outcome(told))
                    if isinstance(told := handle.told, messages.Outcome) and not told.blob
                    else (handle, await self._large_outcome(told))
                    for handle in came
                ]
        finally:
            self._inboxes.discard(inbox)
            if missing:
                for handle in handles:
                    handle.inboxes = tuple(one for one in handle.inboxes if one is not inbox)

    async def _large_outcome(self, told: messages.Outcome | CorralError) -> Outcome:
        if isinstance(told, CorralError):
            raise told
        return Outcome(told, await self.blob(told.blob))

    async def blob(self, digest: str) -> bytes:
        """A large result, packed, fetched piece by piece."""
        pieces = bytearray()
        while True:
            chunk = await self.ask(Blob, Chunk, digest, len(pieces))
            pieces += chunk.data
            if chunk.end or not chunk.data:
                return bytes(pieces)

    # --- watches --------------------------------------------------------------------------

    def subscribe(self, ids: Sequence[str], since: int | None, served: bool = False) -> Stream:
        """Begin a watch, or one that was `served` anew; `updates` reads and ends it."""
        self._open()
        stream = Stream(self._new_request(), list(ids), since, self._loop.time())
        stream.served = served
        _packed(Watch(stream.request, stream.ids, stream.seq))  # or it would fail at each reconnect
        self._streams[stream.request] = stream
        self._send_watch(stream)
        return stream

    async def updates(self, stream: Stream) -> AsyncIterator[Update]:
        """What a watch brings.

        Survives reconnects: it goes on after the last update that came, as soon as the broker has
        a place for it. A reader that falls too far behind gets one update per task with `cause`
        snapshot, once a second at most, and goes on from there.
        """
        changes = self.changes(stream)
        try:
            async for change in changes:
                if isinstance(change, TaskView):
                    yield shown_as_update(change, stream.seq or 0)
                else:
                    yield change
        finally:
            await changes.aclose()  # type: ignore[attr-defined]  # it is a generator

    async def changes(self, stream: Stream) -> AsyncIterator[Update | TaskView]:
        """The same, but a snapshot comes as the views that the broker sent."""
        try:
            while True:
                if stream.error is not None:
                    raise stream.error
                if stream.items:
                    yield stream.items.popleft()
                elif stream.behind:
                    await asyncio.sleep(stream.began + RESUME - self._loop.time())
                    stream = self.subscribe(stream.ids, stream.seq, served=True)
                else:
                    stream.waiter = self._loop.create_future()
                    await stream.waiter
        finally:
            self.unsubscribe(stream)

    def _send_watch(self, stream: Stream) -> None:
        assert self._link is not None
        if self._link.up:
            self._link.send(wire.call(Watch(stream.request, stream.ids, stream.seq)))
            self._link.receive()

    def unsubscribe(self, stream: Stream) -> None:
        """End a watch, unless it has ended."""
        if self._streams.pop(stream.request, None) is None:
            return
        if self._link is not None and self._link.up:
            self._link.send(wire.call(Unwatch(self._new_request(), stream.request)))
            self._link.receive()


def _packed(call: Call) -> wire.Frames:
    """A call as frames.

    Raises:
        Usage: it holds what does not travel.
    """
    try:
        return wire.call(call)
    except (TypeError, ValueError, OverflowError) as bad:
        raise errors.Usage(what=f"this cannot be sent: {bad}") from None


def _unpackable(chunk: list[Task], base: int, bad: Exception) -> BadTask:
    """Which task of a chunk cannot be packed."""
    for index, task in enumerate(chunk, base):
        for field in task.__struct_fields__:
            try:
                msgspec.msgpack.encode(getattr(task, field))
            except (TypeError, ValueError, OverflowError, RecursionError) as why:
                return BadTask(path=f"tasks[{index}].{field}", why=str(why))
    return BadTask(path="tasks", why=str(bad))


def _timed_out(handles: Sequence[BaseHandle], missing: int, timeout: float | None) -> TimedOut:
    first = next(handle.id for handle in handles if handle.told is None)
    what = f"Task {first}" if len(handles) == 1 else f"{missing} of {len(handles)} tasks"
    return TimedOut(what=what, seconds=timeout, id=first)
