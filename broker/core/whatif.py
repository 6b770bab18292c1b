"""What would happen if: one round of the real scheduler on a world that differs a little.

A `Case` is a task that does not run. `Case.round(parts)` changes a copy of the world by these parts
of a cure and lets `placement.Round` loose on it. The copy is cheap, since only what is written to
is copied: 1,000 workers and 100,000 queued tasks cost a few milliseconds beside the round itself.
Which parts are worth asking about is `broker.core.explain`'s affair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import chain, islice, takewhile
from typing import Any, NamedTuple, SupportsIndex

from msgspec import structs

from broker.core.placement import Placed, Reservation, Round, refresh, verdicts
from broker.core.queues import Lane, RequestClass
from broker.core.resources import MIB, MILLI, Admission, Amount, Booking, Health, Worker
from broker.core.state import BrokerState, TaskRecord
from corral.messages import Gpu, Part
from corral.tasks import Needs, State

#: need of a worker -> (attribute of what there is, attribute of what is used, units of one)
ROOM: dict[str, tuple[str, str, int]] = {
    "slots": ("slots", "slots_used", 1),
    "cpus": ("cpus", "cpus_used", MILLI),
    "memory_gb": ("memory", "memory_used", MIB),
}
NEW_WORKER = "a new worker"  #: no worker's name has spaces


class Outcome(NamedTuple):
    """How a round ended for the task in question."""

    started: bool
    before: list[str]  #: ids of the tasks that were placed before it
    reservations: dict[str, Reservation]  #: by worker, when its turn came
    kept: dict[str, tuple[int, TaskRecord]]  #: named resource -> how much of it, and for whom


class Case:
    """A task that does not run, in the world as it is."""

    def __init__(self, state: BrokerState, task: TaskRecord, now: float) -> None:
        self.state = state
        self.task = task
        self.now = now
        waiting = task.state is State.WAITING
        self.parents = unfinished(state, task) if waiting else []
        #: when it stands in the queue, at the earliest
        self.due = max(now, task.retry_at) if task.retry_at is not None else now
        #: what joins the queue when its parents have succeeded, or its back-off is over
        self.joining = self._joining()
        # A task that has only waited for its parents has no class of its own yet.
        own = [klass for one, klass in self.joining if one is task]
        self.klass = own[0] if own else task.klass
        classes = {klass.key: klass for _, klass in self.joining}
        classes[self.klass.key] = self.klass
        for klass in state.queue.active.values():
            if any(priority >= task.spec.priority for priority, _ in klass.lanes):
                classes.setdefault(klass.key, klass)
        self.classes = list(classes.values())
        for klass in self.classes:
            if klass.stale is None or klass.stale:
                refresh(klass, state)
        self.ahead: dict[tuple[bytes, int, str], Ahead] = {}  #: by lane
        self._able: dict[str, set[bytes]] = {}

    def _joining(self) -> list[tuple[TaskRecord, RequestClass]]:
        task = self.task
        found = [task] if task.state is State.RETRYING else []
        left: dict[str, int] = {}
        known = {parent.id for parent in self.parents}
        for parent in self.parents:
            for child in parent.children or ():
                if child.id in known or child.spec.priority < task.spec.priority:
                    continue  # it succeeds itself, or comes after the task
                if child.state is State.WAITING:
                    refs = sum(id == parent.id for id in child.spec.after.values())
                    left[child.id] = left.get(child.id, child.waiting) - refs
                    if not left[child.id]:
                        found.append(child)
        scratch = copy(self.state.queue)  # classes that are new are not to be remembered
        scratch.classes = dict(scratch.classes)
        return [
            (one, scratch.class_of(one.spec.kind, self.state.needs_of(one), one.spec.caches))
            for one in found
        ]

    @property
    def needs(self) -> Needs:
        """What the task asks for."""
        return self.klass.needs

    @property
    def bound(self) -> float:
        """When it has waited long enough for a GPU."""
        since = self.task.since if self.task.state is State.QUEUED else self.due
        return since + self.state.settings.prefer_gpu_wait

    def able(self, name: str) -> set[bytes]:
        """Keys of the classes that the machine of this worker could run as it is."""
        found = self._able.get(name)
        if found is None:
            worker = self.state.workers[name]
            found = self._able[name] = {
                klass.key
                for klass in self.classes
                if any(
                    all(
                        fact.met or fact.need == "health"
                        for fact in verdicts(klass, variant, worker, self.state.ledger, whole=True)
                    )
                    for variant in range(len(klass.needs))
                )
            }
        return found

    def round(self, parts: Sequence[Part]) -> Outcome:
        """One round, with these parts of a cure applied; among them all that it waits for."""
        then = self.now + sum(part.amount for part in parts if part.action == "wait")
        with World(self, then, parts) as world:
            return world.round()


def unfinished(state: BrokerState, task: TaskRecord) -> list[TaskRecord]:
    """The parents that a task still waits for."""
    known = (state.tasks.get(id) for id in dict.fromkeys(task.spec.after.values()))
    return [parent for parent in known if parent is not None and parent.live]


# --- the copy -------------------------------------------------------------------------


class Standing(TaskRecord):
    """A task in a copied lane: only what a round looks at."""

    __slots__ = ()

    def __init__(self, task: TaskRecord, klass: RequestClass, since: float) -> None:
        self.id = task.id
        self.spec = task.spec
        self.order = task.order
        self.since = since
        self.klass = klass
        self.lane = None


class Line(deque[TaskRecord]):
    """The tasks of a copied lane, each copied when a round first looks at it."""

    def __init__(self, lane: Lane, rest: Iterable[TaskRecord]) -> None:
        super().__init__()
        self.lane = lane
        self.rest = iter(rest)

    def __getitem__(self, index: SupportsIndex) -> TaskRecord:  # type: ignore[override]  # no slices
        while len(self) <= index.__index__():
            task = next(self.rest)
            if not isinstance(task, Standing):
                task = Standing(task, self.lane.klass, task.since)
            task.lane = self.lane
            super().append(task)
        return super().__getitem__(index)

    def append(self, task: TaskRecord) -> None:
        self.rest = chain(self.rest, (task,))

    def skip(self, count: int) -> None:
        """Pass over the first tasks."""
        self.rest = islice(self.rest, count, None)


class Ahead(NamedTuple):
    """Those of one lane that come before the task."""

    number: int
    first: list[TaskRecord]  #: the first few


class World:
    """A copy of workers, ledger and queue, in which some parts of a cure are so.

    A context manager: on leaving, it undoes its circles of references, since the broker runs
    without the collector of cycles.
    """

    def __init__(self, case: Case, then: float, parts: Sequence[Part]) -> None:
        self.case = case
        self.then = then
        real = case.state
        self.state = state = BrokerState(real.settings)
        state.catalog = real.catalog
        state.workers = dict(real.workers)
        ledger = state.ledger
        ledger.named = dict(real.ledger.named)
        ledger.named_used = dict(real.ledger.named_used)
        ledger.gpu_holder = dict(real.ledger.gpu_holder)
        ledger.gpu_seen_by = {**real.ledger.gpu_seen_by}
        ledger.bookings = dict(real.ledger.bookings)
        state.booking = real.booking
        state.queue.projects = {name: copy(one) for name, one in real.queue.projects.items()}
        state.queue.classes = {klass.key: _copied(klass) for klass in case.classes}
        self.klass = state.queue.classes[case.klass.key]
        self.own: set[str] = set()  #: workers that are copied, and so may differ
        self._lanes: list[Lane] = []
        self._before: list[str] = []
        self._started = False
        finished = frozenset(part.subject for part in parts if part.action == "finish")
        self._line_up(finished)
        for part in parts:
            _APPLY[part.action](self, part)
        for task, klass in case.joining:
            self._push(Standing(task, state.queue.classes[klass.key], case.due))
        self.lane = state.queue.classes[case.klass.key].lanes[
            case.task.spec.priority, case.task.spec.project
        ]
        for part in parts:
            if part.action == "ahead":
                self.clear(part.subject)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes:
            lane.tasks = deque()
        for klass in self.state.queue.classes.values():
            klass.lanes.clear()
            klass.bookings.clear()
        for name in self.own:
            self.state.workers[name].bookings.clear()

    def round(self) -> Outcome:
        """Let the scheduler place what it will, until it has judged the task."""
        trial = Round(self.state, self.then, self._assign)
        steps = trial.steps()
        while not self._started:
            lane, placed = next(steps)
            if lane is self.lane and not placed:
                break
        return Outcome(self._started, self._before, trial.reservations, trial.kept)

    # --- the queue ------------------------------------------------------------------------

    def _line_up(self, finished: frozenset[str]) -> None:
        """Copy the lanes that may be asked before the task's own, without `finished` tasks."""
        queue, lowest = self.state.queue, self.case.task.spec.priority
        gone = [task for task in self.case.parents if task.lane is not None]
        for real in self.case.classes:
            klass = queue.classes[real.key]
            for (priority, project), source in real.lanes.items():
                if priority < lowest:
                    continue
                lane = Lane(klass, priority, queue.projects[project])
                lane.size = source.size - sum(task.lane is source for task in gone)
                if lane.size:
                    klass.lanes[priority, project] = lane
                    self._draw(lane, _standing(source, finished))
            klass.size -= sum(task.klass is real for task in gone)
            if klass.size:
                queue.active[klass.key] = klass
        for task in gone:
            queue.projects[task.spec.project].queued -= 1

    def _push(self, task: Standing) -> None:
        self.state.queue.push(task)
        lane = task.lane
        assert lane is not None
        if not isinstance(lane.tasks, Line):
            self._draw(lane, lane.tasks)

    def _draw(self, lane: Lane, tasks: Iterable[TaskRecord]) -> None:
        lane.tasks = Line(lane, tasks)
        self._lanes.append(lane)

    def clear(self, worker: str) -> Ahead:
        """Take out all that would be asked before the task, and say who they are.

        Args:
            worker: leave those that this worker could not run; empty: all.
        """
        queue, own = self.state.queue, self.lane
        able = self.case.able(worker) if worker else None
        total, first = 0, []
        for lane in list(queue.lanes()):
            klass = lane.klass
            if able is not None and lane is not own and klass.key not in able:
                continue
            count, some = self._ahead(lane)
            total += count
            first += some
            lane.size -= count
            lane.project.queued -= count
            klass.size -= count
            if not lane.size:
                del klass.lanes[lane.priority, lane.project.name]
            else:
                _line(lane).skip(count)
        return Ahead(total, sorted(first, key=_precedence))

    def _ahead(self, lane: Lane) -> Ahead:
        """Those of a lane that come before the task; the same in every world of a case."""
        known, key = self.case.ahead, (lane.klass.key, lane.priority, lane.project.name)
        if key not in known:
            task, own, line = self.case.task, self.lane, _line(lane)
            mine, theirs = (-own.priority, own.project.time), (-lane.priority, lane.project.time)
            if theirs > mine:
                known[key] = Ahead(0, [])
            elif theirs < mine:
                known[key] = Ahead(lane.size, list(islice(line.rest, 3)))
            else:
                tasks = list(line.rest)
                line.rest = iter(tasks)
                before = _others(task) if lane is own else _older(task)
                known[key] = Ahead(sum(1 for _ in takewhile(before, tasks)), tasks[:3])
        count, first = known[key]
        return Ahead(count, first[:count])

    # --- workers and what is booked -------------------------------------------------------

    def worker(self, name: str) -> Worker:
        """A worker that may be written to."""
        if name in self.own:
            return self.state.workers[name]
        self.own.add(name)
        worker = copy(self.state.workers[name])
        self.state.workers[name] = worker
        bookings, worker.bookings = worker.bookings, {}
        for number, booking in bookings.items():
            mine = copy(booking)
            mine.worker = worker
            worker.bookings[number] = self.state.ledger.bookings[number] = mine
            klass = self._class_of(mine)
            if klass is not None and number in klass.bookings:
                klass.bookings[number] = mine
        self.state.queue.touch((name,))
        return worker

    def _class_of(self, booking: Booking) -> RequestClass | None:
        """The copy of the class that the booking may take more of."""
        return self.state.queue.classes.get(booking.klass.key) if booking.klass else None

    def _assign(self, placed: Placed) -> None:
        """Book what the round placed, as the machine does."""
        worker = self.worker(placed.worker.name)
        klass = placed.tasks[0].klass
        if placed.booking is None:
            self.state.booking += 1
            number, amount = self.state.booking, klass.amounts[placed.variant]
            booking = Booking(number, worker, placed.variant, amount, placed.gpus, self.then)
            worker.last_used = number
            if worker.native:
                booking.klass = klass
                booking.run_limit = placed.tasks[0].spec.run_limit
                klass.bookings[number] = booking
            self.state.take(booking)
        else:
            booking = worker.bookings[placed.booking.number]
        booking.open += len(placed.tasks)
        klass.held += len(placed.tasks) if booking.number in klass.bookings else 0
        for task in placed.tasks:
            self.state.queue.remove(task)
            self._started = self._started or task.id == self.case.task.id
            if not self._started:
                self._before.append(task.id)

    # --- parts ----------------------------------------------------------------------------

    def _free(self, part: Part) -> None:
        worker = self.worker(part.subject)
        if part.need != "gpus":
            _, used, unit = ROOM[part.need]
            setattr(worker, used, getattr(worker, used) - round(part.amount * unit))
            return
        ledger, amount = self.state.ledger, self.klass.amounts[part.variant]
        free = set(ledger.free_gpus(worker, amount))
        held = [gpu for gpu in large_enough(worker, amount) if gpu.uuid not in free]
        for gpu in held[: round(part.amount)]:
            ledger.gpu_holder.pop(gpu.uuid, None)
            worker.gpus = {**worker.gpus, gpu.uuid: structs.replace(gpu, foreign_gb=0.0)}
            self.state.queue.touch(ledger.gpu_seen_by[gpu.uuid])

    def _add(self, part: Part) -> None:
        worker = self.worker(part.subject)
        if part.need == "gpus":
            self._plug(worker, round(part.amount), self.case.needs[part.variant].gpu_memory_gb)
        else:
            there, _, unit = ROOM[part.need]
            setattr(worker, there, getattr(worker, there) + round(part.amount * unit))

    def _plug(self, worker: Worker, count: int, memory_gb: float) -> None:
        new = (f"{worker.name}/new-{index}" for index in range(count))
        worker.gpus = {**worker.gpus, **{uuid: Gpu(uuid, memory_gb) for uuid in new}}

    def _resume(self, part: Part) -> None:
        self.worker(part.subject).admission = Admission.OPEN

    def _revive(self, part: Part) -> None:
        self.worker(part.subject).health = Health.LIVE

    def _install(self, part: Part) -> None:
        self.worker(part.subject).kinds |= {self.klass.kind}

    def _label(self, part: Part) -> None:
        worker = self.worker(part.subject)
        name = part.need.removeprefix("label.")
        wanted = self.case.needs[part.variant].labels[name]
        worker.labels = {**worker.labels, name: wanted}

    def _named(self, part: Part) -> None:
        named = self.state.ledger.named
        named[part.subject] = named.get(part.subject, 0) + round(part.amount)
        for klass in self.state.queue.classes.values():
            if any(part.subject in amount.named for amount in klass.amounts):
                klass.stale = None  # there is more of it than there was

    def _finish(self, part: Part) -> None:
        attempt = self.case.state.tasks[part.subject].attempt
        if attempt is None:
            return
        worker = self.worker(attempt.booking.worker.name)
        booking = worker.bookings[attempt.booking.number]
        booking.open -= 1
        klass = self._class_of(booking)
        if klass is not None and booking.number in klass.bookings:
            klass.held -= 1
        if not booking.open:
            self.state.let_go(booking)
            if klass is not None:
                klass.bookings.pop(booking.number, None)

    def _add_worker(self, part: Part) -> None:
        need, amount = self.case.needs[part.variant], self.klass.amounts[part.variant]
        worker = Worker(NEW_WORKER, self.then)
        worker.health = Health.LIVE
        worker.kinds = frozenset((self.klass.kind,))
        worker.slots, worker.cpus, worker.memory = 1, amount.cpus, amount.memory
        worker.labels = need.labels
        self._plug(worker, need.gpus, need.gpu_memory_gb)
        self.state.workers[worker.name] = worker
        self.own.add(worker.name)
        self.state.queue.touch((worker.name,))

    def _later(self, part: Part) -> None:
        """`wait` is the time of the round, `ahead` comes when the queue has its final order."""


