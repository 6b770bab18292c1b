"""What was: every change that the page has shown, on disk, so that any past moment can be shown.

A memory for people and no source of truth, which is the broker's journal: a file that is lost, or a
disk that is full, costs the view of the past and nothing else. It is bounded by age and by number.

What is kept of a task is its row as it became; its place in time has its state in it, so that a
change that is told twice, after a restart, is kept once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec
from msgspec import Struct

from corral import jsons
from corral.errors import HistoryUnusable
from corral.gateway.page import WINDOW, Row
from corral.gateway.trends import Change, Depth
from corral.messages import TaskView, WorkerView
from corral.tasks import TERMINAL, State

log = logging.getLogger("corral.gateway")

MOST = 1_000_000  # changes of tasks; then the oldest go, however young
PRUNE = 60.0  # seconds between looks at what is too old
SAMPLE = 10.0  # seconds between two notes of the depth
FOREVER = 1e11  # a moment after all others
BUSY = 5_000  # ms that a reader waits for the writer

_RANK = {state: rank for rank, state in enumerate(State)}  # of two changes at one moment
_ENDED = ", ".join(f"'{state}'" for state in sorted(TERMINAL))
_SCHEMA = """
CREATE TABLE IF NOT EXISTS task
    (id TEXT, moment INTEGER, state TEXT, data BLOB, PRIMARY KEY (id, moment)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS task_moment ON task (moment);
CREATE TABLE IF NOT EXISTS worker
    (name TEXT, moment INTEGER, data BLOB, PRIMARY KEY (name, moment)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS depth (moment INTEGER PRIMARY KEY, data BLOB);
CREATE TABLE IF NOT EXISTS change (moment INTEGER, data BLOB);
"""
# What each was at a moment: the bare columns are those of the row that has the maximum.
_THEN = "SELECT id, state, data, max(moment) AS moment FROM task WHERE moment <= ? GROUP BY id"
_OLD_TASKS = f"""
DELETE FROM task WHERE moment < :horizon AND (state IN ({_ENDED}) OR EXISTS (
    SELECT 1 FROM task AS later
    WHERE later.id = task.id AND later.moment > task.moment AND later.moment <= :horizon))
"""
_OLD_WORKERS = """
DELETE FROM worker WHERE moment < :horizon AND (data IS NULL OR EXISTS (
    SELECT 1 FROM worker AS later
    WHERE later.name = worker.name AND later.moment > worker.moment AND later.moment <= :horizon))
"""


class Past(Struct, frozen=True, kw_only=True):
    """How it was at one moment: what the page would have shown."""

    at: float
    oldest: float  #: the first moment that can be shown
    tasks: list[Row]
    counts: dict[str, int]  #: state -> how many
    workers: list[WorkerView]


class Told(NamedTuple):
    """What is to be written down."""

    tasks: list[tuple[str, int, str, bytes]]
    workers: list[tuple[str, int, bytes | None]]
    others: list[tuple[str, int, bytes]]  #: table, moment, data


class History:
    """The file."""

    def __init__(self, path: Path, keep: float) -> None:
        """`keep`: seconds after which a change is forgotten.

        Raises:
            HistoryUnusable: the file cannot be written, is no history, or is damaged.
        """
        self._path = path
        self._keep = keep
        self._tasks: list[tuple[str, int, str, bytes]] = []
        self._workers: list[tuple[str, int, bytes | None]] = []
        self._others: list[tuple[str, int, bytes]] = []
        self._writing = threading.Lock()
        self._seen: dict[str, WorkerView] = {}
        self._sampled = 0.0
        self._pruned = 0.0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = apsw.Connection(str(path))
            self._connection.set_busy_timeout(BUSY)
            self._connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
            self._connection.execute(_SCHEMA)
            self._seen = {view.name: view for view in self._workers_at(_moment(FOREVER))}
            self.told()  # what is damaged is found now
        except (OSError, apsw.Error, msgspec.MsgspecError) as bad:
            raise HistoryUnusable(path=path, why=str(bad)) from None

    # --- what is told -------------------------------------------------------------------

    def see(self, row: Row, at: float) -> None:
        """A task has become this."""
        moment = _moment(at) + _RANK[row.state]
        self._tasks.append((row.id, moment, row.state.value, jsons.encode(row)))

    def see_view(self, view: TaskView, row: Row) -> None:
        """A task is this, and how it became so was not told: its times tell some of it."""
        made = msgspec.structs.replace(
            row, state=State.QUEUED, worker="", progress=None, started=None, ended=None, why=""
        )
        self.see(made, view.submitted)
        if view.started is not None:
            ran = msgspec.structs.replace(row, state=State.RUNNING, ended=None, why="")
            self.see(ran, view.started)
        if view.state in TERMINAL:
            self.see(row, view.ended or view.submitted)

    def see_workers(self, views: Sequence[WorkerView], now: float) -> None:
        """These are all workers there are. What they run follows from the tasks."""
        there = {view.name: _at_rest(view) for view in views}
        for name in self._seen.keys() - there.keys():
            self._workers.append((name, _moment(now), None))
        for name, view in there.items():
            before = self._seen.get(name)
            if before is None or msgspec.structs.replace(before, seen=view.seen) != view:
                self._workers.append((name, _moment(now), jsons.encode(view)))
        self._seen = there

    def see_depth(self, depth: Depth) -> None:
        """How many there are; some are kept."""
        if depth.at - self._sampled >= SAMPLE:
            self._sampled = depth.at
            self._others.append(("depth", _moment(depth.at), jsons.encode(depth)))

    def see_change(self, change: Change) -> None:
        """Something changed about a worker."""
        self._others.append(("change", _moment(change.at), jsons.encode(change)))

    def take(self) -> Told:
        """What was told since this was asked last."""
        told = Told(self._tasks, self._workers, self._others)
        self._tasks, self._workers, self._others = [], [], []
        return told

    def write(self, told: Told, now: float) -> None:
        """Write that down. Blocks; a disk that fails costs what was told, and is said."""
        prune = now - self._pruned > PRUNE
        if not (any(told) or prune):
            return
        try:
            with self._writing, self._connection as file:
                file.executemany("INSERT OR IGNORE INTO task VALUES (?, ?, ?, ?)", told.tasks)
                file.executemany("INSERT OR IGNORE INTO worker VALUES (?, ?, ?)", told.workers)
                for table, moment, data in told.others:
                    file.execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", (moment, data))
                if prune:
                    self._forget(now)
        except apsw.Error as bad:
            log.error("the history %s: %s", self._path, bad)

    def _forget(self, now: float) -> None:
        self._pruned = now
        file = self._connection
        beyond = "SELECT moment FROM task ORDER BY moment DESC LIMIT 1 OFFSET ?"
        too_many = file.execute(beyond, (MOST,)).get
        horizon = {"horizon": max(_moment(now - self._keep), too_many or 0)}
        file.execute(_OLD_TASKS, horizon)
        file.execute(_OLD_WORKERS, horizon)
        file.execute("DELETE FROM depth WHERE moment < :horizon", horizon)
        file.execute("DELETE FROM change WHERE moment < :horizon", horizon)

    def close(self, now: float) -> None:
        """Write down the rest, and close the file."""
        self.write(self.take(), now)
        with self._writing:  # a thread may be at it still
            self._connection.close()

    # --- what is asked ------------------------------------------------------------------

    def past(self, at: float) -> Past:
        """How it was. Blocks, and may be called in a thread of its own."""
        until = _moment(at) + len(_RANK)
        with closing(apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)) as file:
            file.set_busy_timeout(BUSY)
            with file:  # one moment for all questions
                first = f"ORDER BY state IN ({_ENDED}), moment DESC LIMIT {WINDOW}"
                found = file.execute(f"SELECT data FROM ({_THEN}) {first}", (until,))
                tasks = [msgspec.json.decode(data, type=Row) for (data,) in found]
                counted = f"SELECT state, count(*) FROM ({_THEN}) GROUP BY state"
                rows: Any = file.execute(counted, (until,)).fetchall()
                counts: dict[str, int] = dict(rows)
                oldest = file.execute("SELECT min(moment) FROM depth").get
                workers = [*self._workers_at(until, file)]
        return Past(
            at=at,
            oldest=at if oldest is None else oldest / _STEPS,
            tasks=tasks,
            counts=counts,
            workers=_at_work(workers, tasks),
        )

    def told(self) -> tuple[list[Depth], list[Change], list[WorkerView] | None]:
        """Every depth and change that is known, and the last workers; None of a new file."""
        depths: Any
        changes: Any
        depths, changes = (
            self._connection.execute(f"SELECT data FROM {table} ORDER BY moment").fetchall()
            for table in ("depth", "change")
        )
        return (
            [msgspec.json.decode(data, type=Depth) for (data,) in depths],
            [msgspec.json.decode(data, type=Change) for (data,) in changes],
            [*self._seen.values()] if depths else None,
        )

    def _workers_at(self, until: int, file: apsw.Connection | None = None) -> Iterator[WorkerView]:
        then = "SELECT data, max(moment) FROM worker WHERE moment <= ? GROUP BY name ORDER BY name"
        for data, _ in (file or self._connection).execute(then, (until,)):
            if data is not None:
                yield msgspec.json.decode(data, type=WorkerView)


_STEPS = 16_000_000  # moments in a second: microseconds, and room for a rank


def _moment(at: float) -> int:
    return int(at * 1e6) * 16


def _at_rest(view: WorkerView) -> WorkerView:
    """A worker without what changes with each task."""
    rests = "available" if view.status == "busy" else view.status
    return msgspec.structs.replace(
        view,
        status=rests,
        slots_used=0,
        cpus_used=0.0,
        memory_gb_used=0.0,
        tasks=[],
        caches=[],
        gpus=[msgspec.structs.replace(gpu, holder="", foreign_gb=0.0) for gpu in view.gpus],
    )


def _at_work(workers: Sequence[WorkerView], tasks: Sequence[Row]) -> list[WorkerView]:
    """Workers with what they ran."""
    running: dict[str, list[Row]] = {}
    for row in tasks:
        if row.state is State.RUNNING:
            running.setdefault(row.worker, []).append(row)
    return [_holding(view, running.get(view.name, [])) for view in workers]


def _holding(view: WorkerView, rows: Sequence[Row]) -> WorkerView:
    holders = {uuid: row.id for row in rows for uuid in row.gpus}
    full = len(rows) >= view.slots and view.status == "available"
    changed: dict[str, Any] = {
        "status": "busy" if full else view.status,
        "slots_used": len(rows),
        "tasks": [row.id for row in rows],
        "gpus": [
            msgspec.structs.replace(gpu, holder=holders.get(gpu.uuid, "")) for gpu in view.gpus
        ],
    }
    return msgspec.structs.replace(view, **changed)
