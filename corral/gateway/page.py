"""What a page shows: tasks, workers and the broker as they are now, and what changed since.

Pure. Each change gets the next revision number. A reader tells the last revision it knows and gets
everything that is newer, each thing once, as it is now; so nobody keeps a queue for a slow reader,
and memory is bounded by what there is to show. That is a window: `window` tasks, those that run
first, then those that wait, then those that ended, of each the newest. How many there are in all
is in the broker's own figures.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from corral.messages import BrokerView, TaskView, Update, WorkerView
from corral.tasks import TERMINAL, State

WINDOW = 5_000  # tasks
STILL = 10.0  # seconds by which a worker's last sign of life must move to be news by itself


class Row(Struct, omit_defaults=True, kw_only=True):
    """A task as lists show it: fields of `TaskView`, and why it ended as it did."""

    id: str
    kind: str = ""
    state: State = State.QUEUED
    name: str = ""
    project: str = ""
    priority: int = 0
    worker: str = ""
    progress: float | None = None
    metrics: dict[str, float] = {}
    submitted: float = 0.0
    started: float | None = None
    ended: float | None = None
    why: str = ""
    gpus: list[str] = []  #: that it holds, or held last


class Link(Struct, frozen=True, kw_only=True):
    """Whether the gateway hears the broker, and since when that is so."""

    up: bool
    since: float


class Frame(Struct, omit_defaults=True, kw_only=True):
    """What changed, or everything. A thing that is listed replaces what was known of it."""

    at: int  #: the revision after it
    tasks: list[Row] = []
    gone: list[str] = []  #: tasks that have left the window
    workers: list[WorkerView] = []
    workers_gone: list[str] = []
    broker: BrokerView | None = None
    link: Link | None = None
    expected: list[str] | None = None  #: workers that ought to be there, when somebody has said so


class Page:
    """The state, folded from what the broker tells."""

    def __init__(self, now: float, window: int = WINDOW) -> None:
        self.rev = 0
        self._window = window
        self._floor = 0  #: who knows no more than this gets everything
        self._rows: dict[str, Row] = {}
        #: a heap: who leaves first when there is no room; a place that is no row's any more is void
        self._leaving: list[_Place] = []
        self._workers: dict[str, WorkerView] = {}
        self._broker: BrokerView | None = None
        self._expected: list[str] | None = None
        self._link = Link(up=False, since=now)
        #: what -> the revision that changed it last; the newest are at the end
        self._changed: OrderedDict[tuple[str, str], int] = OrderedDict()

    # --- what is told -------------------------------------------------------------------

    def fold(self, change: Update | TaskView) -> Row:
        """Something happened to a task; gives it as it is now, if there is room for it or not."""
        row = self._rows.get(change.id)
        before = _place(row) if row is not None else None
        if isinstance(change, TaskView):
            row = self._rows[change.id] = _shown(change)
        else:
            if row is None:
                # Of one that was out of sight little is known; but what tells of progress runs.
                state = State.RUNNING if change.cause == "progress" else State.QUEUED
                row = self._rows[change.id] = Row(id=change.id, state=state)
            _fold(row, change)
        if _place(row) != before:
            heapq.heappush(self._leaving, _place(row))
        self._mark("task", row.id)
        if len(self._rows) > self._window:
            self._make_room()
        if len(self._leaving) > 2 * (self._window + 2):
            self._leaving = [_place(one) for one in self._rows.values()]
            heapq.heapify(self._leaving)
        return row

    def _make_room(self) -> None:
        """Let one task go."""
        place = heapq.heappop(self._leaving)
        while (row := self._rows.get(place[-1])) is None or _place(row) != place:
            place = heapq.heappop(self._leaving)
        self.drop(row.id)

    def drop(self, id: str) -> None:
        """A task is no longer there."""
        if self._rows.pop(id, None) is not None:
            self._mark("task", id)
            self._forget()

    def see_workers(self, views: Sequence[WorkerView]) -> None:
        """These are all workers there are."""
        there = {view.name: view for view in views}
        for name in [name for name in self._workers if name not in there]:
            del self._workers[name]
            self._mark("worker", name)
        for name, view in there.items():
            before = self._workers.get(name)
            if before is None or _is_news(before, view):
                self._workers[name] = view
                self._mark("worker", name)
        self._forget()

    def see_expected(self, names: list[str]) -> None:
        """These workers ought to be there."""
        if names != self._expected:
            self._expected = names
            self._mark("expected", "")

    def see_broker(self, view: BrokerView) -> None:
        """The broker's figures."""
        if view != self._broker:
            self._broker = view
            self._mark("broker", "")

    def see_link(self, up: bool, now: float) -> None:
        """Whether the broker is heard."""
        if up != self._link.up:
            self._link = Link(up=up, since=now)
            self._mark("link", "")

    def _mark(self, what: str, name: str) -> None:
        self.rev += 1
        self._changed[what, name] = self.rev
        self._changed.move_to_end((what, name))

    def _forget(self) -> None:
        """Drop the oldest marks when there are many more than things: they tell of what is gone."""
        most = 2 * (self._window + len(self._workers) + 2)
        while len(self._changed) > most:
            _, self._floor = self._changed.popitem(last=False)

    # --- what is asked ------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """The tasks in the window."""
        return list(self._rows.values())

    def everything(self) -> Frame:
        """The whole window."""
        return Frame(
            at=self.rev,
            tasks=list(self._rows.values()),
            workers=list(self._workers.values()),
            broker=self._broker,
            link=self._link,
            expected=self._expected,
        )

    def since(self, rev: int) -> Frame | None:
        """What changed after `rev`; None when that is too long ago to be told."""
        if not self._floor <= rev <= self.rev:
            return None
        frame = Frame(at=self.rev)
        for (what, name), changed in reversed(self._changed.items()):
            if changed <= rev:
                break
            if what == "task":
                _sort(self._rows.get(name), name, frame.tasks, frame.gone)
            elif what == "worker":
                _sort(self._workers.get(name), name, frame.workers, frame.workers_gone)
            elif what == "broker":
                frame.broker = self._broker
            elif what == "expected":
                frame.expected = self._expected
            else:
                frame.link = self._link
        frame.tasks.reverse()  # oldest change first, as they happened
        return frame

    def nameless(self, most: int) -> list[str]:
        """Tasks in the window of which no more than a change is known, at most so many."""
        found: list[str] = []
        for row in self._rows.values():
            if len(found) == most:
                break
            if not row.kind:
                found.append(row.id)
        return found


