"""Who is next: request classes, lanes, and fair shares between projects.

Tasks with equal kind, needs and caches form a request class: what holds for one of them holds for
all, so the scheduler asks about classes, never about single tasks. Inside a class each (priority,
project) has a lane, first come first served. Which worker a class gets is decided in
`broker.core.placement`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from broker.core.resources import Amount, Booking, Worker
from corral.tasks import Needs, State

if TYPE_CHECKING:
    from broker.core.state import TaskRecord

_UNKNOWN_SECONDS = 1.0  # assumed run time of a class nobody has run, for shares alone
_ENOUGH = 5  # samples before an estimate is believed
_FORGET = 0.1  # weight of the newest sample
_SPARE = 64  # tasks that have left and still stand in a lane, beside as many as are queued there


class Estimate:
    """Learned run time of one variant of one class."""

    __slots__ = ("count", "mean")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0

    def learn(self, seconds: float) -> None:
        """Take one sample in: the plain mean at first, then an exponential one."""
        if not 0.0 <= seconds < 1e9:
            return  # no time that anything could take
        self.count += 1
        self.mean += (seconds - self.mean) * max(_FORGET, 1.0 / self.count)

    @property
    def seconds(self) -> float | None:
        """Expected run time; None while too little is known."""
        return self.mean if self.count >= _ENOUGH else None


class Project:
    """One party to the fair share. `time` is its virtual time: work received over weight."""

    __slots__ = ("name", "queued", "time", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.time = 0.0
        self.queued = 0


class Lane:
    """The tasks of one class, priority and project, in order."""

    __slots__ = ("klass", "priority", "project", "size", "tasks")

    def __init__(self, klass: RequestClass, priority: int, project: Project) -> None:
        self.klass = klass
        self.priority = priority
        self.project = project
        self.tasks: deque[TaskRecord] = deque()
        self.size = 0  #: tasks that are still queued; the deque may hold others, skipped on the way

    def tidy(self) -> None:
        """Drop entries of tasks that have left, so that one who comes back stands here once."""
        self.tasks = deque(task for task in self.tasks if task.lane is self)

    def head(self) -> TaskRecord:
        """The next task. Call it only while `size` is above 0."""
        tasks = self.tasks
        while tasks[0].lane is not self:
            tasks.popleft()
        return tasks[0]


class RequestClass:
    """What tasks that ask for the same have in common."""

    __slots__ = (
        "amounts", "bookings", "caches", "capable", "estimates", "fit", "held", "key", "kind",
        "lanes", "needs", "reserved", "size", "stale",
    )  # fmt: skip

    def __init__(self, key: bytes, kind: str, needs: Needs, caches: tuple[str, ...]) -> None:
        self.key = key
        self.kind = kind
        self.needs = needs
        self.caches = frozenset(caches)
        self.amounts = tuple(Amount(variant) for variant in needs)
        self.estimates = tuple(Estimate() for _ in needs)
        self.lanes: dict[tuple[int, str], Lane] = {}
        self.size = 0
        self.bookings: dict[int, Booking] = {}  #: of this class, to which more may be added
        self.held = 0  #: attempts that are open in these bookings
        # What fits, kept between turns: per variant the workers that fit now, and those whose
        # whole machine would. `stale` names workers to ask again; None means ask all.
        self.fit: list[dict[str, Worker]] = [{} for _ in needs]
        self.capable: list[dict[str, Worker]] = [{} for _ in needs]
        self.stale: set[str] | None = None
        self.reserved: tuple[str, int, float] | None = None  #: worker, variant, until when it holds

    @property
    def wants_gpu(self) -> bool:
        """Whether its first choice is a GPU."""
        return self.needs[0].gpus > 0

    def cost(self, variant: int) -> float:
        """Share that one task uses up, in core-seconds; a GPU counts as eight cores."""
        need, estimate = self.needs[variant], self.estimates[variant].seconds
        return max(need.cpus + 8.0 * need.gpus, 0.1) * (
            _UNKNOWN_SECONDS if estimate is None else estimate
        )


class Queue:
    """All queued tasks."""

    MAX_CLASSES = 4096  # classes remembered for their estimates when nothing of them is queued

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.classes: dict[bytes, RequestClass] = {}
        self.active: dict[bytes, RequestClass] = {}
        self.projects: dict[str, Project] = {}
        self.size = 0
        self.changed = False  #: something may be placeable that was not before

    def class_of(self, kind: str, needs: Needs, caches: tuple[str, ...]) -> RequestClass:
        """The class of tasks that ask for this."""
        key = msgspec.msgpack.encode((kind, needs, caches))
        klass = self.classes.get(key)
        if klass is None:
            if len(self.classes) >= self.MAX_CLASSES:
                self._forget()
            klass = self.classes[key] = RequestClass(key, kind, needs, caches)
        return klass

    def _forget(self) -> None:
        idle = [key for key, klass in self.classes.items() if not klass.size and not klass.bookings]
        for key in idle[: self.MAX_CLASSES // 2]:
            del self.classes[key]

    def push(self, task: TaskRecord, first: bool = False) -> None:
        """Queue a task, at the end of its lane, or `first` when it was at its head before."""
        klass = task.klass
        spec = task.spec
        lane = klass.lanes.get((spec.priority, spec.project))
        if lane is None:
            lane = klass.lanes[spec.priority, spec.project] = Lane(
                klass, spec.priority, self._project(spec.project)
            )
        if len(lane.tasks) > lane.size and (task.made or task.run > 1):
            lane.tidy()  # it may have left an entry behind
        if first:
            lane.tasks.appendleft(task)
        else:
            lane.tasks.append(task)
        task.lane = lane
        lane.size += 1
        project = lane.project
        if not project.queued:
            # Who comes back after a pause has no claim on the time it was away.
            times = [p.time for p in self.projects.values() if p.queued]
            project.time = max(project.time, min(times, default=project.time))
        project.queued += 1
        if not klass.size:
            self.active[klass.key] = klass
        klass.size += 1
        self.size += 1
        self.changed = True

    def _project(self, name: str) -> Project:
        project = self.projects.get(name)
        if project is None:
            project = self.projects[name] = Project(name, max(self.weights.get(name, 1.0), 1e-6))
        return project

    def remove(self, task: TaskRecord) -> None:
        """Take a task out, wherever it stands in its lane."""
        self.changed = True  # something may have been kept for it
        lane = task.lane
        assert lane is not None
        task.lane = None
        lane.size -= 1
        lane.project.queued -= 1
        klass = lane.klass
        klass.size -= 1
        self.size -= 1
        if lane.tasks[0] is task:
            lane.tasks.popleft()
        if not lane.size:
            del klass.lanes[lane.priority, lane.project.name]
            if not lane.project.queued and len(self.projects) > self.MAX_CLASSES:
                del self.projects[lane.project.name]
        elif len(lane.tasks) > 2 * lane.size + _SPARE:
            lane.tidy()  # who waits at its head may wait for days
        if not klass.size:
            del self.active[klass.key]

    def put_in_order(self) -> None:
        """First come, first served, after tasks were loaded in any order."""
        for lane in self.lanes():
            lane.tidy()
            lane.tasks = deque(sorted(lane.tasks, key=lambda task: task.order))

    def lanes(self) -> Iterator[Lane]:
        """Every lane that holds a task."""
        for klass in self.active.values():
            yield from klass.lanes.values()

    def touch(self, names: Iterable[str]) -> None:
        """These workers changed: every class asks about them again."""
        self.changed = True
        for klass in self.classes.values():
            if klass.stale is not None:
                klass.stale.update(names)

    def check(self) -> None:
        """Sizes agree with what is queued, and nothing is queued twice."""
        seen: set[str] = set()
        for klass in self.classes.values():
            assert (klass.key in self.active) == bool(klass.size)
            assert klass.size == sum(lane.size for lane in klass.lanes.values())
            assert klass.held == sum(booking.open for booking in klass.bookings.values())
            for lane in klass.lanes.values():
                alive = {task.id for task in lane.tasks if task.lane is lane}
                assert lane.size == len(alive) > 0
                assert all(t.state is State.QUEUED for t in lane.tasks if t.lane is lane)
                assert not alive & seen
                seen |= alive
        assert self.size == len(seen)
        queued: dict[str, int] = {}
        for lane in self.lanes():
            queued[lane.project.name] = queued.get(lane.project.name, 0) + lane.size
        assert queued == {p.name: p.queued for p in self.projects.values() if p.queued}
