"""What was over time: how many tasks were where, what a task told, what changed among workers.

Pure, and bounded: a trend keeps so many points, and when these are too many, every other one; so
it reaches back to its beginning, ever more coarsely. The broker keeps none of this: it is what
this gateway has seen since it started, and what its history remembers.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from corral.messages import BrokerView, Update, WorkerView

POINTS = 480  # of one trend
CURVES = 200  # tasks whose progress is remembered: those that told some last
FIGURES = 12  # metrics of one task
CHANGES = 1_000  # among workers

P = TypeVar("P")


class Depth(Struct, frozen=True, kw_only=True):
    """How many there were at one moment."""

    at: float
    tasks: dict[str, int]  #: state -> how many
    workers: dict[str, int]  #: status -> how many


class Told(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task told of itself at one moment."""

    at: float
    progress: float | None = None
    metrics: dict[str, float] = {}


class Change(Struct, frozen=True, kw_only=True):
    """Something changed about a worker."""

    at: float
    worker: str
    what: str  #: here, gone, started again, or what it has become: drained, version 1.2, ...
    why: str = ""


class Trend(Generic[P]):
    """Points in the order of time."""

    def __init__(self, most: int = POINTS) -> None:
        self._most = most
        self._kept: list[P] = []
        self._step = 1  #: of so many that come one is kept
        self._came = 0
        self._rest: list[P] = []  #: the newest, when it is not kept

    def add(self, point: P) -> None:
        """One more, newer than all others."""
        self._rest = [point]
        if self._came % self._step == 0:
            self._kept.append(point)
            self._rest = []
        self._came += 1
        if len(self._kept) > self._most:
            self._rest = [] if len(self._kept) % 2 else self._kept[-1:]
            self._kept = self._kept[::2]
            self._step *= 2

    def points(self) -> list[P]:
        """All that is kept, and the newest."""
        return self._kept + self._rest


class Trends:
    """Everything that this gateway remembers."""

    def __init__(
        self,
        depths: Iterable[Depth] = (),
        changes: Iterable[Change] = (),
        workers: Iterable[WorkerView] | None = None,
    ) -> None:
        """What was before this gateway started; no `workers` when nothing is known of then."""
        self.depth: Trend[Depth] = Trend()
        for depth in depths:
            self.depth.add(depth)
        self.changes: deque[Change] = deque(changes, maxlen=CHANGES)
        self._workers = None if workers is None else {view.name: view for view in workers}
        self._curves: OrderedDict[str, Trend[Told]] = OrderedDict()

    def see(self, view: BrokerView, now: float) -> Depth:
        """The broker's figures, now."""
        depth = Depth(at=now, tasks=view.tasks, workers=view.workers)
        self.depth.add(depth)
        return depth

    def see_workers(self, views: Sequence[WorkerView], now: float) -> list[Change]:
        """These are all workers there are; gives what changed. A first look finds no change."""
        before = self._workers
        there = {view.name: _known(view, before or {}) for view in views}
        self._workers = there
        if before is None:
            return []
        gone = [Change(at=now, worker=name, what="gone") for name in sorted(before.keys() - there)]
        found = [
            Change(at=now, worker=name, what=what, why=why)
            for name, view in there.items()
            for what, why in _differences(before.get(name), view)
        ]
        self.changes += gone + found
        return gone + found

    def fold(self, update: Update) -> None:
        """Something happened to a task."""
        if update.cause != "progress":
            return
        figures = dict(list(update.metrics.items())[:FIGURES])
        point = Told(at=update.at, progress=update.progress, metrics=figures)
        self._curves.setdefault(update.id, Trend()).add(point)
        self._curves.move_to_end(update.id)
        if len(self._curves) > CURVES:
            self._curves.popitem(last=False)

    def curve(self, id: str) -> list[Told]:
        """What a task has told; nothing when that is unknown or was long ago."""
        found = self._curves.get(id)
        return found.points() if found is not None else []


def _known(view: WorkerView, before: Mapping[str, WorkerView]) -> WorkerView:
    """A worker with what was known of it: to a new broker it is a name until it is heard."""
    known = before.get(view.name)
    if known is None or view.incarnation or view.dialect != known.dialect:
        return view
    return msgspec.structs.replace(view, incarnation=known.incarnation, about=known.about)


def _differences(before: WorkerView | None, now: WorkerView) -> list[tuple[str, str]]:
    """What about a worker is news, and why it is so."""
    if before is None:
        return [("here", version_of(now))]
    found = []
    if now.incarnation != before.incarnation:
        found.append(("started again", ""))
    if version_of(now) != version_of(before):
        found.append((f"version {version_of(now)}", f"it was {version_of(before)}"))
    if now.health != before.health:
        found.append((now.health, ""))
    if now.admission != before.admission:
        who = f"by {now.drained_by}" if now.drained_by else ""
        why = "" if now.admission == "open" else ", ".join(filter(None, (now.drain_reason, who)))
        found.append((now.admission, why))
    return found


def version_of(view: WorkerView) -> str:
    """The version of Corral that a worker is; the dialect of one that is none of ours."""
    return view.about.get("corral", view.dialect)
