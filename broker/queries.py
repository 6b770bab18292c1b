"""Calls that change no task: show, list, explain, workers, status, logs, blobs, keys.

They read memory, and the store's tables for what has left it. Calls that change something are the
machine's (`broker.core.machine`); streams are `broker.watch`'s.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
from msgspec import structs

from broker.core import views
from broker.core.explain import explain
from broker.store import Store
from corral.errors import AmbiguousId, NoAttempt, NoKeys, NoLog, NotFound, Usage
from corral.messages import (
    Answer,
    Backup,
    Blob,
    BrokerView,
    Call,
    Chunk,
    Done,
    Explain,
    Explained,
    FetchLog,
    Keys,
    KeysAre,
    List,
    LogChunk,
    Logs,
    Show,
    Shown,
    Status,
    StatusIs,
    StoreView,
    TaskView,
    Unwatch,
    Watch,
    Workers,
    WorkersAre,
)
from corral.tasks import LAST, State

if TYPE_CHECKING:
    from broker.server import Server

MAX_PAGE = 1000  # tasks
MAX_PIECE = 4 << 20  # bytes of a log or blob in one answer
LOG_WAIT = 5.0  # seconds that a worker has to send a piece of a log


class Fetch(NamedTuple):
    """A piece of a log that a worker was asked for."""

    peer: bytes
    call: Logs
    until: float


class Queries:
    """Answers to reading calls."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.fetches: dict[int, Fetch] = {}
        self._fetch = 0

    def answer(self, peer: bytes, call: Call, now: float) -> Answer | None:
        """The answer, or None when it comes later or as a stream.

        Raises:
            CorralError: the call cannot be answered.
        """
        return _QUERIES[type(call)](self, peer, call, now)

    def resolve(self, names: list[str]) -> list[str]:
        """Ids for what people type: whole ids, unique prefixes, `last`.

        Raises:
            NotFound, AmbiguousId
        """
        return [self._resolve(name) for name in names]

    def _resolve(self, name: str) -> str:
        tasks = self.server.state.tasks
        if name in tasks:
            return name
        if name == LAST:
            newest = max(tasks.values(), key=lambda task: task.order, default=None)
            if newest is None:
                raise views.no_task(self.server.state, name)
            return newest.id
        found = {id for id in tasks if id.startswith(name)} if name else set()
        found |= set(self.server.store.prefix(name, 10)) if name else set()
        if not found:
            raise views.no_task(self.server.state, name)
        if len(found) > 1 and name not in found:
            listed = ", ".join(sorted(found)[:5])
            raise AmbiguousId(name=name, candidates=listed)
        return name if name in found else found.pop()

    # --- tasks --------------------------------------------------------------------------

    def _show(self, peer: bytes, call: Show, now: float) -> Answer:
        return Shown(call.request, [self._view(id) for id in self.resolve(call.ids)])

    def _view(self, id: str) -> TaskView:
        state = self.server.state
        task = state.tasks.get(id)
        if task is not None:
            return self._sized(views.task_view(state, task), task.blob)
        record = self.server.keeper.records([id])[id]
        return self._sized(views.record_view(state, record), record.blob)

    def _sized(self, view: TaskView, blob: str) -> TaskView:
        """With the size of a result that is a file of its own."""
        if blob:
            with suppress(NotFound):  # somebody took it away; who asks for the result is told so
                size = self.server.store.blob_size(blob)
                return structs.replace(view, result_bytes=size)
        return view

    def _list(self, peer: bytes, call: List, now: float) -> Answer:
        state = self.server.state
        limit = max(1, min(call.limit, MAX_PAGE))
        before = None
        if call.before:
            view = self._view(self._resolve(call.before))
            before = (view.submitted, view.id)
        wanted = frozenset(call.states)
        # Tasks taken back from the tables stand out of order in memory, so all are looked at; but
        # the last are mostly the newest, and looked at first they spare the others a place.
        matching = (
            task
            for task in reversed(state.tasks.values())
            if (not wanted or task.state in wanted)
            and (not call.kind or task.spec.kind == call.kind)
            and (not call.project or task.spec.project == call.project)
            and (not call.worker or views.worker_of(task) == call.worker)
            and (before is None or (task.submitted, task.id) < before)
        )
        found = {
            task.id: self._sized(views.task_view(state, task, full=False), task.blob)
            for task in heapq.nlargest(limit, matching, key=attrgetter("submitted", "id"))
        }
        if self.server.keeper.tables:
            rows = self.server.store.query(
                states=[s.value for s in wanted],
                kind=call.kind,
                project=call.project,
                worker=call.worker,
                limit=limit,
                before=before,
            )
            gone = [row.id for row in rows if row.id not in state.tasks]
            for id, record in self.server.keeper.records(gone).items():
                found[id] = self._sized(views.record_view(state, record), record.blob)
        newest = sorted(found.values(), key=lambda view: (view.submitted, view.id), reverse=True)
        return Shown(call.request, newest[:limit])

    def _explain(self, peer: bytes, call: Explain, now: float) -> Answer:
        [id] = self.resolve([call.id])
        self.server.keeper.recall(self.server.state, [id])
        return Explained(call.request, explain(self.server.state, id, now))

    def _watch(self, peer: bytes, call: Watch, now: float) -> None:
        ids = self.resolve(call.ids)
        watch = Watch(call.request, ids, call.since)
        self.server.watches.begin(peer, watch, self.server.keeper.lsn)

    def _unwatch(self, peer: bytes, call: Unwatch, now: float) -> Answer:
        ended = self.server.watches.end(call.watch)
        return Done(call.request, [call.watch.hex()] if ended else [])

    # --- logs and large results -------------------------------------------------------------

    def _logs(self, peer: bytes, call: Logs, now: float) -> None:
        [id] = self.resolve([call.id])
        view = self._view(id)
        attempts = {attempt.number: attempt for attempt in view.attempts}
        number = call.attempt or max(attempts, default=0)
        attempt = attempts.get(number)
        if attempt is None:
            raise NoAttempt(number=number, id=id)
        worker = self.server.state.workers.get(attempt.worker)
        if worker is not None and not worker.native:
            raise NoLog(id=id, worker=attempt.worker)
        if worker is None or worker.peer is None:
            raise NotFound(noun="worker", name=f"{attempt.worker}, which holds the log of {id},")
        self._fetch += 1
        self.fetches[self._fetch] = Fetch(peer, call, now + LOG_WAIT)
        message = FetchLog(self._fetch, id, number, call.offset, min(call.size, MAX_PIECE))
        self.server.to_worker(worker.peer, message)

    def log_came(self, chunk: LogChunk) -> None:
        """A worker sent a piece of a log."""
        fetch = self.fetches.pop(chunk.fetch, None)
        if fetch is None:
            return
        call = fetch.call
        end = call.offset + len(chunk.data) >= chunk.total
        answer = Chunk(call.request, chunk.data, call.offset, chunk.total, end)
        self.server.to_client(fetch.peer, "corral.logs", answer)

    def expire(self, now: float) -> None:
        """Give up on workers that did not send the log they were asked for."""
        for number in [n for n, fetch in self.fetches.items() if fetch.until <= now]:
            fetch = self.fetches.pop(number)
            error = NotFound(noun="worker", name="that would send this log in time")
            self.server.refuse(fetch.peer, fetch.call, error)

    def _blob(self, peer: bytes, call: Blob, now: float) -> Answer:
        store = self.server.store
        total = store.blob_size(call.digest)
        size = max(1, min(call.size, MAX_PIECE))
        data = store.blob_get(call.digest, call.offset, size)
        return Chunk(call.request, data, call.offset, total, call.offset + len(data) >= total)

    # --- the fleet and the broker -----------------------------------------------------------------

    def _workers(self, peer: bytes, call: Workers, now: float) -> Answer:
        return WorkersAre(call.request, views.worker_views(self.server.state))

    def _status(self, peer: bytes, call: Status, now: float) -> Answer:
        server = self.server
        state = server.state
        view = BrokerView(
            version=version("corral"),
            epoch=server.store.epoch,
            seq=server.keeper.lsn,
            started=server.clock.started,
            endpoint=server.endpoint,
            data=str(server.data),
            tasks={one.value: state.counts[one] + server.keeper.away[one.value] for one in State},
            workers=dict(Counter(worker.status for worker in state.workers.values())),
            kinds=views.kind_views(state, now),
            named=views.named_view(state),
            refused=dict(server.broker.refused),
            store_full=bool(server.full),
            rss_bytes=psutil.Process().memory_info().rss,
            store=_store(server.store),
            waited=views.longest_wait(state, now),
        )
        return StatusIs(call.request, view)

    def _backup(self, peer: bytes, call: Backup, now: float) -> Answer | None:
        return self.server.backups.begin(peer, call)

    def _keys(self, peer: bytes, call: Keys, now: float) -> Answer:
        gate = self.server.gate
        if gate is None:
            raise NoKeys
        if call.action == "add":
            gate.table.add(call.public, call.role, call.name, time.time())
        elif call.action == "revoke":
            key = gate.table.revoke(call.name or call.public, time.time())
            for revoked in gate.peers(key.public):
                self.server.drop(revoked)
        elif call.action != "list":
            raise Usage(what=f"{call.action} is none of list, add, revoke")
        return KeysAre(call.request, gate.table.listed())


def _store(store: Store) -> StoreView:
    used = store.usage()
    return StoreView(
        journal=used.journal_bytes,
        tables=used.db_bytes,
        blobs=used.blob_bytes,
        free=used.free_bytes,
    )


_QUERIES: dict[type[Call], Callable[[Queries, bytes, Any, float], Answer | None]] = {
    Show: Queries._show,
    List: Queries._list,
    Explain: Queries._explain,
    Watch: Queries._watch,
    Unwatch: Queries._unwatch,
    Logs: Queries._logs,
    Blob: Queries._blob,
    Workers: Queries._workers,
    Status: Queries._status,
    Keys: Queries._keys,
    Backup: Queries._backup,
}
