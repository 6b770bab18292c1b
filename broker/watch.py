"""Streams of what happens: the durable facts as updates, and sampled progress beside them.

A watcher has a place in the journal, the sequence number. It resumes from there; when the journal
no longer reaches back that far, or when the watcher did not keep up, it gets a snapshot and goes on
from now. So a slow watcher costs nothing but its own freshness.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from broker.core.effects import Telemetry
from broker.core.facts import (
    Accepted,
    Assigned,
    Closed,
    Fact,
    Moved,
    decode_facts,
    decode_record,
)
from broker.core.state import BrokerState, TaskRecord
from broker.core.views import task_view
from broker.outbox import Outbox
from broker.store import Row, Store
from corral import wire
from corral.errors import CorralError, TooManyWatches
from corral.messages import Refused, Update, Updates, Watch
from corral.tasks import TERMINAL, TRANSITIONS, State

MAX_SNAPSHOT = 5000  # tasks in a snapshot: the unfinished, then the newest
MAX_REPLAY = 10_000  # updates for one that resumes; beyond, it gets a snapshot
MAX_READ = 4 << 20  # bytes of the journal that are looked at for these, before they are understood
MAX_WATCHERS = 1000
MAX_OF_ONE = MAX_WATCHERS // 2  # watchers of one connection
LOOK_EVERY = 1.0  # seconds between looks whether all of these are still there
log = logging.getLogger("corral.broker")


class Watcher:
    """One stream."""

    __slots__ = ("behind", "ids", "peer", "request")

    def __init__(self, peer: bytes, request: bytes, ids: frozenset[str]) -> None:
        self.peer = peer
        self.request = request
        self.ids = ids  #: empty: every task
        self.behind = False  #: it needs a snapshot before anything else

    def wants(self, id: str) -> bool:
        """Whether it asked about this task."""
        return not self.ids or id in self.ids


class Watches:
    """All streams of one broker."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self.store = store
        self.outbox = outbox
        self.watchers: dict[bytes, Watcher] = {}
        self._looked = 0.0

    def begin(self, peer: bytes, call: Watch, seq: int) -> None:
        """Open a stream, with what the watcher missed first.

        A snapshot waits for `catch_up`: memory may hold what this turn has not committed yet.
        """
        if call.request not in self.watchers:
            of_peer = sum(watcher.peer == peer for watcher in self.watchers.values())
            if of_peer >= MAX_OF_ONE:
                raise TooManyWatches(count=of_peer)
            if len(self.watchers) >= MAX_WATCHERS:
                self._make_room(seq)
        missed = None if call.since is None else self._missed(call.since, seq)
        watcher = self.watchers[call.request] = Watcher(peer, call.request, frozenset(call.ids))
        if missed is None and (call.since is not None or call.ids):
            watcher.behind = True
        else:
            items = [u for u in missed or () if watcher.wants(u.id)]
            watcher.behind = not self._send(watcher, Updates(call.request, items, seq=seq))

    def _make_room(self, seq: int) -> None:
        """Let go of watchers that left without a word.

        Raises:
            TooManyWatches: all of them are there.
        """
        now = time.monotonic()
        if now >= self._looked + LOOK_EVERY:
            self._looked = now
            # Who is gone is found by sending. One that is behind is sent nothing but a snapshot.
            for watcher in {w.peer: w for w in self.watchers.values() if not w.behind}.values():
                self._send(watcher, Updates(watcher.request, [], seq=seq))
        if len(self.watchers) >= MAX_WATCHERS:
            raise TooManyWatches(count=len(self.watchers))

    def _missed(self, since: int, seq: int) -> list[Update] | None:
        """Updates after `since`; None when the journal does not reach back that far."""
        if since > seq or seq - since > MAX_REPLAY:
            return None
        entries: list[tuple[int, bytes]] = []
        size = 0
        for lsn, entry in self.store.read(after=since, limit=MAX_REPLAY):
            size += len(entry)
            if lsn != since + len(entries) + 1 or size > MAX_READ:
                return None  # one row may hold what a thousand tasks did
            entries.append((lsn, entry))
        if since + len(entries) != seq:
            return None
        updates: list[Update] = []
        for lsn, entry in entries:
            updates += updates_of(lsn, decode_facts(entry))
            if len(updates) > MAX_REPLAY:
                return None
        return updates

    def _snapshot(self, watcher: Watcher, state: BrokerState, seq: int) -> None:
        if watcher.ids:
            tasks = [state.tasks[id] for id in watcher.ids if id in state.tasks]
            rows: Iterable[Row] = self.store.find(watcher.ids - state.tasks.keys()).values()
        else:
            tasks = _newest(state)
            rows = self.store.query(states=TERMINAL, limit=MAX_SNAPSHOT - len(tasks))
        # What has ended may have left memory, and is news for one that was away.
        away = BrokerState(state.settings)
        tasks += [away.restore(decode_record(r.record)) for r in rows if r.id not in state.tasks]
        views = [task_view(state, task, full=False) for task in tasks]
        watcher.behind = not self._send(
            watcher, Updates(watcher.request, [], snapshot=views, seq=seq)
        )

    def end(self, request: bytes) -> bool:
        """Close a stream."""
        return self.watchers.pop(request, None) is not None

    def drop(self, peer: bytes) -> None:
        """Close the streams of a peer that is gone."""
        for request in [r for r, w in self.watchers.items() if w.peer == peer]:
            del self.watchers[request]

    def publish(
        self, facts: Iterable[Fact], telemetry: Iterable[Telemetry], state: BrokerState, seq: int
    ) -> None:
        """Tell every watcher what one turn made durable, and what was sampled."""
        if not self.watchers:
            return
        updates = list(updates_of(seq, facts))
        updates += [
            Update(
                seq=seq, at=t.at, id=t.id, cause="progress", progress=t.fraction, metrics=t.metrics
            )
            for t in telemetry
        ]
        if not updates:
            return
        for watcher in list(self.watchers.values()):
            if watcher.behind:
                continue
            items = [update for update in updates if watcher.wants(update.id)]
            if items:
                watcher.behind = not self._send(watcher, Updates(watcher.request, items, seq=seq))

    def catch_up(self, state: BrokerState, seq: int) -> None:
        """Give a snapshot to every watcher that needs one and can be reached.

        Call it between turns, when memory is what was committed.
        """
        for watcher in list(self.watchers.values()):
            if watcher.behind and watcher.peer not in self.outbox.waiting:
                watcher.behind = False
                try:
                    self._snapshot(watcher, state, seq)
                except Exception as error:  # it only reads, so a defect in it ends nothing else
                    if isinstance(error, CorralError):
                        log.error("%s", error)
                    else:
                        log.exception("a snapshot failed")
                        error = CorralError(what=f"the broker could not answer: {error!r}")
                    fields = {name: str(value) for name, value in error.fields.items()}
                    self._send(watcher, Refused(watcher.request, error.code, fields))
                    self.end(watcher.request)

    def _send(self, watcher: Watcher, answer: Updates | Refused) -> bool:
        if watcher.peer in self.outbox.waiting:
            return False
        return self.outbox.send(watcher.peer, wire.answers("corral.watch", [answer], False))


