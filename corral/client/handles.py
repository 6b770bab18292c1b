"""What a client holds of a task: a handle, and the outcome once its run has ended.

There is one handle per task, and no future: whoever waits puts an inbox into the handle, and the
outcome drops it there. That is what lets a client hold 100,000 tasks and lose microseconds on each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from corral import messages
from corral.errors import CorralError, TaskCancelled, TaskFailed
from corral.messages import Explanation, TaskView, Update
from corral.tasks import Failure, State

if TYPE_CHECKING:
    from corral.client.aio import AsyncClient
    from corral.client.sync import Client

_decode = msgspec.msgpack.Decoder().decode


class Outcome(Struct, frozen=True, gc=False):
    """How a run ended."""

    told: messages.Outcome
    packed: bytes | None = None  #: a large value, fetched

    @property
    def id(self) -> str:
        return self.told.id

    @property
    def state(self) -> State:
        return self.told.state

    @property
    def failure(self) -> Failure | None:
        """Why it did not succeed; None when it did."""
        return self.told.failure

    @property
    def value(self) -> Any:
        """What the handler returned, as builtins, unpacked anew each time; None without success."""
        return _decode(self.told.value if self.packed is None else self.packed)

    def __repr__(self) -> str:
        return f"<Outcome {self.id} {self.state.value}>"

    def result(self) -> Any:
        """The value.

        Raises:
            TaskCancelled: the task was cancelled.
            TaskFailed: it failed, was aborted, or expired.
        """
        if self.state is State.SUCCEEDED:
            return self.value
        why = self.failure.message or self.failure.type if self.failure else "no reason recorded"
        if self.state is State.CANCELLED:
            raise TaskCancelled(id=self.id, why=why)
        raise TaskFailed(id=self.id, state=self.state.value, why=why)


class Inbox:
    """Handles whose outcome has come, for one who waits."""

    __slots__ = ("_error", "_items", "_waiter")

    def __init__(self) -> None:
        self._items: list[BaseHandle] = []
        self._error: CorralError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, handle: BaseHandle) -> None:
        self._items.append(handle)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: CorralError) -> None:
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[BaseHandle]:
        """All that has come since the last time; waits for at least one."""
        while not self._items:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._items = self._items, []
        return items


class BaseHandle(Struct, eq=False, gc=False):
    """A task that the broker has accepted.

    Not tracked by the garbage collector: a client lets go of its handles when it is closed.
    """

    id: str
    client: Any
    known: bool = False  #: it was there already: equal work is done once
    warnings: tuple[str, ...] = ()  #: why it cannot run at present
    told: messages.Outcome | CorralError | None = None  #: how it ended, once the client knows
    kept: tuple[str, ...] = ()  #: settings that were asked for, while it goes on with its own
    inboxes: tuple[Inbox, ...] = ()  #: who waits for it

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"


class AsyncHandle(BaseHandle, eq=False, gc=False):
    """A task of an `AsyncClient`."""

    if TYPE_CHECKING:
        client: AsyncClient

    async def result(self, timeout: float | None = None) -> Any:
        """What the handler returned, as builtins; waits up to `timeout` seconds for it.

        Raises:
            TaskFailed, TaskCancelled: it did not succeed.
            TimedOut: it goes on.
        """
        return (await self.client.outcome(self, timeout)).result()

    def watch(self) -> AsyncIterator[Update]:
        """Its state now, then every change and progress, until it ends."""
        return self.client.watch_task(self.id)

    async def cancel(self, reason: str = "") -> bool:
        """Cancel it for good; False when it had ended before."""
        return bool((await self.client.cancel([self.id], reason)).changed)

    async def explain(self) -> Explanation:
        """Why it does not run, or why it runs where it runs."""
        return await self.client.explain(self.id)

    async def show(self) -> TaskView:
        """Everything that is known of it."""
        return (await self.client.show([self.id]))[0]


class Handle(BaseHandle, eq=False, gc=False):
    """A task of a `Client`."""

    if TYPE_CHECKING:
        client: Client

    def result(self, timeout: float | None = None) -> Any:
        """What the handler returned, as builtins; waits up to `timeout` seconds for it.

        Raises:
            TaskFailed, TaskCancelled: it did not succeed.
            TimedOut: it goes on.
        """
        return self.client.outcome(self, timeout).result()

    def watch(self) -> Iterator[Update]:
        """Its state now, then every change and progress, until it ends."""
        return self.client.watch_task(self.id)

    def cancel(self, reason: str = "") -> bool:
        """Cancel it for good; False when it had ended before."""
        return bool(self.client.cancel([self.id], reason).changed)

    def explain(self) -> Explanation:
        """Why it does not run, or why it runs where it runs."""
        return self.client.explain(self.id)

    def show(self) -> TaskView:
        """Everything that is known of it."""
        return self.client.show([self.id])[0]
