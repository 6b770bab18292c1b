"""Where a task goes, and why it goes nowhere: one predicate for placing and for explaining.

`verdicts` yields what was wanted and what is there. The scheduler asks whether all are met, for
classes and candidates; `corral task explain` shows them for every worker. Pure functions over the
state; the order in which tasks are asked about is `Round`'s, below.

The rules of one round:
- Lanes are asked in the order of priority (strict), share of the project, age.
- A class that cannot start is blocked for the round. The worker that frees first is reserved for
  it: what comes later may use that worker only if it ends before, or fits beside it. What one task
  of it wants of the named resources is kept for it, too.
- The GPU variant is taken when a GPU is free; the CPU variant when it would finish earlier, when
  the bounded wait is over, or when no worker has a GPU at all.
- A slot may hold some work of its class and run limit in advance (the run-queue), unless something
  that was blocked earlier in the round could use that worker.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

from broker.core.queues import Lane, RequestClass
from broker.core.resources import MIB, MILLI, Booking, Health, Ledger, Worker
from broker.core.state import BrokerState, TaskRecord

MAX_RUN_QUEUE = 2048  # attempts one slot may hold: about 20 ms of the shortest ones
_HOLD = 5.0  # seconds a reservation stays with the worker it chose


class Fact(NamedTuple):
    """One need against one worker."""

    need: str
    wanted: str | float
    has: str | float
    met: bool


def verdicts(
    klass: RequestClass, variant: int, worker: Worker, ledger: Ledger, whole: bool = False
) -> Iterator[Fact]:
    """What `variant` wants of `worker` and what is there.

    Args:
        whole: judge the whole machine and fleet, as if nothing were in use.
    """
    yield from on_worker(klass, variant, worker, ledger, whole)
    yield from fleet_wide(klass, variant, ledger, whole)


def on_worker(
    klass: RequestClass, variant: int, worker: Worker, ledger: Ledger, whole: bool = False
) -> Iterator[Fact]:
    """The part of `verdicts` that differs from worker to worker."""
    amount, need = klass.amounts[variant], klass.needs[variant]
    served = klass.kind in worker.kinds
    lack = worker.lacks.get(klass.kind)
    there = klass.kind if served else f"lacks {lack}" if lack else "not installed"
    yield Fact("kind", klass.kind, there, served)
    alive = worker.health is Health.LIVE or (whole and worker.health is Health.SUSPECT)
    yield Fact("health", "live", worker.health, alive)
    if not whole:
        yield Fact("admission", "open", worker.admission, worker.admission == "open")
    slots = worker.slots - (0 if whole else worker.slots_used)
    yield Fact("slots", 1, slots, slots >= 1)
    if amount.cpus:
        cpus = worker.cpus - (0 if whole else worker.cpus_used)
        yield Fact("cpus", need.cpus, cpus / MILLI, cpus >= amount.cpus)
    if amount.memory:
        memory = worker.memory - (0 if whole else worker.memory_used)
        yield Fact("memory_gb", need.memory_gb, memory / MIB, memory >= amount.memory)
    if amount.gpus:
        if whole:
            free = sum(round(g.memory_gb * MIB) >= amount.gpu_memory for g in worker.gpus.values())
        else:
            free = len(ledger.free_gpus(worker, amount))
        yield Fact("gpus", need.gpus, free, free >= amount.gpus)
    for label, value in need.labels.items():
        there = worker.labels.get(label, "")
        yield Fact(f"label.{label}", value, there, there == value)


def fleet_wide(
    klass: RequestClass, variant: int, ledger: Ledger, whole: bool = False
) -> Iterator[Fact]:
    """The part of `verdicts` that is the same for every worker."""
    for name, count in klass.amounts[variant].named.items():
        there_is = ledger.named.get(name, 0) if whole else ledger.named_free(name)
        yield Fact(f"named.{name}", count, there_is, there_is >= count)


def refresh(klass: RequestClass, state: BrokerState) -> None:
    """Bring the class's lists of workers that fit up to date."""
    names = state.workers.keys() if klass.stale is None else klass.stale
    if klass.stale is None:
        for lists in (klass.fit, klass.capable):
            for known in lists:
                known.clear()
    ledger = state.ledger
    for name in names:
        worker = state.workers.get(name)
        for variant in range(len(klass.needs)):
            now, ever = klass.fit[variant], klass.capable[variant]
            if worker is not None and all(
                fact.met for fact in on_worker(klass, variant, worker, ledger)
            ):
                now[name] = worker
            else:
                now.pop(name, None)
            if worker is not None and all(
                fact.met for fact in verdicts(klass, variant, worker, ledger, whole=True)
            ):
                ever[name] = worker
            else:
                ever.pop(name, None)
    klass.stale = set()


