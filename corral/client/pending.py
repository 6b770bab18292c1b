"""What a client waits for: calls without an answer, submissions in many messages, watches.

Only their state. Who sends them, and when again, is `corral.client.engine`'s matter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from corral import errors, wire
from corral.client.handles import BaseHandle
from corral.errors import CorralError, TooManyWatches
from corral.messages import Accepted, Answer, Refused, Submit, TaskView, Update, Updates
from corral.tasks import request_id

MAX_UNANSWERED = 2_048  # messages of a submission that wait for their answer
MAX_UNANSWERED_BYTES = 16 << 20
MAX_BEHIND = 10_000  # updates kept for a slow reader of a watch

H = TypeVar("H", bound=BaseHandle)


class Sent(Struct, eq=False, gc=False):
    """A call that has no answer yet. It is dropped when it has, so nothing need collect it."""

    request: bytes
    frames: wire.Frames
    answered: Callable[[Sent, Any], None]  #: told the answer, or the error that takes its place
    since: float
    sent: float
    tries: int = 0
    base: int = 0  #: of a submission: index of its first task in the burst
    count: int = 0  #: of a submission: how many tasks

    def again(self) -> wire.Frames:
        """The frames of a resend; a submission says that it is one."""
        heard = wire.decode(self.frames)
        if isinstance(heard, wire.Called) and isinstance(heard.call, Submit):
            return wire.call(msgspec.structs.replace(heard.call, resend=True))
        return self.frames


class Burst(Generic[H]):
    """A submission in many messages, and the handles that it makes.

    What an answer costs here, each task costs: there may be one for each.
    """

    __slots__ = (
        "_face", "_make", "_outstanding", "bytes", "error", "handles", "now", "posted", "room",
        "unanswered",
    )  # fmt: skip

    def __init__(
        self, outstanding: dict[str, H], make: Callable[[str, object], H], face: object
    ) -> None:
        self._outstanding, self._make, self._face = outstanding, make, face
        self.handles: list[H | None] = []
        self.unanswered = self.bytes = self.posted = 0
        self.error: CorralError | None = None
        self.now = 0.0  #: read from the clock now and then: often enough for a resend
        self.room: asyncio.Future[None] | None = None

    @property
    def full(self) -> bool:
        """Whether the next message must wait for an answer to an earlier one."""
        return self.unanswered >= MAX_UNANSWERED or self.bytes >= MAX_UNANSWERED_BYTES

    def answered(self, sent: Sent, told: Answer | CorralError) -> None:
        """One of its messages was answered, or never will be."""
        self.unanswered -= 1
        self.bytes -= len(sent.frames[-1])
        if isinstance(told, Accepted) and (told.ids is None or len(told.ids) == sent.count):
            self._accepted(sent, told)
        elif self.error is None:
            self.error = error_in(told)
            if len(self.handles) > 1:
                self.error.add_note(f"tasks {sent.base} to {sent.base + sent.count - 1}")
        if self.room is not None and not self.room.done():
            self.room.set_result(None)

    def _accepted(self, sent: Sent, answer: Accepted) -> None:
        ids = answer.ids or [request_id(sent.request, index) for index in range(sent.count)]
        outstanding, handles, position = self._outstanding, self.handles, sent.base
        for id in ids:
            handle = outstanding.get(id)
            if handle is None:
                handle = outstanding[id] = self._make(id, self._face)
            handles[position] = handle
            position += 1
        if answer.known or answer.warnings:
            made = [outstanding[id] for id in ids]
            for index in answer.known:
                made[index % sent.count].known = True
            for handle in made:
                handle.warnings = tuple(answer.warnings)
            for index, settings in (answer.kept or {}).items():
                made[index % sent.count].kept = tuple(settings)


def error_in(told: Answer | CorralError) -> CorralError:
    """What took the place of the answer that was expected."""
    if isinstance(told, CorralError):
        return told
    if isinstance(told, Refused):
        return errors.from_wire(told.code, told.fields)
    return CorralError(what=f"the broker answered with {type(told).__name__}")


class Stream:
    """A watch: what has come and was not read yet."""

    __slots__ = ("began", "behind", "error", "ids", "items", "request", "seq", "served", "waiter")

    def __init__(self, request: bytes, ids: list[str], seq: int | None, began: float) -> None:
        self.request, self.ids, self.seq, self.began = request, ids, seq, began
        self.items: deque[Update | TaskView] = deque()
        self.served = False  #: the broker has answered it once
        self.behind = False  #: it has to begin anew
        self.error: CorralError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def put(self, answer: Updates | Refused) -> None:
        if isinstance(answer, Refused):
            error = errors.from_wire(answer.code, answer.fields)
            if self.served and isinstance(error, TooManyWatches):
                self.behind = True  # somebody took its place while it was away
            else:
                self.error = error
            self.wake()
            return
        self.served = True
        if answer.snapshot is not None:
            self.items.clear()
            self.items.extend(answer.snapshot)
        self.items.extend(answer.items)
        if answer.items:
            self.seq = max(answer.items[-1].seq, self.seq or 0)
        if answer.seq:
            self.seq = max(answer.seq, self.seq or 0)
        self.behind = len(self.items) > MAX_BEHIND
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


def shown_as_update(view: TaskView, seq: int = 0) -> Update:
    """The state of a task as the item of a watch that stands for all that was before."""
    attempt = view.attempts[-1].number if view.attempts else 0
    return Update(
        seq=seq,
        at=view.ended or view.started or view.submitted,
        id=view.id,
        kind=view.kind,
        state=view.state,
        cause="snapshot",
        why=view.failure.message if view.failure else "",
        worker=view.worker,
        attempt=attempt,
        progress=view.progress,
        metrics=view.metrics,
        name=view.name,
        project=view.project,
        priority=view.priority,
    )
