"""What the broker shows: views of tasks, workers and kinds, as API and command line print them.

Read-only functions of the state. Why a task does not run is `broker.core.explain`'s.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from broker.core.facts import Record
from broker.core.resources import MIB, MILLI, Worker
from broker.core.state import BrokerState, TaskRecord
from corral.errors import NotFound
from corral.messages import AttemptView, GpuView, KindView, Step, TaskView, WorkerView
from corral.tasks import State

SHORTEST = 1.0  # seconds: what is expected to be shorter is judged as if it were this long


def no_task(state: BrokerState, name: str) -> NotFound:
    """What to say when neither memory nor store has a task."""
    return NotFound(noun="task", name=name, kept=span(state.settings.retention))


def span(seconds: float) -> str:
    """A length of time for people."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.1f} s"


def task_view(state: BrokerState, task: TaskRecord, full: bool = True) -> TaskView:
    """One task. `full` adds params, attempts and story."""
    attempt = task.attempt
    return TaskView(
        id=task.id,
        kind=task.spec.kind,
        state=task.state,
        name=task.spec.name,
        project=task.spec.project,
        priority=task.spec.priority,
        params=_unpack(task.spec.params) if full else None,
        after=task.spec.after,
        needs=state.needs_of(task),
        run=task.run,
        attempts=_attempts(state, task) if full else [],
        worker=worker_of(task),
        progress=1.0 if task.state is State.SUCCEEDED else attempt.fraction if attempt else None,
        metrics=attempt.metrics if attempt else {},
        submitted=task.submitted,
        started=task.started,
        ended=task.ended,
        retry_at=task.retry_at,
        failure=task.failure,
        result_bytes=_result_bytes(task),
        story=story(task) if full else [],
    )


def record_view(state: BrokerState, record: Record) -> TaskView:
    """One task that only the store holds."""
    scratch = BrokerState(state.settings)
    return task_view(state, scratch.restore(record))


def _unpack(packed: msgspec.Raw) -> object:
    try:
        return msgspec.msgpack.decode(packed)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def worker_of(task: TaskRecord) -> str:
    """The worker that runs it or ran it last."""
    if task.attempt is not None:
        return task.attempt.booking.worker.name
    return task.attempts[-1].worker if task.attempts else ""


def _result_bytes(task: TaskRecord) -> int | None:
    if task.state is not State.SUCCEEDED or task.blob:
        return None
    return memoryview(task.value).nbytes


def _attempts(state: BrokerState, task: TaskRecord) -> list[AttemptView]:
    still = [
        AttemptView(
            number=a.number,
            worker=a.booking.worker.name,
            started=a.at,
            gpus=a.booking.gpus,
            variant=a.booking.variant,
            outcome="revoked" if a.revoked else "",
            decision=a.decision,
        )
        for a in state.attempts_of(task)
    ]
    return sorted([*(task.attempts or []), *still], key=lambda view: view.number)


def story(task: TaskRecord) -> list[Step]:
    """Every step of a task, oldest first, with its cause.

    The steps of a task to which nothing special happened are not kept: they follow from its times.
    """
    first = State.WAITING if task.spec.after else State.QUEUED
    steps = [Step(task.submitted, first, "submitted")]
    if task.story is not None:
        return steps + task.story
    attempt = task.attempt
    if attempt is not None:
        name = attempt.booking.worker.name
        steps.append(Step(attempt.at, State.RUNNING, "assign", attempt.decision, name, 1))
    for done in task.attempts or ():
        steps.append(Step(done.started, State.RUNNING, "assign", done.decision, done.worker, 1))
        steps.append(Step(task.since, task.state, "succeed", done.outcome, done.worker, 1))
    return steps


def worker_views(state: BrokerState) -> list[WorkerView]:
    """Every worker in the registry, by name."""
    tasks: dict[str, list[str]] = {}
    holders: dict[int, str] = {}
    for attempt in state.attempts.values():
        tasks.setdefault(attempt.booking.worker.name, []).append(attempt.task.id)
        holders[attempt.booking.number] = attempt.task.id
    return [
        _worker_view(state, worker, tasks.get(name, []), holders)
        for name, worker in sorted(state.workers.items())
    ]


def _worker_view(
    state: BrokerState, worker: Worker, tasks: list[str], holders: dict[int, str]
) -> WorkerView:
    endless = not worker.native
    return WorkerView(
        name=worker.name,
        status=worker.status,
        health=worker.health.value,
        admission=worker.admission.value,
        incarnation=worker.incarnation,
        dialect="native" if worker.native else f"MDP/0.{worker.dialect}",
        kinds=sorted(worker.kinds),
        slots=worker.slots,
        slots_used=worker.slots_used,
        cpus=0.0 if endless else worker.cpus / MILLI,
        cpus_used=worker.cpus_used / MILLI,
        memory_gb=0.0 if endless else round(worker.memory / MIB, 3),
        memory_gb_used=round(worker.memory_used / MIB, 3),
        gpus=[
            GpuView(
                uuid=gpu.uuid,
                memory_gb=gpu.memory_gb,
                name=gpu.name,
                declared=gpu.declared,
                holder=holders.get(state.ledger.gpu_holder.get(gpu.uuid, 0), ""),
                foreign_gb=gpu.foreign_gb,
            )
            for gpu in worker.gpus.values()
        ],
        labels=worker.labels,
        caches=sorted(worker.caches),
        tasks=tasks[:1000],
        seen=worker.seen,
        since=worker.since,
        drained_by=worker.drained_by,
        drain_reason=worker.drain_reason,
        drain_since=worker.drain_since,
        about=worker.about,
    )


def kind_views(state: BrokerState, now: float) -> list[KindView]:
    """Every kind that was ever announced."""
    serving: Counter[str] = Counter()
    for worker in state.workers.values():
        if worker.open:
            serving.update(worker.kinds)
    queued: Counter[str] = Counter()
    for klass in state.queue.active.values():
        queued[klass.kind] += klass.size
    slowest = _slowest(state, now)
    return [
        KindView(
            kind=kind.kind,
            workers=serving[kind.kind],
            code_version=kind.code_version,
            data_snapshot=kind.data_snapshot,
            content=kind.content,
            queued=queued[kind.kind],
            slowest=round(slowest.get(kind.kind, 0.0), 2),
        )
        for entry in state.catalog.entries.values()
        for kind in (entry.kind,)
    ]


def _slowest(state: BrokerState, now: float) -> dict[str, float]:
    """Kind -> how often the time that was expected its slowest attempt has run.

    Only attempts that are known to have begun: others may stand in a worker's run-queue.
    """
    slowest: dict[str, float] = {}
    for attempt in state.attempts.values():
        booking = attempt.booking
        if booking.klass is None or not (attempt.started or not booking.worker.native):
            continue
        expected = booking.klass.estimates[booking.variant].seconds
        if expected is not None:
            ratio = (now - attempt.at) / max(expected, SHORTEST)
            slowest[booking.klass.kind] = max(ratio, slowest.get(booking.klass.kind, 0.0))
    return slowest


def longest_wait(state: BrokerState, now: float) -> float | None:
    """Seconds that the next task in line has waited, in the line where that is longest."""
    lanes = (lane for klass in state.queue.active.values() for lane in klass.lanes.values())
    since = min((lane.head().since for lane in lanes if lane.size), default=None)
    return None if since is None else max(0.0, now - since)


def named_view(state: BrokerState) -> dict[str, tuple[int, int]]:
    """Named resource -> (used, there are)."""
    ledger = state.ledger
    return {name: (ledger.named_used.get(name, 0), total) for name, total in ledger.named.items()}