# --- which of those that fit ----------------------------------------------------------


def _load(worker: Worker) -> float:
    """Share of the machine that is in use, by its scarcest part."""
    return max(
        worker.slots_used / (worker.slots or 1),
        worker.cpus_used / (worker.cpus or 1),
        worker.memory_used / (worker.memory or 1),
    )


def _best_fit(klass: RequestClass, variant: int, worker: Worker) -> Cost:
    """The worker with the least left over; one with GPUs only when the task wants them."""
    amount = klass.amounts[variant]
    left = 0.0
    if worker.cpus:
        left += (worker.cpus - worker.cpus_used - amount.cpus) / worker.cpus
    if worker.memory:
        left += (worker.memory - worker.memory_used - amount.memory) / worker.memory
    left += (worker.slots - worker.slots_used - 1) / (worker.slots or 1)
    return (_gpu_manners(klass, variant, worker), left, worker.last_used, worker.name)


def _least_loaded(klass: RequestClass, variant: int, worker: Worker) -> Cost:
    return (_gpu_manners(klass, variant, worker), _load(worker), worker.last_used, worker.name)


def _round_robin(klass: RequestClass, variant: int, worker: Worker) -> Cost:
    return (_gpu_manners(klass, variant, worker), worker.last_used, worker.name)


def _affinity(klass: RequestClass, variant: int, worker: Worker) -> Cost:
    """The worker that holds most of the data; among equals, the least loaded."""
    held = len(klass.caches & worker.caches)
    return (
        _gpu_manners(klass, variant, worker), -held, _load(worker), worker.last_used, worker.name
    )  # fmt: skip


def _gpu_manners(klass: RequestClass, variant: int, worker: Worker) -> float:
    """Keep machines with GPUs free of work that wants none, while others will do."""
    return 1.0 if worker.gpus and not klass.amounts[variant].gpus else 0.0


Cost = tuple[float | str, ...]  #: less is better; the name is last, so that no two are equal
Score = Callable[[RequestClass, int, Worker], Cost]
STRATEGIES: dict[str, Score] = {
    "resource_aware": _best_fit,
    "least_loaded": _least_loaded,
    "round_robin": _round_robin,
    "affinity": _affinity,
}


def score_of(klass: RequestClass, state: BrokerState) -> Score:
    """The strategy of the class's kind; an unknown name means the default."""
    entry = state.catalog.get(klass.kind)
    name = entry.kind.strategy if entry else "resource_aware"
    return STRATEGIES.get(name, _best_fit)


# --- reservations ---------------------------------------------------------------------


class Reservation:
    """A worker that a blocked class gets when it frees."""

    __slots__ = ("at", "cpus", "klass", "memory", "slots", "task", "worker")

    def __init__(self, klass: RequestClass, task: TaskRecord, worker: Worker, at: float) -> None:
        self.klass = klass
        self.task = task
        self.worker = worker
        self.at = at  #: when it is expected to fit; infinity when nobody knows
        self.slots = self.cpus = self.memory = 0  #: what it will leave beside it

    @property
    def rank(self) -> tuple[float, float, str]:
        """Sooner is better; among equals, the emptier machine."""
        return (self.at, _load(self.worker), self.worker.name)

    def admits(self, klass: RequestClass, variant: int, now: float) -> bool:
        """Whether a later task may use the reserved worker: it ends before, or fits beside."""
        seconds = klass.estimates[variant].seconds
        if seconds is not None and now + seconds <= self.at < float("inf"):
            return True
        amount = klass.amounts[variant]
        return (
            amount.gpus == 0
            and self.slots >= 1
            and self.cpus >= amount.cpus
            and self.memory >= amount.memory
        )

    def place_beside(self, klass: RequestClass, variant: int) -> None:
        """One more task runs beside it."""
        amount = klass.amounts[variant]
        self.slots -= 1
        self.cpus -= amount.cpus
        self.memory -= amount.memory


