"""What the broker knows, and what each fact does to it.

`State.apply` is the only way to change a task: the live broker and the replay of the journal go
through it alike, so they cannot disagree. Deciding which facts to make is `broker.core.machine`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import structs

from broker.core.catalog import Catalog
from broker.core.facts import (
    Accepted,
    Admitted,
    Aliased,
    Announced,
    Assigned,
    Closed,
    Fact,
    Kept,
    Moved,
    OpenAttempt,
    Record,
    Saved,
)
from broker.core.queues import Lane, Queue, RequestClass
from broker.core.resources import Admission, Amount, Booking, Ledger, Worker
from corral.messages import NIL, AttemptView, Raw, Step
from corral.settings import BrokerSettings
from corral.tasks import DEFAULT_NEEDS, TERMINAL, Cause, Failure, Needs, Spec, State, Variant, after

MAX_STORY = 200  # steps kept of one task: the first half and the last half


class Attempt:
    """One execution of a task, from its assignment until it is closed."""

    __slots__ = (
        "at", "booking", "decision", "fraction", "metrics", "number", "revoked", "started",
        "task", "token",
    )  # fmt: skip

    def __init__(
        self,
        token: bytes,
        number: int,
        at: float,
        task: TaskRecord,
        booking: Booking,
        decision: str,
    ) -> None:
        self.token = token
        self.number = number
        self.at = at
        self.task = task
        self.booking = booking
        self.decision = decision
        self.revoked = False  #: it may still run, but its result changes nothing
        self.started = False  #: the worker said that it began
        self.fraction: float | None = None
        self.metrics: dict[str, float] = {}


class TaskRecord:
    """One task in memory. About 0.3 kB beside its spec: there may be a million."""

    __slots__ = (
        "attempt", "attempts", "blob", "checkpoint", "children", "collectors", "content", "ended",
        "errors", "failure", "id", "klass", "lane", "lost", "made", "memory_failures", "memory_gb",
        "opened", "order", "poison", "queue_limit", "retry_at", "run", "since", "spec", "started",
        "state", "story", "submitted", "value", "waiting",
    )  # fmt: skip

    def __init__(self, id: str, spec: Spec, order: int, at: float) -> None:
        self.id = id
        self.spec = spec
        self.order = order
        self.submitted = at
        self.opened = at  #: when the present run began
        self.since = at
        self.state = State.QUEUED
        self.content = False
        self.run = 1
        self.queue_limit: float | None = None
        self.klass: RequestClass
        self.lane: Lane | None = None
        self.waiting = 0
        self.children: list[TaskRecord] | None = None
        self.attempt: Attempt | None = None
        self.attempts: list[AttemptView] | None = None
        self.collectors: Any = None
        self.made = 0
        self.errors = 0
        self.lost = 0
        self.memory_failures = 0
        self.poison = 0
        self.memory_gb: float | None = None
        self.retry_at: float | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self.value: Raw = NIL
        self.blob = ""
        self.checkpoint = ""
        self.failure: Failure | None = None
        self.story: list[Step] | None = None

    @property
    def live(self) -> bool:
        """Whether its run goes on."""
        return self.state not in TERMINAL

    @property
    def size(self) -> int:
        """Bytes of what it carries: params, result, and why it failed."""
        size = memoryview(self.spec.params).nbytes + memoryview(self.value).nbytes
        if self.failure is not None:
            size += len(self.failure.message) + len(self.failure.traceback)
        return size


class BrokerState:
    """Tasks, workers, bookings, kinds and aliases."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.tasks: dict[str, TaskRecord] = {}
        self.attempts: dict[bytes, Attempt] = {}  #: open ones, by token
        self.workers: dict[str, Worker] = {}
        self.catalog = Catalog()
        self.queue = Queue(settings.weights)
        self.ledger = Ledger(settings.named)
        self.admissions: dict[str, Admitted] = {}  #: of workers that are not open
        self.aliases: dict[str, str] = {}  #: Titanic: alias -> task
        self.aliased: Counter[str] = Counter()  #: task -> how many aliases
        self.counts: Counter[State] = Counter()
        self.unfinished = 0
        self.unfinished_bytes = 0  #: of what unfinished tasks carry
        self.ended_bytes = 0  #: of what ended tasks carry
        self.dirty: set[str] = set()  #: tasks that differ from what the store's tables hold
        self.order = 0
        self.booking = 0
        self._default_class: dict[str, RequestClass] = {}

    # --- facts ----------------------------------------------------------------------------

    def apply(self, fact: Fact) -> None:
        """Let one fact be so."""
        _APPLY[type(fact)](self, fact)

    def replay(self, lsn: int, facts: Iterable[Fact], folded: dict[str, int]) -> None:
        """Apply the facts of one journal row, leaving out tasks whose records are newer."""
        for fact in facts:
            if isinstance(fact, Assigned):
                self.booking = max(self.booking, fact.booking)  # its number is not given again
                keep = [i for i, id in enumerate(fact.ids) if folded.get(id, 0) < lsn]
                for index in keep:
                    self._assign(fact, index)
            elif isinstance(fact, Announced | Admitted | Aliased):
                if folded.get("", 0) < lsn:
                    self.apply(fact)
            elif folded.get(fact.id, 0) < lsn:
                self.apply(fact)

    def _accepted(self, fact: Accepted) -> None:
        spec = fact.spec
        task = TaskRecord(fact.id, spec, self._place(fact.order), fact.at)
        task.content = fact.content
        task.queue_limit = fact.queue_limit
        self.tasks[fact.id] = task
        self.dirty.add(fact.id)
        self._count(task, 1)
        if spec.after:
            self._join(task)
        if fact.waiting:
            task.state = State.WAITING
            self.counts[State.WAITING] += 1
        else:
            self.counts[State.QUEUED] += 1
            self._enqueue(task)

    def _count(self, task: TaskRecord, by: int) -> None:
        """Count a task, and what it carries, once more (1) or no more (-1)."""
        if task.live:
            self.unfinished += by
            self.unfinished_bytes += by * task.size
        else:
            self.ended_bytes += by * task.size

    def _place(self, order: int) -> int:
        """The place of a new run: as its fact says, else behind all."""
        order = order or self.order + 1
        self.order = max(self.order, order)
        return order

    def _join(self, task: TaskRecord, again: bool = False) -> None:
        """Hang a task under its parents and count those that have not succeeded.

        Args:
            again: it may hang there already.
        """
        task.waiting = 0
        for id in task.spec.after.values():
            parent = self.tasks.get(id)
            if parent is None or parent.state is State.SUCCEEDED:
                continue
            task.waiting += 1
        for id in set(task.spec.after.values()):
            parent = self.tasks.get(id)
            if parent is not None:
                if parent.children is None:
                    parent.children = []
                if not again or task not in parent.children:
                    parent.children.append(task)

    def _enqueue(self, task: TaskRecord, first: bool = False) -> None:
        spec = task.spec
        if spec.needs is None and not spec.caches and task.memory_gb is None:
            klass = self._default_class.get(spec.kind)
            if klass is None or self.queue.classes.get(klass.key) is not klass:
                klass = self._class_of(task)
                self._default_class[spec.kind] = klass
        else:
            klass = self._class_of(task)
        task.klass = klass
        self.queue.push(task, first)

    def needs_of(self, task: TaskRecord) -> Needs:
        """What it asks for: its own needs, or its kind's; with more memory after running out."""
        entry = self.catalog.get(task.spec.kind)
        needs = task.spec.needs or (entry.needs if entry else DEFAULT_NEEDS)
        if task.memory_gb is None:
            return needs
        more = task.memory_gb
        return tuple(_with_memory(variant, more) for variant in needs)

    def _class_of(self, task: TaskRecord) -> RequestClass:
        return self.queue.class_of(task.spec.kind, self.needs_of(task), task.spec.caches)

    def _assigned(self, fact: Assigned) -> None:
        for index in range(len(fact.ids)):
            self._assign(fact, index)

    def _assign(self, fact: Assigned, index: int) -> None:
        task = self.tasks[fact.ids[index]]
        state = after(task.state, Cause.ASSIGN)
        booking = self._booking(fact)
        token = fact.prefix + (fact.first + index).to_bytes(8, "big")
        task.made += 1
        attempt = Attempt(token, task.made, fact.at, task, booking, fact.decision)
        booking.open += 1
        if booking.klass is not None:
            booking.klass.held += 1
        self.attempts[token] = attempt
        self.queue.remove(task)
        self._move(task, state, fact.at)
        task.attempt = attempt
        if task.started is None:
            task.started = fact.at
        if task.story is not None or task.made > 1:
            self._tell(task, Cause.ASSIGN, fact.at, fact.decision, fact.worker)

    def _booking(self, fact: Assigned) -> Booking:
        booking = self.ledger.bookings.get(fact.booking)
        if booking is None:
            worker = self.worker(fact.worker, fact.at)
            booking = Booking(
                fact.booking, worker, fact.variant, Amount(fact.need), fact.gpus, fact.at
            )
            self.booking = max(self.booking, fact.booking)
            self.take(booking)
        return booking

    def take(self, booking: Booking) -> None:
        """Book it, and ask again what fits."""
        self.ledger.take(booking)
        self._touch(booking)

    def let_go(self, booking: Booking) -> None:
        """Free what it holds, and ask again what fits."""
        self.ledger.give_back(booking)
        self._touch(booking)

    def _touch(self, booking: Booking) -> None:
        self.queue.touch(self.ledger.sharers(booking))

    def worker(self, name: str, at: float) -> Worker:
        """The worker of that name; made, unregistered, when nobody knows it yet."""
        worker = self.workers.get(name)
        if worker is None:
            worker = self.workers[name] = Worker(name, at)
            admitted = self.admissions.get(name)
            if admitted is not None:
                _admit(worker, admitted)
        return worker

    def _closed(self, fact: Closed) -> None:
        attempt = self.attempts[fact.token]
        task, cause = attempt.task, fact.cause
        state = None if cause is None else after(task.state, cause)
        del self.attempts[fact.token]
        self._free(attempt, fact.at)
        if task.attempts is None:
            task.attempts = []
        task.attempts.append(_view(attempt, fact.at, fact.outcome))
        if len(task.attempts) > MAX_STORY:
            del task.attempts[MAX_STORY // 2]
        if cause is None or state is None:
            self.dirty.add(task.id)
            return
        self._count(task, -1)
        task.attempt = None
        if cause is Cause.SUCCEED:
            task.value = fact.value
            task.blob = fact.blob
        else:
            task.failure = fact.failure
            _COUNT.get(fact.outcome, _count_error)(task)
            if fact.memory_gb is not None:
                task.memory_gb = fact.memory_gb
        task.retry_at = fact.retry_at
        self._move(task, state, fact.at)
        if cause is not Cause.SUCCEED or task.story is not None:
            why = (
                fact.outcome if fact.failure is None else f"{fact.outcome}: {fact.failure.message}"
            )
            self._tell(task, cause, fact.at, why, attempt.booking.worker.name, attempt.number)
        if cause is Cause.REQUEUE:
            self._enqueue(task, first=True)
        elif task.state in TERMINAL:
            self._over(task, fact.at)
        self._count(task, 1)

    def _free(self, attempt: Attempt, at: float) -> None:
        booking = attempt.booking
        klass = booking.klass
        booking.open -= 1
        booking.began = at
        if klass is not None:
            klass.held -= 1
            self.queue.changed = True  # its slot may run low
        if not booking.open:
            if klass is not None:
                del klass.bookings[booking.number]
            self.let_go(booking)

    def _moved(self, fact: Moved) -> None:
        task = self.tasks[fact.id]
        cause = fact.cause
        state = after(task.state, cause)
        self._count(task, -1)
        if task.lane is not None:
            self.queue.remove(task)
        task.retry_at = None
        attempt, task.attempt = task.attempt, None
        if attempt is not None:
            attempt.revoked = True
            _COUNT.get(fact.outcome, _count_error)(task)
        self._move(task, state, fact.at)
        self._tell(task, cause, fact.at, fact.why)
        if cause in (Cause.REOPEN, Cause.REOPEN_WAITING):
            if fact.spec is not None:
                task.spec = fact.spec
                task.queue_limit = fact.spec.queue_limit
            self._reopen(task)
            task.opened = fact.at
            task.order = self._place(fact.order)
        if task.state is State.QUEUED:
            self._enqueue(task, first=cause is Cause.REQUEUE)
        elif task.state in TERMINAL:
            task.failure = Failure(fact.outcome or task.state.value, fact.why)
            self._over(task, fact.at)
        self._count(task, 1)

    def _reopen(self, task: TaskRecord) -> None:
        task.run += 1
        task.errors = task.lost = task.memory_failures = task.poison = 0
        task.ended = task.retry_at = task.failure = task.memory_gb = task.started = None
        if task.spec.after:
            self._join(task, again=True)

    def _over(self, task: TaskRecord, at: float) -> None:
        task.ended = at
        if task.state is State.SUCCEEDED:
            for child in task.children or ():
                child.waiting -= sum(id == task.id for id in child.spec.after.values())
            task.failure = None
            task.checkpoint = ""

    def _move(self, task: TaskRecord, state: State, at: float) -> None:
        counts = self.counts
        counts[task.state] -= 1
        task.state = state
        counts[state] += 1
        task.since = at
        self.dirty.add(task.id)

    def _tell(
        self, task: TaskRecord, cause: Cause, at: float, why: str, worker: str = "", number: int = 0
    ) -> None:
        story = task.story
        if story is None:
            story = task.story = []
            if task.made and cause is not Cause.ASSIGN and task.attempts:
                first = task.attempts[0]
                story.append(
                    Step(
                        first.started, State.RUNNING, Cause.ASSIGN, first.decision, first.worker, 1
                    )
                )
        story.append(Step(at, task.state, cause.value, why, worker, number or task.made))
        if len(story) > MAX_STORY:
            del story[MAX_STORY // 2]

    def _announced(self, fact: Announced) -> None:
        self.catalog.announce(fact.kind)
        self._default_class.pop(fact.kind.kind, None)

    def _admitted(self, fact: Admitted) -> None:
        if fact.admission == Admission.OPEN:
            self.admissions.pop(fact.worker, None)
        else:
            self.admissions[fact.worker] = fact
        worker = self.workers.get(fact.worker)
        if worker is not None:
            _admit(worker, fact)
            self.queue.touch((worker.name,))

    def _aliased(self, fact: Aliased) -> None:
        if fact.id:
            self.aliases[fact.alias] = fact.id
            self.aliased[fact.id] += 1
        else:
            id = self.aliases.pop(fact.alias)
            self.aliased[id] -= 1
            if not self.aliased[id]:
                del self.aliased[id]

    def _saved(self, fact: Saved) -> None:
        self.tasks[fact.id].checkpoint = fact.blob
        self.dirty.add(fact.id)

    # --- records: what the store's tables hold --------------------------------------------

    def record(self, task: TaskRecord) -> Record:
        """Everything about one task, to be kept."""
        return Record(
            id=task.id,
            spec=task.spec,
            state=task.state,
            order=task.order,
            submitted=task.submitted,
            opened=task.opened,
            since=task.since,
            content=task.content,
            run=task.run,
            queue_limit=task.queue_limit,
            errors=task.errors,
            lost=task.lost,
            memory_failures=task.memory_failures,
            poison=task.poison,
            memory_gb=task.memory_gb,
            made=task.made,
            retry_at=task.retry_at,
            started=task.started,
            ended=task.ended,
            value=task.value,
            blob=task.blob,
            checkpoint=task.checkpoint,
            failure=task.failure,
            story=task.story or [],
            attempts=task.attempts or [],
            open=[
                OpenAttempt(
                    token=a.token,
                    number=a.number,
                    at=a.at,
                    worker=a.booking.worker.name,
                    booking=a.booking.number,
                    variant=a.booking.variant,
                    need=a.booking.amount.need,
                    gpus=a.booking.gpus,
                    current=not a.revoked,
                    decision=a.decision,
                )
                for a in self.attempts_of(task)
            ],
        )

    def attempts_of(self, task: TaskRecord) -> list[Attempt]:
        """Its open attempts: the current one, and revoked ones that may still run."""
        current = [task.attempt] if task.attempt is not None else []
        if task.made > len(task.attempts or ()) + len(current):
            return [a for a in self.attempts.values() if a.task is task]
        return current

    def restore(self, record: Record) -> TaskRecord:
        """Take a record back into memory. Call `rejoin` when all of them are there."""
        task = TaskRecord(record.id, record.spec, record.order, record.submitted)
        for field in _RESTORED:
            setattr(task, field, getattr(record, field))
        task.story = list(record.story) or None
        task.attempts = list(record.attempts) or None
        self.tasks[task.id] = task
        self.counts[task.state] += 1
        self.order = max(self.order, task.order)
        task.klass = self._class_of(task)
        for open in record.open:
            fact = Assigned(
                open.at,
                open.worker,
                open.booking,
                open.variant,
                open.need,
                open.gpus,
                b"",
                0,
                [],
                open.decision,
            )
            booking = self._booking(fact)
            attempt = Attempt(open.token, open.number, open.at, task, booking, open.decision)
            attempt.revoked = not open.current
            booking.open += 1
            self.attempts[open.token] = attempt
            if open.current:
                task.attempt = attempt
        self._count(task, 1)
        if task.state is State.QUEUED:
            self._enqueue(task)
        return task

    def rejoin(self) -> None:
        """Hang every unfinished task under its parents, and put queue and cards in order.

        Call it once all that was loaded is there: records and rows of the journal come in an order
        of their own, so a child may have come before its parent.
        """
        for task in self.tasks.values():
            task.children = None
        for task in self.tasks.values():
            if task.spec.after and task.live:
                self._join(task)
        self.queue.put_in_order()
        self.ledger.reindex()
        # Who holds nothing is nobody until it registers.
        self.workers = {name: one for name, one in self.workers.items() if one.bookings}

    def forget(self, *tasks: TaskRecord) -> None:
        """Let go of ended tasks that the store's tables hold; their parents let go of them too."""
        parents: set[str] = set()
        for task in tasks:
            assert not task.live
            del self.tasks[task.id]
            self.counts[task.state] -= 1
            self._count(task, -1)
            parents.update(task.spec.after.values())
        for id in parents:
            parent = self.tasks.get(id)
            if parent is not None:
                known = (one for one in parent.children or () if one.id in self.tasks)
                parent.children = list(known) or None

    def forgettable(self, task: TaskRecord) -> bool:
        """Whether nothing in memory needs this ended task any more."""
        return (
            not task.live
            and not task.collectors
            and not any(child.live for child in task.children or ())
            and task.made == len(task.attempts or ())
        )

    def kept(self, lsn: int) -> Kept:
        """What belongs to no single task, to be kept."""
        return Kept(
            lsn=lsn,
            order=self.order,
            booking=self.booking,
            kinds=[entry.kind for entry in self.catalog.entries.values()],
            admissions=list(self.admissions.values()),
            aliases=dict(self.aliases),
        )

    def restore_kept(self, kept: Kept) -> None:
        """Take it back."""
        self.order = max(self.order, kept.order)
        self.booking = max(self.booking, kept.booking)
        for kind in kept.kinds:
            self.catalog.announce(kind)
        for admitted in kept.admissions:
            self._admitted(admitted)
        for alias, id in kept.aliases.items():
            self._aliased(Aliased(alias, id))

    # --- invariants -----------------------------------------------------------------------

    def check(self) -> None:
        """Every invariant of the state; raises AssertionError with the first that is broken."""
        self.queue.check()
        self.ledger.check()
        counts: Counter[State] = Counter()
        for task in self.tasks.values():
            counts[task.state] += 1
            assert (task.lane is not None) == (task.state is State.QUEUED), task.id
            assert (task.attempt is not None) == (task.state is State.RUNNING), task.id
            assert (task.ended is not None) == (not task.live), task.id
            assert (task.retry_at is not None) == (task.state is State.RETRYING), task.id
            if task.state is State.WAITING:
                assert task.waiting > 0, f"{task.id} waits for nobody"
            assert all(self.tasks.get(one.id) is one for one in task.children or ()), task.id
            if task.attempt is not None:
                assert self.attempts[task.attempt.token] is task.attempt
                assert not task.attempt.revoked
        assert +counts == +self.counts
        assert self.unfinished == sum(task.live for task in self.tasks.values())
        assert self.unfinished_bytes == sum(t.size for t in self.tasks.values() if t.live)
        assert self.ended_bytes == sum(t.size for t in self.tasks.values() if not t.live)
        opens: Counter[int] = Counter()
        for token, attempt in self.attempts.items():
            assert attempt.token == token
            assert attempt.revoked or attempt.task.attempt is attempt
            opens[attempt.booking.number] += 1
        assert opens == {b.number: b.open for b in self.ledger.bookings.values()}


_RESTORED = (
    "state", "opened", "since", "content", "run", "queue_limit", "errors", "lost",
    "memory_failures", "poison", "memory_gb", "made", "retry_at", "started", "ended", "value",
    "blob", "checkpoint", "failure",
)  # fmt: skip


def _count_error(task: TaskRecord) -> None:
    task.errors += 1


def _count_memory(task: TaskRecord) -> None:
    task.memory_failures += 1


def _count_loss(task: TaskRecord) -> None:
    task.lost += 1


def _count_death(task: TaskRecord) -> None:
    task.poison += 1


def _count_nothing(task: TaskRecord) -> None:
    """Handed back, recalled, cancelled: no fault of the task."""


_COUNT: dict[str, Callable[[TaskRecord], None]] = {
    "": _count_nothing,
    "handed_back": _count_nothing,
    "recalled": _count_nothing,
    "cancelled": _count_nothing,
    "out_of_memory": _count_memory,
    "killed": _count_death,
    "lost": _count_loss,
}  #: by outcome; any other is an error of the task


def _with_memory(variant: Variant, more: float) -> Variant:
    return structs.replace(variant, memory_gb=max(variant.memory_gb, more))


def _admit(worker: Worker, fact: Admitted) -> None:
    worker.admission = Admission(fact.admission)
    is_open = worker.admission is Admission.OPEN
    worker.drained_by = "" if is_open else fact.by
    worker.drain_reason = "" if is_open else fact.why
    worker.drain_since = None if is_open else fact.at
    worker.drain_policy = fact.policy
    worker.deadline = None if is_open else fact.deadline


def _view(attempt: Attempt, ended: float, outcome: str) -> AttemptView:
    booking = attempt.booking
    return AttemptView(
        number=attempt.number,
        worker=booking.worker.name,
        started=attempt.at,
        ended=ended,
        outcome=outcome,
        gpus=booking.gpus,
        variant=booking.variant,
        decision=attempt.decision,
    )


_APPLY: dict[type[Fact], Callable[[BrokerState, Any], None]] = {
    Accepted: BrokerState._accepted,
    Assigned: BrokerState._assigned,
    Closed: BrokerState._closed,
    Moved: BrokerState._moved,
    Announced: BrokerState._announced,
    Admitted: BrokerState._admitted,
    Aliased: BrokerState._aliased,
    Saved: BrokerState._saved,
}
