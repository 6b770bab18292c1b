"""The SDK for asyncio: every call of the broker as a method that is awaited.

What each method answers with is a struct of `corral.messages`, the same that the command line
prints. How calls get through is `corral.client.engine`'s matter.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import msgspec

from corral import config, keys, messages
from corral.client.engine import Engine
from corral.client.handles import AsyncHandle, BaseHandle, Outcome
from corral.client.pending import shown_as_update
from corral.config import Settings
from corral.errors import NotFound, Usage
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
from corral.tasks import TERMINAL, Needs, Retry, State, Task, force_gpu, prefer_gpu

PAGE = 1_000  # tasks in one answer to a list
LOG_POLL = 0.5  # s between looks at a log that grows

H = TypeVar("H", bound=BaseHandle)


def _told(reason: str) -> str:
    """Raises Usage when it is longer than the broker keeps."""
    if len(reason) > messages.MAX_REASON:
        too_long = f"the reason has {len(reason)} characters, of at most {messages.MAX_REASON}"
        raise Usage(what=too_long)
    return reason


def new_task(
    kind: str,
    params: Mapping[str, Any],
    *,
    after: Mapping[str, BaseHandle | str] | Sequence[BaseHandle | str] = (),
    needs: Needs | None = None,
    prefer: bool = False,
    force: bool = False,
    retry: Retry | int | None = None,
    **others: Any,
) -> Task:
    """A task from the options of `submit`."""
    named = after if isinstance(after, Mapping) else {f"parent{n}": p for n, p in enumerate(after)}
    if needs is None and (force or prefer):
        needs = force_gpu() if force else prefer_gpu()
    return Task(
        kind=kind,
        params=dict(params),
        after={
            name: parent if isinstance(parent, str) else parent.id for name, parent in named.items()
        },
        needs=needs,
        retry=Retry(limit=retry) if isinstance(retry, int) else retry,
        **others,
    )


class Connection(msgspec.Struct, frozen=True):
    """Where a client connects to, and as whom."""

    endpoints: tuple[str, ...]
    key: keys.KeyFile | None
    timeout: float | None
    project: str


def connection(
    broker: str | Sequence[str] | None,
    key: str | Path | None,
    timeout: float | None,
    project: str | None,
) -> Connection:
    """What was given, and where nothing was given what the configuration says."""
    settings = Settings()
    if None in (broker, key, timeout, project):
        settings = config.load({}, os.environ, Path.cwd(), Path.home()).settings
    if isinstance(broker, str):
        broker = [part for part in broker.replace(",", " ").split() if part]
    path = settings.key if key is None else key
    return Connection(
        tuple(broker) if broker else settings.endpoints,
        keys.read(Path(path)) if path else None,
        settings.timeout if timeout is None else timeout,
        settings.project if project is None else project,
    )


class Calls(Engine[H], Generic[H]):
    """Every call of the broker."""

    def __init__(self, to: Connection, handle: type[H], face: object) -> None:
        super().__init__(to.endpoints, to.key, to.timeout, handle, face)
        self._project = to.project

    def in_project(self, tasks: Iterable[Task]) -> Iterable[Task]:
        """The tasks; those that name no project are in the client's."""
        if not self._project:
            return tasks
        replace, project = msgspec.structs.replace, self._project
        return (task if task.project else replace(task, project=project) for task in tasks)

    async def show(self, ids: Sequence[str]) -> list[TaskView]:
        """Everything that is known of tasks. An id may be a unique prefix, or `last`.

        Raises:
            NotFound, AmbiguousId: an id means no task, or several.
        """
        return (await self.ask(messages.Show, messages.Shown, list(ids))).tasks

    async def tasks(
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
        wanted = [State(state) for state in states]
        found: list[TaskView] = []
        while len(found) < limit:
            size = min(PAGE, limit - len(found))
            last = found[-1].id if found else before
            filters = (wanted, kind, project, worker, size, last)
            page = (await self.ask(messages.List, messages.Shown, *filters)).tasks
            found += page
            if len(page) < size:
                break
        return found

    async def explain(self, id: str) -> Explanation:
        """Why a task does not run, worker by worker and need by need, and what would let it."""
        return (await self.ask(messages.Explain, messages.Explained, id)).explanation

    async def cancel(self, ids: Sequence[str], reason: str = "") -> Done:
        """Cancel tasks for good; durable when it returns."""
        return await self.ask(messages.Cancel, Done, list(ids), _told(reason))

    async def retry(self, ids: Sequence[str]) -> Done:
        """Open a new run of tasks that ended without success."""
        return await self.ask(messages.Retry, Done, list(ids))

    async def workers(self) -> list[WorkerView]:
        """Every worker in the registry."""
        return (await self.ask(messages.Workers, messages.WorkersAre)).workers

    async def drain(
        self, worker: str, reason: str = "", deadline: float | None = None, policy: str = "wait"
    ) -> Done:
        """Give a worker nothing new; after `deadline` seconds let go of what it runs by `policy`.

        Args:
            policy: `wait`, `requeue` or `kill`.
        """
        return await self.ask(messages.Drain, Done, worker, _told(reason), deadline, policy)

    async def resume(self, worker: str) -> Done:
        """Give a drained or draining worker work again."""
        return await self.ask(messages.Resume, Done, worker)

    async def status(self) -> BrokerView:
        """The broker's own figures."""
        return (await self.ask(messages.Status, messages.StatusIs)).broker

    async def backup(self, to: str | Path | None = None) -> BackupView:
        """Copy the broker's store while it works; durable when it returns, however long it takes.

        Every task acknowledged before this call is in the copy, and a broker can be started on it.

        Args:
            to: a new or empty folder on the broker's machine, as an absolute path; default: one
                named by the time, in the folder `backups` of the broker's data.

        Raises:
            BackupFailed: it cannot be written there; nothing of it was left.
        """
        path = "" if to is None else str(to)
        return (await self.ask(messages.Backup, messages.BackedUp, path)).backup

    async def keys(self) -> list[KeyView]:
        """Every key that the broker knows, revoked ones too."""
        return (await self.ask(messages.Keys, messages.KeysAre, "list")).keys

    async def add_key(self, public: str, role: str, name: str) -> list[KeyView]:
        """Let the holder of a public key in; returns every key."""
        return (await self.ask(messages.Keys, messages.KeysAre, "add", public, role, name)).keys

    async def revoke_key(self, name: str) -> list[KeyView]:
        """Take access from a key, by its name or its public half; returns every key."""
        return (await self.ask(messages.Keys, messages.KeysAre, "revoke", "", "", name)).keys

    async def logs(self, id: str, attempt: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """An attempt's log, piece by piece; 0 is the last attempt. `follow` waits for its end.

        A task that never began has no log. `follow` goes on while a worker is away: it comes back,
        or the task gets another attempt. When it takes the rest of a log with it, that ends there.

        Raises:
            NotFound: no such task; or the worker that has the log is not there.
        """
        number = at = 0
        while True:
            [view] = await self.show([id])
            ended = not follow or view.state in TERMINAL
            last = max((one.number for one in view.attempts), default=0)
            newest = attempt or last
            if newest != number:
                number, at = newest, 0
            while number:
                try:
                    piece = await self.ask(messages.Logs, messages.Chunk, id, number, at)
                except NotFound as error:
                    over = ended or number < last  # and its worker need not come back
                    if error.fields.get("noun") != "worker" or (over and not (follow and at)):
                        raise
                    if over:
                        return
                    break
                at += len(piece.data)
                if piece.data:
                    yield piece.data
                if piece.end or not piece.data:
                    break
            if ended:
                return
            await asyncio.sleep(LOG_POLL)

    async def watch(
        self, ids: Sequence[str] = (), since: int | None = None
    ) -> AsyncIterator[Update]:
        """Every update of these tasks (of all, when none is named), from number `since` on."""
        async for update in self.updates(self.subscribe(ids, since)):
            yield update

    async def watch_task(self, id: str) -> AsyncIterator[Update]:
        """The state of one task now, then every change and progress, until it ends."""
        stream = self.subscribe([id], None)  # before the look, so that nothing falls between
        updates = self.updates(stream)
        try:
            now = shown_as_update((await self.show([id]))[0])
            yield now
            if now.state in TERMINAL:
                return
            async for update in updates:
                if update.cause == now.cause and update.state is now.state:
                    continue  # the broker begins with what was just yielded
                yield update
                if update.state in TERMINAL:
                    return
        finally:
            await updates.aclose()  # type: ignore[attr-defined]  # it is a generator
            self.unsubscribe(stream)  # one that was never read ends nothing by itself


class AsyncClient(Calls[AsyncHandle]):
    """The broker, for asyncio. Use it with `async with`, or close it.

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
        super().__init__(connection(broker, key, timeout, project), AsyncHandle, self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def submit(
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
    ) -> AsyncHandle:
        """Submit one task; it is on the broker's stable storage when this returns.

        Args:
            after: name -> parent, whose result the handler finds as `run.parents[name]`.
            needs: resources; None: what the kind announces.
            prefer_gpu, force_gpu: short for needs of one core with a GPU.
            retry: how failures are retried, or how often.
            run_limit, queue_limit: seconds.
            params: of the kind. One that is named like an option goes through `submit_task`.
        """
        return await self.submit_task(
            new_task(
                kind, params, after=after, needs=needs, prefer=prefer_gpu, force=force_gpu,
                retry=retry, priority=priority, project=project, id=id, run_limit=run_limit,
                queue_limit=queue_limit, name=name,
            )
        )  # fmt: skip

    async def submit_task(self, task: Task) -> AsyncHandle:
        """Submit one task; it is on the broker's stable storage when this returns."""
        return (await self.submit_many([task], batch=1))[0]

    async def submit_many(
        self, tasks: Iterable[Task], batch: int | None = 100
    ) -> list[AsyncHandle]:
        return await super().submit_many(self.in_project(tasks), batch)

    submit_many.__doc__ = Engine.submit_many.__doc__

    async def results(
        self, handles: Iterable[AsyncHandle | str], timeout: float | None = None
    ) -> AsyncIterator[tuple[AsyncHandle, Outcome]]:
        """Handles (or whole ids) and outcomes, in the order in which they complete.

        Raises:
            TimedOut: `timeout` seconds have passed and some tasks go on.
        """
        listed = [self.handle(one) if isinstance(one, str) else one for one in handles]
        async for batch in self.batches(listed, timeout):
            for pair in batch:
                yield pair