def frees_at(booking: Booking, now: float) -> float:
    """When a booking is expected to end; infinity when nobody knows."""
    klass = booking.klass
    seconds = klass.estimates[booking.variant].seconds if klass is not None else None
    return float("inf") if seconds is None else max(now, booking.began + seconds * booking.open)


def reserve(
    klass: RequestClass, variant: int, task: TaskRecord, state: BrokerState, now: float
) -> Reservation | None:
    """The worker on which the class can start first, and what it will leave beside it.

    The choice holds for some seconds, so that a blocked class does not chase from worker to worker;
    None when no worker would do, or when what is missing is not a worker's to give.
    """
    if not all(fact.met for fact in fleet_wide(klass, variant, state.ledger)):
        return None
    if klass.reserved is not None and klass.reserved[1] == variant and now < klass.reserved[2]:
        worker = klass.capable[variant].get(klass.reserved[0])
        if worker is not None and worker.open:
            found = _reserve_on(worker, klass, variant, task, state, now)
            if found is not None:
                return found
    best: Reservation | None = None
    for worker in klass.capable[variant].values():
        if not worker.open:
            continue
        found = _reserve_on(worker, klass, variant, task, state, now)
        if found is not None and (best is None or found.rank < best.rank):
            best = found
    if best is not None:
        klass.reserved = (best.worker.name, variant, now + _HOLD)
    return best


def _reserve_on(
    worker: Worker,
    klass: RequestClass,
    variant: int,
    task: TaskRecord,
    state: BrokerState,
    now: float,
) -> Reservation | None:
    """When `worker` could take the class if nothing else came; None when it never could."""
    amount = klass.amounts[variant]
    slots = worker.slots - worker.slots_used
    cpus = worker.cpus - worker.cpus_used
    memory = worker.memory - worker.memory_used
    gpus = len(state.ledger.free_gpus(worker, amount)) if amount.gpus else 0
    at = now
    ending = sorted((frees_at(b, now), b.number) for b in worker.bookings.values())
    for ends, number in [*ending, (at, 0)]:
        if slots >= 1 and cpus >= amount.cpus and memory >= amount.memory and gpus >= amount.gpus:
            reservation = Reservation(klass, task, worker, at)
            reservation.slots = slots - 1
            reservation.cpus = cpus - amount.cpus
            reservation.memory = memory - amount.memory
            return reservation
        if number:
            freed = worker.bookings[number]
            at = ends
            slots += 1
            cpus += freed.amount.cpus
            memory += freed.amount.memory
            gpus += len(freed.gpus)
    return None


# --- one round ------------------------------------------------------------------------


class Placed(NamedTuple):
    """Tasks that go to a worker together."""

    tasks: list[TaskRecord]
    worker: Worker
    variant: int
    gpus: list[str]
    booking: Booking | None  #: an existing one they are added to
    decision: str


