"""The SDK for everybody else: the same calls, run by an event loop on a thread of its own.

The thread is there so that a client works where an event loop runs already (a notebook), and can
be shared by threads. Each method says in `corral.client.aio` what it does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

from corral import messages
from corral.client.aio import Calls, connection, new_task
from corral.client.handles import BaseHandle, Handle, Outcome
from corral.errors import Usage
from corral.messages import (
    BackupView,
    BrokerView,
    Done,
    Explanation,
    KeyView,
    TaskView,
    Update,
    WorkerView,
)
from corral.tasks import Needs, Retry, State, Task

T = TypeVar("T")

LOOK = 1.0  # seconds
HANDED_OVER = 4_096  # tasks that are made before the thread gets them


class Client:
    """The broker, for programs without asyncio. Use it with `with`, or close it.

    Args:
        broker: endpoints, tried in turn; default: what the configuration says.
        key: path of a key file.
        timeout: seconds that a call may stay unanswered before it raises `BrokerUnreachable`.
        project: of tasks that name none.
    """

    def __init__(
        self,
        broker: str | Sequence[str] | None = None,
        *,
        key: str | Path | None = None,
        timeout: float | None = None,
        project: str | None = None,
    ) -> None:
        self._calls = Calls(connection(broker, key, timeout, project), Handle, self)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="corral-client", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # Those who still waited have been told; let them hear it.
        rest = asyncio.all_tasks(self._loop)
        self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise Usage(what="this client is closed")
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            with contextlib.suppress(ValueError):  # the loop has it already
                work.close()  # Ctrl-C came before it was handed over
            raise
        try:
            return _result(future)
        except concurrent.futures.CancelledError:
            raise
        except BaseException:
            future.cancel()  # Ctrl-C while it waited: the loop need not wait on
            raise

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """An asynchronous iterator as a plain one."""

        async def following() -> T | None:
            return await anext(items, None)

        async def end() -> None:
            await items.aclose()  # type: ignore[attr-defined]  # it is a generator

        try:
            while (item := self._run(following())) is not None:
                yield item
        finally:
            if self._thread.is_alive():
                self._run(end())

    def close(self) -> None:
        """End the connection and the thread. Tasks go on."""
        if not self._thread.is_alive():
            return
        self._run(self._calls.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- submit and collect ---------------------------------------------------------------

    def submit(
        self,
        kind: str,
        *,
        after: Mapping[str, BaseHandle | str] | Sequence[BaseHandle | str] = (),
        needs: Needs | None = None,
        prefer_gpu: bool = False,
        force_gpu: bool = False,
        priority: int = 0,
        project: str = "",
        id: str | None = None,
        retry: Retry | int | None = None,
        run_limit: float | None = None,
        queue_limit: float | None = None,
        name: str = "",
        **params: Any,
    ) -> Handle:
        """Submit one task; it is on the broker's stable storage when this returns."""
        return self.submit_task(
            new_task(
                kind, params, after=after, needs=needs, prefer=prefer_gpu, force=force_gpu,
                retry=retry, priority=priority, project=project, id=id, run_limit=run_limit,
                queue_limit=queue_limit, name=name,
            )
        )  # fmt: skip

    def submit_task(self, task: Task) -> Handle:
        """Submit one task; it is on the broker's stable storage when this returns."""
        calls = self._calls
        return self._run(calls.submit_many(calls.in_project([task]), batch=1))[0]

    def submit_many(self, tasks: Iterable[Task], batch: int | None = 100) -> list[Handle]:
        """Submit tasks, `batch` of them in each message, and return their handles in order."""
        calls = self._calls
        burst = calls.burst()
        # The tasks are made here, not on the thread: their maker may use this client itself. And
        # the two take turns, because threads that both have work hold each other up for long.
        size = None if batch is None else max(1, HANDED_OVER // batch) * batch
        rest = iter(calls.in_project(tasks))
        while part := list(islice(rest, size)):
            self._run(calls.post(burst, part, batch))
        return self._run(calls.finish(burst))

    def handle(self, id: str) -> Handle:
        """A handle for a task that was submitted elsewhere, by its whole id."""

        async def make() -> Handle:
            return self._calls.handle(id)

        return self._run(make())

    def outcome(self, handle: Handle, timeout: float | None = None) -> Outcome:
        """How a task ends; waits up to `timeout` seconds for it."""
        told = handle.told
        if isinstance(told, messages.Outcome) and not told.blob:
            return Outcome(told)  # no need to ask the thread
        return self._run(self._calls.outcome(handle, timeout))

    def results(
        self, handles: Iterable[Handle | str], timeout: float | None = None
    ) -> Iterator[tuple[Handle, Outcome]]:
        """Handles (or whole ids) and outcomes, in the order in which they complete."""
        listed = [self.handle(one) if isinstance(one, str) else one for one in handles]
        for batch in self._each(self._calls.batches(listed, timeout)):
            yield from batch

    # --- look -----------------------------------------------------------------------------

    def show(self, ids: Sequence[str]) -> list[TaskView]:
        """Everything that is known of tasks. An id may be a unique prefix, or `last`."""
        return self._run(self._calls.show(ids))

    def tasks(
        self,
        states: Iterable[State | str] = (),
        *,
        kind: str = "",
        project: str = "",
        worker: str = "",
        limit: int = 100,
        before: str = "",
    ) -> list[TaskView]:
        """Tasks that match, newest first, at most `limit` of them, older than task `before`."""
        filters = {"kind": kind, "project": project, "worker": worker, "before": before}
        return self._run(self._calls.tasks(states, limit=limit, **filters))

    def explain(self, id: str) -> Explanation:
        """Why a task does not run, worker by worker and need by need, and what would let it."""
        return self._run(self._calls.explain(id))

    def watch(self, ids: Sequence[str] = (), since: int | None = None) -> Iterator[Update]:
        """Every update of these tasks (of all, when none is named), from number `since` on."""
        return self._each(self._calls.watch(ids, since))

    def watch_task(self, id: str) -> Iterator[Update]:
        """The state of one task now, then every change and progress, until it ends."""
        return self._each(self._calls.watch_task(id))

    def logs(self, id: str, attempt: int = 0, follow: bool = False) -> Iterator[bytes]:
        """An attempt's log, piece by piece; 0 is the last attempt. `follow` waits for its end."""
        return self._each(self._calls.logs(id, attempt, follow))

    def blob(self, digest: str) -> bytes:
        """A large result, packed, fetched piece by piece."""
        return self._run(self._calls.blob(digest))

    def workers(self) -> list[WorkerView]:
        """Every worker in the registry."""
        return self._run(self._calls.workers())

    def status(self) -> BrokerView:
        """The broker's own figures."""
        return self._run(self._calls.status())

    # --- change ---------------------------------------------------------------------------

    def cancel(self, ids: Sequence[str], reason: str = "") -> Done:
        """Cancel tasks for good; durable when it returns."""
        return self._run(self._calls.cancel(ids, reason))

    def retry(self, ids: Sequence[str]) -> Done:
        """Open a new run of tasks that ended without success."""
        return self._run(self._calls.retry(ids))

    def drain(
        self, worker: str, reason: str = "", deadline: float | None = None, policy: str = "wait"
    ) -> Done:
        """Give a worker nothing new, and let go of what it runs by `policy` at the deadline."""
        return self._run(self._calls.drain(worker, reason, deadline, policy))

    def resume(self, worker: str) -> Done:
        """Give a drained or draining worker work again."""
        return self._run(self._calls.resume(worker))

    def backup(self, to: str | Path | None = None) -> BackupView:
        """Copy the broker's store while it works; durable when it returns, however long it takes.

        `to` is a new or empty folder on the broker's machine, as an absolute path; without it the
        copy is one of the folder `backups` in the broker's data.
        """
        return self._run(self._calls.backup(to))

    def keys(self) -> list[KeyView]:
        """Every key that the broker knows, revoked ones too."""
        return self._run(self._calls.keys())

    def add_key(self, public: str, role: str, name: str) -> list[KeyView]:
        """Let the holder of a public key in."""
        return self._run(self._calls.add_key(public, role, name))

    def revoke_key(self, name: str) -> list[KeyView]:
        """Take access from a key, given by its name or its public half; drops its peers."""
        return self._run(self._calls.revoke_key(name))


def _result(future: concurrent.futures.Future[T]) -> T:
    """What the loop found.

    A lock that is waited for without an end misses a signal that comes just before the wait
    (CPython), and then Ctrl-C would do nothing.
    """
    while True:
        try:
            return future.result(LOOK)
        except TimeoutError:
            if future.done():
                return future.result()