def _sort(thing: Any, name: str, there: list[Any], gone: list[str]) -> None:
    if thing is None:
        gone.append(name)
    else:
        there.append(thing)


_Place = tuple[int, float, str]


def _place(row: Row) -> _Place:
    """Where a task stands among those that leave the window; the least leaves first."""
    if row.state in TERMINAL:
        return (0, row.ended or 0.0, row.id)
    if row.state is State.RUNNING:
        return (2, row.started or 0.0, row.id)
    return (1, row.submitted, row.id)


def _shown(view: TaskView) -> Row:
    return Row(
        id=view.id,
        kind=view.kind,
        state=view.state,
        name=view.name,
        project=view.project,
        priority=view.priority,
        worker=view.worker,
        progress=view.progress,
        metrics=view.metrics,
        submitted=view.submitted,
        started=view.started,
        ended=view.ended,
        why=view.failure.message if view.failure else "",
        gpus=view.attempts[-1].gpus if view.attempts else [],
    )


def _fold(row: Row, update: Update) -> None:
    if update.cause == "progress":
        row.progress = update.progress
        row.metrics = update.metrics or row.metrics
        return
    row.state = update.state or row.state
    row.why = "" if row.state is State.RUNNING else update.why
    if update.cause == "submit":
        row.kind, row.name = update.kind, update.name
        row.project, row.priority = update.project, update.priority
        row.submitted = update.at
    if row.state is State.RUNNING:
        row.worker, row.started, row.ended = update.worker, update.at, None
        row.progress, row.metrics, row.gpus = None, {}, update.gpus
    elif row.state in TERMINAL:
        row.ended = update.at
        row.progress = update.progress if update.progress is not None else row.progress
    else:
        row.ended = None


def _is_news(before: WorkerView, now: WorkerView) -> bool:
    if now.seen - before.seen >= STILL:
        return True
    return msgspec.structs.replace(before, seen=now.seen) != now