class Round:
    """One pass over the queue. `assign` books what was placed, so that the next sees it."""

    def __init__(self, state: BrokerState, now: float, assign: Callable[[Placed], None]) -> None:
        self.state = state
        self.now = now
        self.assign = assign
        self._reservations: dict[str, Reservation] = {}
        self._unreserved: list[tuple[RequestClass, TaskRecord]] = []  #: blocked since
        #: named resource -> how much of it blocked classes wait for, and the first such task
        self.kept: dict[str, tuple[int, TaskRecord]] = {}
        self.blocked: dict[RequestClass, None] = {}  #: in the order in which they were asked
        self.heap: list[tuple[int, float, int, Lane]] = []
        self.again: float | None = None  #: when waiting for a GPU ends for somebody

    @property
    def reservations(self) -> dict[str, Reservation]:
        """Worker -> the first class it is reserved for. Made when somebody could use a worker:
        in a full fleet nobody can, and looking for the worker that frees first is dear."""
        pending, self._unreserved = self._unreserved, []
        for klass, task in pending:
            for variant in range(len(klass.needs)):
                if self._keep(klass, variant, task):
                    break
        return self._reservations

    def _keep(self, klass: RequestClass, variant: int, task: TaskRecord) -> bool:
        """Keep what a blocked class waits for: a worker, and what it wants of the whole fleet."""
        if not any(worker.open for worker in klass.capable[variant].values()):
            return False
        for name, count in klass.amounts[variant].named.items():
            already, first = self.kept.get(name, (0, task))
            self.kept[name] = (already + count, first)
        reservation = reserve(klass, variant, task, self.state, self.now)
        if reservation is not None:
            self._reservations.setdefault(reservation.worker.name, reservation)
        return True

    def run(self) -> None:
        """Place everything that can be placed now."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[tuple[Lane, bool]]:
        """The same, one step at a time: each lane that was asked, and whether its head went."""
        heap = self.heap
        heap.extend(self._key(lane) for lane in self.state.queue.lanes())
        heapq.heapify(heap)
        while heap:
            entry = heapq.heappop(heap)
            lane = entry[-1]
            fresh = self._key(lane)
            if fresh[:-1] > entry[:-1]:
                heapq.heappush(heap, fresh)  # its project has received work since
                continue
            placed = not self._shut(lane.klass) and self._one(lane)
            yield lane, placed
            if not placed:
                self._block(lane)
            elif lane.size:
                heapq.heappush(heap, self._key(lane))

    @staticmethod
    def _key(lane: Lane) -> tuple[int, float, int, Lane]:
        # The order of a head is unique, so two entries never compare their lanes.
        return (-lane.priority, lane.project.time, lane.head().order, lane)

    def _shut(self, klass: RequestClass) -> bool:
        """Whether none of a class can start in this round, since one before it could not.

        Tasks that prefer a GPU have waited for one for different times, so each is asked.
        """
        return klass in self.blocked and not klass.wants_gpu

    def _one(self, lane: Lane) -> bool:
        """Place the head of a lane, with what the run-queue takes behind it."""
        klass = lane.klass
        if klass.stale is None or klass.stale:
            refresh(klass, self.state)
        task = lane.head()
        for variant in range(len(klass.needs)):
            if variant and not self._may_fall_back(klass, variant, task):
                return False
            worker = self._pick(klass, variant)
            if worker is not None:
                self._start(lane, variant, worker, task)
                return True
            if self._refill(lane, variant):
                return True
        return False

    def _pick(self, klass: RequestClass, variant: int) -> Worker | None:
        candidates = klass.fit[variant]
        if not candidates:
            return None
        reservations = self.reservations
        if klass.amounts[variant].named and not self._shared(klass, variant):
            return None
        if reservations:
            allowed = [w for w in candidates.values() if self._allowed(w, klass, variant)]
        else:
            allowed = list(candidates.values())
        if len(allowed) <= 1:
            return allowed[0] if allowed else None
        score = score_of(klass, self.state)
        return min(allowed, key=lambda worker: score(klass, variant, worker))

    def _shared(self, klass: RequestClass, variant: int) -> bool:
        """Whether what it wants of the whole fleet is there, and kept for nobody."""
        free, kept = self.state.ledger.named_free, self.kept
        return all(
            free(name) - (kept[name][0] if name in kept else 0) >= count
            for name, count in klass.amounts[variant].named.items()
        )

    def _allowed(self, worker: Worker, klass: RequestClass, variant: int) -> bool:
        reservation = self._reservations.get(worker.name)
        return reservation is None or reservation.admits(klass, variant, self.now)

    def _may_fall_back(self, klass: RequestClass, variant: int, task: TaskRecord) -> bool:
        """Whether a later variant may be taken: the GPU rule of the header."""
        first = klass.needs[0]
        if not first.gpus or klass.needs[variant].gpus:
            return True
        return bool(self._reason_to_fall_back(klass, variant, task))

    def _reason_to_fall_back(self, klass: RequestClass, variant: int, task: TaskRecord) -> str:
        if not any(worker.open for worker in klass.capable[0].values()):
            return "no open worker has such a GPU"
        limit = self.state.settings.prefer_gpu_wait
        waited = self.now - task.since
        if waited >= limit:
            return f"waited {waited:.0f} s for a GPU, the bound is {limit:.0f} s"
        due = task.since + limit
        self.again = due if self.again is None else min(self.again, due)
        gpu, cpu = klass.estimates[0].seconds, klass.estimates[variant].seconds
        if gpu is None or cpu is None:
            return ""
        reservation = reserve(klass, 0, task, self.state, self.now)
        if reservation is None or reservation.at == float("inf"):
            return ""  # nobody knows when a GPU will be free: only the bound ends the wait
        wait = reservation.at - self.now
        if cpu < wait + gpu:
            return f"CPU takes {cpu:.1f} s, a GPU {gpu:.1f} s after {wait:.1f} s of waiting"
        return ""

    def _start(self, lane: Lane, variant: int, worker: Worker, task: TaskRecord) -> None:
        klass = lane.klass
        if klass.reserved is not None and klass.reserved[0] == worker.name:
            klass.reserved = None  # it has what was kept for it
        amount = klass.amounts[variant]
        gpus = self.state.ledger.free_gpus(worker, amount)[: amount.gpus] if amount.gpus else []
        beside = self._reservations.get(worker.name)
        if beside is not None:
            beside.place_beside(klass, variant)
        depth = self._depth(klass, variant) if worker.native else 1
        tasks = self._take(lane, variant, depth)
        decision = self._decision(klass, variant, task, beside)
        self.assign(Placed(tasks, worker, variant, gpus, None, decision))

    def _decision(
        self, klass: RequestClass, variant: int, task: TaskRecord, beside: Reservation | None
    ) -> str:
        words = []
        if klass.wants_gpu and variant and not klass.needs[variant].gpus:
            words.append(self._reason_to_fall_back(klass, variant, task))
        elif variant:
            words.append(f"variant {variant}: the ones before it fit nowhere")
        if beside is not None:
            words.append(f"fills a gap before {beside.task.id}")
        return "; ".join(words)

    def _take(self, lane: Lane, variant: int, count: int) -> list[TaskRecord]:
        """The next tasks of a lane, up to `count` of one run limit, charged to its project."""
        klass = lane.klass
        tasks = [lane.head()]
        if count > 1:
            run_limit = tasks[0].spec.run_limit
            entries = lane.tasks
            limit = min(count, lane.size)
            index = 1
            while len(tasks) < limit:
                task = entries[index]
                index += 1
                if task.lane is lane:
                    if task.spec.run_limit != run_limit:
                        break  # a worker has one limit for all that it holds in a slot
                    tasks.append(task)
        project = lane.project
        project.time += klass.cost(variant) * len(tasks) / project.weight
        return tasks

    def _depth(self, klass: RequestClass, variant: int) -> int:
        """How many tasks one slot may hold: about `run_queue` seconds, shared fairly."""
        seconds = klass.estimates[variant].seconds
        if seconds is None:
            return 1
        depth = min(MAX_RUN_QUEUE, int(self.state.settings.run_queue / max(seconds, 1e-6)))
        slots = len(klass.bookings) + len(klass.fit[variant])
        return max(1, min(depth, -(-(klass.size + klass.held) // max(slots, 1))))

    def _refill(self, lane: Lane, variant: int) -> bool:
        """Add to a booking of the class that runs low."""
        klass = lane.klass
        depth = self._depth(klass, variant)
        if depth == 1:
            return False
        run_limit = lane.head().spec.run_limit
        for booking in klass.bookings.values():
            worker = booking.worker
            if booking.variant != variant or booking.open * 2 > depth:
                continue
            if booking.run_limit != run_limit:
                continue
            if not worker.open or self._contested(worker):
                continue
            tasks = self._take(lane, variant, depth - booking.open)
            self.assign(Placed(tasks, worker, variant, booking.gpus, booking, ""))
            return True
        return False

    def _contested(self, worker: Worker) -> bool:
        """Whether something that was asked before, and is blocked, could use this worker."""
        return any(worker.name in known for klass in self.blocked for known in klass.capable)

    def _block(self, lane: Lane) -> None:
        klass = lane.klass
        if klass not in self.blocked:
            self.blocked[klass] = None
            self._unreserved.append((klass, lane.head()))
