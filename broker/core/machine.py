"""The broker's mind: events in, effects out. Pure; time and randomness are arguments.

The rules, in the order in which they matter:
- What is decided is a fact. `_fact` lets it be so and puts it on the journal's next row; the shell
  commits the row before it performs any other effect of the turn.
- A task changes its state only by the table in `corral.tasks`, only through `BrokerState.apply`.
- An attempt has a token. Only the current token of a task moves it; whoever else reports frees what
  was booked, and changes nothing.
- A cancelled or revoked attempt stays booked until its worker says that it is over, comes back
  without it, or is gone.
- Placing happens once a turn, after everything that had arrived is handled.

Who may call what is checked before (`broker.auth`); registration and health of workers are in
`broker.core.fleet`, plain Majordomo peers in `broker.core.doors`, judging of submissions in
`broker.core.admission`, the order of placing in `broker.core.placement`.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from broker.core import admission
from broker.core.doors import Doors
from broker.core.effects import (
    AssignTask,
    Effect,
    Persist,
    ReplyToClient,
    SendToWorker,
    Telemetry,
)
from broker.core.events import Event, Heard, Turn, Unsendable
from broker.core.facts import Accepted, Admitted, Assigned, Closed, Fact, Moved, Saved
from broker.core.fleet import Fleet
from broker.core.placement import Placed, Round
from broker.core.queues import RequestClass
from broker.core.resources import Admission, Worker
from broker.core.state import Attempt, BrokerState, TaskRecord
from broker.core.views import no_task
from corral import errors
from corral.messages import (
    MAX_REASON,
    NO_ROOM,
    SERVICE_OF,
    Call,
    Cancel,
    CancelAttempts,
    Checkpoint,
    Done,
    Drain,
    DrainWorker,
    Ended,
    Finished,
    Nack,
    Outcome,
    Outcomes,
    Progress,
    Recall,
    Refused,
    Resources,
    ResultAck,
    Results,
    Resume,
    Retry,
    Submit,
)
from corral.messages import (
    Accepted as AcceptedAnswer,
)
from corral.settings import BrokerSettings
from corral.tasks import DEFAULT_RETRY, Cause, Failure, Spec, State
from corral.wire import Called, Dialect, Extended

SPARE_TIMERS = 1000  # timers that may be of what is over
MAX_WAITERS = 16  # clients that wait for one task
MAX_REFUSED = 100  # tasks of one retry that are looked at and find no room
MAX_COLLECTORS = 10_000  # clients whose tasks share one collector
MAX_REASONS = 16 << 20  # bytes that one call lets its tasks keep as reasons, all of them together
# What would fail again wherever it is tried.
_IN_VAIN = frozenset(
    {
        "bad_params", "bad_result", "input_lost", "inputs_too_large", "missing_extra",
        "result_too_large",
    }
)  # fmt: skip
_NO_FAULT = frozenset({"handed_back", "cancelled", "recalled"})


class Collector:
    """A native client that waits: for what it submitted (`request` is empty), or asked for."""

    __slots__ = ("left", "peer", "request")

    def __init__(self, peer: bytes, request: bytes, left: int) -> None:
        self.peer = peer
        self.request = request
        self.left = left  #: outcomes that it still waits for, when it asked


class Broker:
    """The state machine. `seed` makes its tokens and its jitter; `epoch` fences old brokers."""

    def __init__(
        self,
        settings: BrokerSettings,
        seed: bytes,
        epoch: int = 1,
        state: BrokerState | None = None,
        now: float = 0.0,
    ) -> None:
        self.settings = settings
        self.state = state or BrokerState(settings)
        self.seed = seed
        self.epoch = epoch
        self.prefix = b"\x01" + epoch.to_bytes(4, "big") + blake2b(seed, digest_size=8).digest()
        self.tokens = 0
        self.facts: list[Fact] = []
        self.effects: list[Effect] = []
        self.timers: list[tuple[float, int, Callable[..., None], Any]] = []
        self._timer = 0
        self._most_timers = 0  #: so many, and those of what is over are dropped
        self.full = ""  #: why the store takes no new work, as the shell knows it
        self.refused: Counter[str] = Counter()  #: messages that were turned away, by reason
        self._collector: dict[bytes, tuple[Collector]] = {}  #: by peer, shared by its tasks
        self._round_at: float | None = None  #: when placing must be tried again
        self.fleet = Fleet(self, now)
        self.doors = Doors(self)
        self._rearm(now)

    # --- the interface --------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What follows from an event. Never raises for anything a peer did."""
        if isinstance(event, Heard):
            self._heard(event, now)
        elif isinstance(event, Turn):
            self._turn(now)
        elif isinstance(event, Unsendable):
            self._unsendable(event, now)
        else:
            self.fleet.peer_lost(event.peer, now, event.revoked)
        effects, self.effects = self.effects, []
        if self.facts:
            effects.insert(0, Persist(self.facts))
            self.facts = []
        return effects

    def next_deadline(self) -> float | None:
        """When the shell must come back with a Turn, at the latest."""
        times = [self.fleet.next_sweep, self.fleet.next_look]
        if self.timers:
            times.append(self.timers[0][0])
        if self._round_at is not None:
            times.append(self._round_at)
        return min(times)

    def check(self) -> None:
        """Every invariant; raises AssertionError with the first that is broken."""
        self.state.check()
        self.fleet.check()

    # --- inside ---------------------------------------------------------------------------

    def _fact(self, fact: Fact) -> None:
        self.state.apply(fact)
        self.facts.append(fact)

    def at(self, when: float, action: Callable[..., None], argument: Any) -> None:
        """Call `action(argument, now)` at the first turn after `when`."""
        if len(self.timers) >= self._most_timers:
            self._drop_timers()
        self._timer += 1
        heapq.heappush(self.timers, (when, self._timer, action, argument))

    def _drop_timers(self) -> None:
        """Drop timers of what is over: short tasks with long limits leave many behind."""
        self.timers = [one for one in self.timers if self._awaited(one[2], one[3])]
        heapq.heapify(self.timers)
        self._most_timers = 2 * len(self.timers) + SPARE_TIMERS

    def _awaited(self, action: Callable[..., None], argument: Any) -> bool:
        if action == self._plain_run_limit:
            return argument in self.state.attempts
        if action == self._drain_deadline:
            return argument in self.state.workers
        task = self.state.tasks.get(argument)
        return task is not None and task.live

    def _rearm(self, now: float) -> None:
        """Set the timers of a state that was loaded."""
        for task in self.state.tasks.values():
            if task.retry_at is not None:
                self.at(task.retry_at, self._retry_due, task.id)
            if task.queue_limit is not None and task.live and task.started is None:
                self.at(task.opened + task.queue_limit, self._queue_limit, task.id)
        for worker in self.state.workers.values():
            if worker.deadline is not None:
                self.at(worker.deadline, self._drain_deadline, worker.name)

    def _heard(self, event: Heard, now: float) -> None:
        message = event.message
        if isinstance(message, Called):
            self._called(event, message.call, now)
        elif isinstance(message, Extended):
            worker = self.fleet.sender(event.peer, now)
            handler = _EXTENSIONS.get(type(message.message))
            if worker is not None and handler is not None:
                handler(self, event, worker, message.message, now)
        else:
            self.doors.heard(event, now)

    def _called(self, event: Heard, call: Call, now: float) -> None:
        handler = _CALLS.get(type(call))
        if handler is None:
            return
        try:
            handler(self, event, call, now)
        except errors.CorralError as error:
            self.refused[error.code] += 1
            self.reply(event.peer, call, Refused(call.request, error.code, error.fields))

    def reply(self, peer: bytes, call: Call, answer: Any, final: bool = True) -> None:
        """Answer a call."""
        self.effects.append(ReplyToClient(peer, SERVICE_OF[type(call)], answer, final))

    def _turn(self, now: float) -> None:
        timers = self.timers
        while timers and timers[0][0] <= now:
            _, _, action, argument = heapq.heappop(timers)
            action(argument, now)
        self.fleet.look(now)
        self.fleet.sweep(now)
        queue = self.state.queue
        if queue.size and (queue.changed or (self._round_at is not None and self._round_at <= now)):
            queue.changed = False
            turn = Round(self.state, now, lambda placed: self._assign(placed, now))
            turn.run()
            self._round_at = turn.again
            queue.changed = False
        elif not queue.size:
            self._round_at = None

    # --- clients --------------------------------------------------------------------------

    def _submit(self, event: Heard, call: Submit, now: float) -> None:
        planned = admission.plan(self.state, call, self.full)
        known: list[int] = []
        kept: dict[int, list[str]] = {}
        warnings: list[str] = []
        ids: list[str] | None = None
        warned: RequestClass | None = None  #: the class that was looked at last
        peer = event.peer
        tasks = self.state.tasks
        for one in planned.values():
            if one.existing is not None and one.reopen:
                self._lineage(one.existing)  # raises before anything was made
        for index, one in planned.items():
            task = tasks.get(one.id)
            if task is None:
                task = self.accept(one, now)
            elif one.reopen and not task.live:
                self.reopen(task, now, "submitted again", one.spec)
            else:
                known.append(index)
                if task.live and (differ := admission.differing(self.state, task.spec, one.spec)):
                    kept[index] = differ
            if one.content and ids is None:
                ids = [planned[place].id for place in range(len(planned))]
            if task.lane is not None and task.klass is not warned:
                warned = task.klass
                text = admission.warning(self.state, warned)
                if text and text not in warnings:
                    warnings.append(text)
        answer = AcceptedAnswer(call.request, ids, sorted(known), warnings, kept or None)
        self.reply(peer, call, answer)
        if call.collect:
            # Only now: a task that had ended may have been opened again for a child of it.
            self._collect_all([tasks[one.id] for one in planned.values()], peer, call)

    def _collect_all(self, chosen: list[TaskRecord], peer: bytes, call: Submit) -> None:
        ended: list[Outcome] = []
        shared = self._collector.get(peer)
        if shared is None:
            if len(self._collector) >= MAX_COLLECTORS:
                self._collector.clear()
            shared = self._collector[peer] = (Collector(peer, b"", 0),)
        for task in chosen:
            if task.live:
                self._collect(task, shared)
            else:
                ended.append(outcome_of(task))
        if ended:
            self.reply(peer, call, Outcomes(b"", ended), final=False)

    def accept(self, one: admission.Planned, now: float) -> TaskRecord:
        """Make a planned task."""
        spec = one.spec
        waiting = False
        parents = self.state.tasks
        if spec.after:
            waiting = any(parents[id].state is not State.SUCCEEDED for id in spec.after.values())
        order = self.state.order + 1
        self._fact(Accepted(now, one.id, spec, one.content, waiting, spec.queue_limit, order))
        task = self.state.tasks[one.id]
        if spec.queue_limit is not None:
            self.at(now + spec.queue_limit, self._queue_limit, one.id)
        if waiting:
            self._abort_if_lost(task, now)
        return task

    def _abort_if_lost(self, task: TaskRecord, now: float) -> None:
        for name, id in task.spec.after.items():
            parent = self.state.tasks[id]
            if not parent.live and parent.state is not State.SUCCEEDED:
                why = f"its parent {name} ({id}) is {parent.state}"
                self._fact(Moved(now, task.id, Cause.PARENT_LOST, why))
                return

    def reopen(self, task: TaskRecord, now: float, why: str, asked: Spec | None = None) -> None:
        """Open a new run of a task that ended without success, and of such ancestors.

        Args:
            asked: how the task is to be run from now on; None: as before.

        Raises:
            MissingParent: an ancestor is no longer kept; then nothing was changed.
        """
        for one in self._lineage(task):
            waiting = any(
                self.state.tasks[id].state is not State.SUCCEEDED for id in one.spec.after.values()
            )
            cause = Cause.REOPEN_WAITING if waiting else Cause.REOPEN
            spec = asked if one is task and asked != one.spec else None
            self._fact(Moved(now, one.id, cause, why, order=self.state.order + 1, spec=spec))
            if one.queue_limit is not None:
                self.at(now + one.queue_limit, self._queue_limit, one.id)

    def _lineage(self, task: TaskRecord) -> list[TaskRecord]:
        """A task and its ancestors that ended without success, parents first.

        Raises:
            MissingParent: an ancestor is no longer kept.
        """
        found: dict[str, TaskRecord] = {}
        stack = [task]
        while stack:
            one = stack[-1]
            lost = []
            for id in one.spec.after.values():
                parent = self.state.tasks.get(id)
                if parent is None:
                    raise errors.MissingParent(task=one.id, parent=id)
                if id not in found and not parent.live and parent.state is not State.SUCCEEDED:
                    lost.append(parent)
            if lost:
                stack += lost
            else:
                found[one.id] = stack.pop()
        return list(found.values())

    def _collect(self, task: TaskRecord, entry: tuple[Collector]) -> None:
        """Let a client wait for a task; the last to come are kept, and one that asks anew once."""
        if not task.collectors:
            task.collectors = entry
        elif entry[0] not in task.collectors:
            key = (entry[0].peer, entry[0].request)
            kept = [c for c in task.collectors if (c.peer, c.request) != key]
            task.collectors = (*kept[1 - MAX_WAITERS :], *entry)

    def _results(self, event: Heard, call: Results, now: float) -> None:
        ended: list[Outcome] = []
        waiting: list[TaskRecord] = []
        for id in dict.fromkeys(call.ids):
            task = self.state.tasks.get(id)
            if task is None:
                raise no_task(self.state, id)
            if not task.live:
                ended.append(outcome_of(task))
            elif call.wait:
                waiting.append(task)
        entry = (Collector(event.peer, call.request, len(waiting)),)
        for task in waiting:
            self._collect(task, entry)
        last = not waiting
        self.reply(event.peer, call, Outcomes(call.request, ended, last), final=last)

    def _cancel(self, event: Heard, call: Cancel, now: float) -> None:
        size = len(call.reason.encode())
        if size * len(call.ids) > MAX_REASONS:
            told = f"a reason of {size} bytes is too long for {len(call.ids)} tasks at once"
            raise errors.Usage(what=told)
        why = call.reason or "cancelled by a client"
        story = f"{why} ({event.who})" if event.who else why  # one text, which all of them share
        changed, unchanged = [], {}
        for id in call.ids:
            task = self.state.tasks.get(id)
            if task is None:
                unchanged[id] = event.left.get(id, "not found")
            elif not task.live:
                unchanged[id] = f"it is {task.state} already"
            else:
                self.cancel(task, now, why, story)
                changed.append(id)
        self.reply(event.peer, call, Done(call.request, changed, unchanged))

    def cancel(self, task: TaskRecord, now: float, why: str, story: str = "") -> None:
        """Cancel a task for good. What it holds stays booked until its worker lets go.

        Args:
            story: what the task's story tells instead of `why`, which its worker hears.
        """
        attempt = task.attempt
        self.move(task, Cause.CANCEL, now, story or why)
        if attempt is not None:
            self.stop(attempt, why, self.settings.cancel_grace)

    def stop(self, attempt: Attempt, reason: str, grace: float) -> None:
        """Ask a worker to end an attempt; plain workers cannot be asked."""
        worker = attempt.booking.worker
        if worker.peer is not None and worker.native:
            self.effects.append(
                SendToWorker(worker.peer, CancelAttempts([attempt.token], reason, grace))
            )

    def _retry(self, event: Heard, call: Retry, now: float) -> None:
        changed, unchanged = [], {}
        refused = 0
        lost: errors.MissingParent | None = None
        for id in call.ids:
            task = self.state.tasks.get(id)
            if task is None:
                unchanged[id] = event.left.get(id, "not found")
            elif task.live or task.state is State.SUCCEEDED:
                unchanged[id] = f"it is {task.state}"
            else:
                try:
                    # Not asked of all that come after many without: each may have many ancestors.
                    room = not self.full and refused < MAX_REFUSED
                    room = room and self._has_room(self._lineage(task))
                except errors.MissingParent as error:
                    if event.left:
                        unchanged[id] = NO_ROOM
                    else:
                        lost, unchanged[id] = error, error.message
                    continue
                if room:
                    self.reopen(task, now, f"retried by {event.who or 'a client'}")
                    changed.append(id)
                else:
                    refused += 1
                    unchanged[id] = NO_ROOM
        if not changed and NO_ROOM in unchanged.values():
            raise admission.no_room(self.state, self.full)
        if not changed and lost:
            raise lost
        self.reply(event.peer, call, Done(call.request, changed, unchanged))

    def _has_room(self, tasks: list[TaskRecord]) -> bool:
        return admission.has_room(self.state, len(tasks), sum(task.size for task in tasks))

    def _drain(self, event: Heard, call: Drain, now: float) -> None:
        worker = self.state.workers.get(call.worker)
        if worker is None:
            raise errors.NotFound(noun="worker", name=call.worker)
        if call.policy not in ("wait", "requeue", "kill"):
            raise errors.Usage(what=f"the policy {call.policy} is none of wait, requeue, kill")
        if call.deadline is not None and not 0.0 <= call.deadline < 1e9:
            raise errors.Usage(what=f"the deadline {call.deadline} is no number of seconds")
        self.drain(worker, now, event.who or "an operator", call.reason, call.deadline, call.policy)
        self.reply(event.peer, call, Done(call.request, [worker.name]))

    def drain(
        self, worker: Worker, now: float, by: str, why: str, deadline: float | None, policy: str
    ) -> None:
        """Fence a worker, take back what it has not begun, and wait for the rest."""
        until = None if deadline is None else now + deadline
        since = now if worker.drain_since is None else worker.drain_since
        why = why or worker.drain_reason  # who drains it again without a word leaves the first
        admitted = Admission.DRAINING if worker.bookings else Admission.DRAINED
        self._fact(Admitted(since, worker.name, admitted.value, by, why, until, policy))
        if worker.peer is not None and worker.native:
            self.effects.append(SendToWorker(worker.peer, DrainWorker(True, why)))
            tokens = [
                attempt.token
                for attempt in self.attempts_on(worker)
                if not attempt.started and attempt.booking.open > 1
            ]
            if tokens:
                self.effects.append(SendToWorker(worker.peer, Recall(tokens)))
        if until is not None:
            self.at(until, self._drain_deadline, worker.name)

    def attempts_on(self, worker: Worker) -> list[Attempt]:
        """Open attempts of one worker, newest first: the oldest is queued again before others."""
        return [a for a in reversed(self.state.attempts.values()) if a.booking.worker is worker]

    def _drain_deadline(self, name: str, now: float) -> None:
        worker = self.state.workers.get(name)
        if worker is None or worker.admission is not Admission.DRAINING:
            return
        if worker.deadline is None or worker.deadline > now or worker.drain_policy == "wait":
            return
        for attempt in self.attempts_on(worker):
            if not attempt.revoked:
                kill = worker.drain_policy == "kill"
                why = f"drain of {name} reached its deadline"
                if kill:
                    self.cancel(attempt.task, now, why)
                else:
                    self.move(attempt.task, Cause.REQUEUE, now, why)
                    self.stop(attempt, why, self.settings.cancel_grace)

    def _resume(self, event: Heard, call: Resume, now: float) -> None:
        name = call.worker
        worker = self.state.workers.get(name)
        if name in self.state.admissions:
            self._fact(Admitted(now, name, Admission.OPEN.value, event.who))
            if worker is not None and worker.peer is not None and worker.native:
                self.effects.append(SendToWorker(worker.peer, DrainWorker(False)))
        elif worker is None:
            raise errors.NotFound(noun="worker", name=name)
        self.reply(event.peer, call, Done(call.request, [name]))

    # --- tasks ----------------------------------------------------------------------------

    def move(self, task: TaskRecord, cause: Cause, now: float, why: str, outcome: str = "") -> None:
        """Change a task's state without a report, and see to what follows."""
        self._fact(Moved(now, task.id, cause, why, outcome))
        if not task.live:
            self.settle(task, now)

    def settle(self, task: TaskRecord, now: float) -> None:
        """A run is over: tell who waits for it, and its children, to any depth."""
        over = deque((task,))
        while over:
            one = over.popleft()
            if one.collectors:
                self._hand_out(one)
            for child in one.children or ():
                if child.state is not State.WAITING:
                    continue
                if one.state is not State.SUCCEEDED:
                    self._abort_if_lost(child, now)
                    over.append(child)
                elif child.waiting == 0:
                    self._fact(Moved(now, child.id, Cause.PARENTS_DONE))

    def _hand_out(self, task: TaskRecord) -> None:
        outcome = outcome_of(task)
        collectors, task.collectors = task.collectors, None
        for collector in collectors:
            if type(collector) is not Collector:
                self.doors.deliver(collector, task, outcome)
                continue
            if not collector.request:
                pushed = Outcomes(b"", [outcome])
                self.effects.append(ReplyToClient(collector.peer, "corral.submit", pushed, False))
                continue
            collector.left -= 1
            last = collector.left == 0
            answer = Outcomes(collector.request, [outcome], last)
            self.effects.append(ReplyToClient(collector.peer, "corral.results", answer, last))

    def _retry_due(self, id: str, now: float) -> None:
        task = self.state.tasks.get(id)
        if task is not None and task.retry_at is not None and task.retry_at <= now:
            self._fact(Moved(now, id, Cause.DUE))

    def _queue_limit(self, id: str, now: float) -> None:
        task = self.state.tasks.get(id)
        if task is None or not task.live or task.started is not None:
            return
        limit = task.queue_limit
        # A run that was opened again has its own time; a timer of an earlier one is too early.
        if limit is not None and now - task.opened >= limit - 1e-6:
            self.move(task, Cause.EXPIRE, now, f"waited {limit:g} s, its limit")

    # --- assignments ----------------------------------------------------------------------

    def _assign(self, placed: Placed, now: float) -> None:
        state, worker = self.state, placed.worker
        booking = placed.booking
        number = state.booking + 1 if booking is None else booking.number
        first = self.tokens
        self.tokens += len(placed.tasks)
        self._fact(
            Assigned(
                now,
                worker.name,
                number,
                placed.variant,
                placed.tasks[0].klass.needs[placed.variant],
                placed.gpus,
                self.prefix,
                first,
                [task.id for task in placed.tasks],
                placed.decision,
            )
        )
        if booking is None:
            worker.last_used = number
            booking = state.ledger.bookings[number]
            klass = placed.tasks[0].klass
            if worker.native:
                booking.klass = klass
                booking.run_limit = placed.tasks[0].spec.run_limit
                klass.bookings[number] = booking
                klass.held += booking.open
        peer = worker.peer
        assert peer is not None
        dialect = Dialect(worker.dialect)
        native = worker.native
        append = self.effects.append
        for task in placed.tasks:
            attempt = task.attempt
            assert attempt is not None
            append(AssignTask(peer, dialect, native, attempt.token, task.id, number))
        if not native:
            token = placed.tasks[0].attempt.token  # type: ignore[union-attr]  # just assigned
            limit = placed.tasks[0].spec.run_limit or self.settings.plain_run_limit
            self.at(now + limit, self._plain_run_limit, token)

    def _plain_run_limit(self, token: bytes, now: float) -> None:
        attempt = self.state.attempts.get(token)
        if attempt is not None and not attempt.revoked:
            why = "its worker, which speaks plain Majordomo, did not answer within the run limit"
            self.move(attempt.task, Cause.FAIL, now, why)

    # --- workers report -------------------------------------------------------------------

    def _finished(self, event: Heard, worker: Worker, message: Finished, now: float) -> None:
        blobs = event.blobs
        for ended in message.items:
            self.ended(event.peer, worker, ended, blobs.get(ended.token, ""), now)
        self.effects.append(SendToWorker(event.peer, ResultAck([message.seq])))

    def ended(self, peer: bytes, worker: Worker, ended: Ended, blob: str, now: float) -> None:
        """One attempt is over, says its worker."""
        attempt = self.state.attempts.get(ended.token)
        if attempt is None or attempt.booking.worker is not worker:
            self.refused["late result"] += 1
            return
        task = attempt.task
        if attempt.revoked:
            self.refused["late result"] += 1
            self._fact(Closed(now, ended.token, task.id, None, ended.outcome, ended.seconds))
        elif ended.outcome == "ok" and admission.nested_too_deep(ended.value):
            failure = Failure("bad_result", "what it returned is nested too deep to be carried")
            self.move_failed(attempt, "error", failure, now, ended.seconds)
        elif ended.outcome == "ok":
            booking = attempt.booking
            if booking.klass is not None:
                booking.klass.estimates[booking.variant].learn(ended.seconds)
            self._fact(
                Closed(
                    now, ended.token, task.id, Cause.SUCCEED, "ok", ended.seconds, ended.value, blob
                )
            )
            self.settle(task, now)
        else:
            self.move_failed(attempt, ended.outcome, ended.failure, now, ended.seconds)
        if worker.admission is Admission.DRAINING:
            self.fleet.drained(worker, now)

    def move_failed(
        self,
        attempt: Attempt,
        outcome: str,
        failure: Failure | None,
        now: float,
        seconds: float = 0.0,
    ) -> None:
        """An attempt did not succeed: back off, queue again, or fail for good."""
        task = attempt.task
        failure = failure or Failure(outcome)
        verdict = self._after_failure(task, outcome, failure, now, attempt.token)
        cause, retry_at, memory = verdict
        self._fact(
            Closed(
                now, attempt.token, task.id, cause, outcome, seconds, failure=failure,
                retry_at=retry_at, memory_gb=memory,
            )
        )  # fmt: skip
        if retry_at is not None:
            self.at(retry_at, self._retry_due, task.id)
        if not task.live:
            self.settle(task, now)

    def _after_failure(
        self, task: TaskRecord, outcome: str, failure: Failure, now: float, token: bytes
    ) -> tuple[Cause, float | None, float | None]:
        """(cause, when the next attempt is due, what memory it asks for)."""
        policy = task.spec.retry or DEFAULT_RETRY
        if outcome in _NO_FAULT:
            return Cause.REQUEUE, None, None
        entry = self.state.catalog.get(task.spec.kind)
        never = policy.never + (entry.kind.never if entry else ())
        if outcome == "time_limit" or failure.type in _IN_VAIN or failure.type in never:
            return Cause.FAIL, None, None
        count, limit = {
            "out_of_memory": (task.memory_failures, policy.memory_limit),
            "lost": (task.lost, policy.lost_limit),
            "killed": (task.poison, policy.poison_limit - 1),
        }.get(outcome, (task.errors, policy.limit))
        if count >= limit:
            return Cause.FAIL, None, None
        if outcome == "lost":
            return Cause.REQUEUE, None, None
        memory = None
        if outcome == "out_of_memory":
            asked = max(need.memory_gb for need in self.state.needs_of(task))
            memory = round(asked * 1.5, 3) or None
        # Full jitter would retry at once too often; half of the delay is kept.
        jitter = blake2b(self.seed + token, digest_size=2).digest()
        share = 0.5 + int.from_bytes(jitter, "big") / 131072
        delay = min(policy.max_delay, policy.delay * 2.0 ** min(count, 60)) * share
        return Cause.BACK_OFF, now + delay, memory

    def _unsendable(self, event: Unsendable, now: float) -> None:
        attempt = self.state.attempts.get(event.token)
        if attempt is not None and not attempt.revoked:
            self.move_failed(attempt, "error", event.failure, now)

    def lose(self, attempt: Attempt, now: float, why: str) -> None:
        """A worker that ran this is silent: revoke the token; what it held stays booked."""
        task = attempt.task
        policy = task.spec.retry or DEFAULT_RETRY
        cause = Cause.FAIL if task.lost >= policy.lost_limit else Cause.REQUEUE
        self.move(task, cause, now, why, "lost")

    def _progress(self, event: Heard, worker: Worker, message: Progress, now: float) -> None:
        for item in message.items:
            attempt = self.state.attempts.get(item.token)
            if attempt is None or attempt.booking.worker is not worker:
                continue
            attempt.started = True
            if not item.started and not attempt.revoked:
                attempt.fraction = min(1.0, max(0.0, item.fraction))
                attempt.metrics = item.metrics
                self.effects.append(
                    Telemetry(now, attempt.task.id, attempt.fraction, attempt.metrics)
                )

    def _nack(self, event: Heard, worker: Worker, message: Nack, now: float) -> None:
        failure = Failure("recalled", message.reason[:MAX_REASON])
        for token in sorted(message.tokens, reverse=True):  # newest first, as in `attempts_on`
            ended = Ended(token, "recalled", failure=failure)
            self.ended(event.peer, worker, ended, "", now)

    def _checkpoint(self, event: Heard, worker: Worker, message: Checkpoint, now: float) -> None:
        attempt = self.state.attempts.get(message.token)
        blob = event.blobs.get(message.token, "")
        if (
            attempt is not None
            and not attempt.revoked
            and attempt.booking.worker is worker
            and blob
        ):
            self._fact(Saved(attempt.task.id, blob))

    def _drain_asked(self, event: Heard, worker: Worker, message: DrainWorker, now: float) -> None:
        if message.draining and worker.admission is Admission.OPEN:
            why = message.reason[:MAX_REASON] or "it is stopping"
            self.drain(worker, now, worker.name, why, None, "wait")

    def _resources(self, event: Heard, worker: Worker, message: Resources, now: float) -> None:
        self.fleet.resources(worker, message)


def outcome_of(task: TaskRecord) -> Outcome:
    """How an ended task ended, for its client."""
    return Outcome(task.id, task.state, task.value, task.blob, task.failure)


_CALLS: dict[type[Call], Callable[[Broker, Heard, Any, float], None]] = {
    Submit: Broker._submit,
    Results: Broker._results,
    Cancel: Broker._cancel,
    Retry: Broker._retry,
    Drain: Broker._drain,
    Resume: Broker._resume,
}
_EXTENSIONS: dict[type[Any], Callable[[Broker, Heard, Worker, Any, float], None]] = {
    Finished: Broker._finished,
    Progress: Broker._progress,
    Nack: Broker._nack,
    Checkpoint: Broker._checkpoint,
    DrainWorker: Broker._drain_asked,
    Resources: Broker._resources,
}