_APPLY: dict[str, Callable[[World, Part], Any]] = {
    "free": World._free,
    "add": World._add,
    "resume": World._resume,
    "revive": World._revive,
    "install": World._install,
    "label": World._label,
    "named": World._named,
    "finish": World._finish,
    "add_worker": World._add_worker,
    "ahead": World._later,
    "wait": World._later,
}


def large_enough(worker: Worker, amount: Amount) -> list[Gpu]:
    """The cards of a worker that would do if nobody used them, the smallest first."""
    fitting = [
        gpu for gpu in worker.gpus.values() if round(gpu.memory_gb * MIB) >= amount.gpu_memory
    ]
    return sorted(fitting, key=lambda gpu: (gpu.memory_gb, gpu.uuid))


def _copied(klass: RequestClass) -> RequestClass:
    mine = copy(klass)
    mine.lanes = {}
    mine.bookings = dict(klass.bookings)
    mine.fit = [dict(known) for known in klass.fit]
    mine.capable = [dict(known) for known in klass.capable]
    mine.stale = None if klass.stale is None else set(klass.stale)
    return mine


def _line(lane: Lane) -> Line:
    assert isinstance(lane.tasks, Line)  # every lane of a copy has one
    return lane.tasks


def _standing(lane: Lane, finished: frozenset[str]) -> Iterator[TaskRecord]:
    return (task for task in lane.tasks if task.lane is lane and task.id not in finished)


def _older(task: TaskRecord) -> Callable[[TaskRecord], bool]:
    return lambda other: other.order < task.order


def _others(task: TaskRecord) -> Callable[[TaskRecord], bool]:
    return lambda other: other.id != task.id


def _precedence(task: TaskRecord) -> tuple[int, int]:
    return (-task.spec.priority, task.order)