def _newest(state: BrokerState) -> list[TaskRecord]:
    """As many tasks as a snapshot has: the unfinished, then those that ended, the newest first.

    Not sorted: there may be a million. What came back from the tables stands with the newest.
    """
    live = islice((task for task in reversed(state.tasks.values()) if task.live), MAX_SNAPSHOT)
    tasks = list(live)
    over = (task for task in reversed(state.tasks.values()) if not task.live)
    return tasks + list(islice(over, MAX_SNAPSHOT - len(tasks)))


def updates_of(seq: int, facts: Iterable[Fact]) -> Iterator[Update]:
    """The facts of one journal row as updates."""
    for fact in facts:
        make = _UPDATES.get(type(fact))
        if make is not None:
            yield from make(seq, fact)


def _accepted(seq: int, fact: Accepted) -> Iterator[Update]:
    spec = fact.spec
    yield Update(
        seq=seq,
        at=fact.at,
        id=fact.id,
        kind=spec.kind,
        state=State.WAITING if fact.waiting else State.QUEUED,
        cause="submit",
        name=spec.name,
        project=spec.project,
        priority=spec.priority,
    )


def _assigned(seq: int, fact: Assigned) -> Iterator[Update]:
    for id in fact.ids:
        yield Update(
            seq=seq,
            at=fact.at,
            id=id,
            state=State.RUNNING,
            cause="assign",
            why=fact.decision,
            worker=fact.worker,
            gpus=fact.gpus,
        )


#: cause -> state; every cause leads to one state alone, whatever state it is taken from
_AFTER = {cause: state for row in TRANSITIONS.values() for cause, state in row.items()}


def _closed(seq: int, fact: Closed) -> Iterator[Update]:
    if fact.cause is None:
        return
    to = _AFTER[fact.cause]
    yield Update(
        seq=seq,
        at=fact.at,
        id=fact.id,
        state=to,
        cause=fact.cause.value,
        why=fact.failure.message if fact.failure else "",
        progress=1.0 if to is State.SUCCEEDED else None,
    )


def _moved(seq: int, fact: Moved) -> Iterator[Update]:
    yield Update(
        seq=seq,
        at=fact.at,
        id=fact.id,
        state=_AFTER[fact.cause],
        cause=fact.cause.value,
        why=fact.why,
    )


_UPDATES: dict[type[Fact], Callable[[int, Any], Iterator[Update]]] = {
    Accepted: _accepted,
    Assigned: _assigned,
    Closed: _closed,
    Moved: _moved,
}
