"""Why a task does not run, and what would let it run at once.

What keeps it is told by the scheduler's own predicate (`placement.verdicts`), for every worker and
every variant; the cure is found by the scheduler's own round (`broker.core.cure`). This file puts
both into words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import structs

from broker.core.admission import warning
from broker.core.cure import Search
from broker.core.resources import Booking, Health
from broker.core.state import BrokerState, TaskRecord
from broker.core.views import no_task, span
from corral.messages import Explanation, Part, Verdict, WorkerVerdict
from corral.tasks import State

_LISTED = 3  # ids named where there may be many


def explain(state: BrokerState, id: str, now: float) -> Explanation:
    """Why a task stands where it stands.

    Returns:
        For a task that does not run: every known worker with each variant's needs, the one that
        lacks least first; the causes that lie with no single worker; and a cure, which is minimal
        (see `corral.messages.Part`). An empty cure means that the next round starts it.

    Raises:
        NotFound: there is no task with this id.
    """
    task = state.tasks.get(id)
    if task is None:
        raise no_task(state, id)
    if task.attempt is not None:
        return _running(task, now)
    if not task.live:
        return Explanation(id=id, state=task.state, summary=_ENDED[task.state](task))
    search = Search(state, task, now)
    parts = search.cure()
    cure = [structs.replace(part, text=WORDS[part.action](search, part)) for part in parts]
    return Explanation(
        id=id,
        state=task.state,
        summary=_summary(search, cure),
        reasons=list(_reasons(search, parts)),
        workers=_workers(search),
        cure=cure,
        blocked=warning(state, search.klass),
    )


# --- tasks that need no cure ----------------------------------------------------------


def _running(task: TaskRecord, now: float) -> Explanation:
    attempt = task.attempt
    assert attempt is not None
    worker = attempt.booking.worker
    reasons = []
    if worker.health is not Health.LIVE:
        reasons.append(
            f"{worker.name} is {worker.health}, last heard {span(now - worker.seen)} ago: if it "
            "stays silent, the attempt loses its token and the task is queued again"
        )
    if attempt.booking.open > 1 and not attempt.started:
        reasons.append(
            f"it may not have begun: {attempt.booking.open} attempts follow each other there"
        )
    return Explanation(
        id=task.id,
        state=task.state,
        summary=f"It is with {worker.name} as attempt {attempt.number}, since "
        f"{span(now - attempt.at)}.",
        reasons=reasons,
        decision=attempt.decision or "its first choice was free",
    )


def _succeeded(task: TaskRecord) -> str:
    return f"It succeeded. `corral task result {task.id}` prints what it returned."


def _failed(task: TaskRecord) -> str:
    return (
        f"It failed: {_why(task)}. `corral task logs {task.id}` shows its output, "
        f"`corral task retry {task.id}` runs it again."
    )


def _stopped(task: TaskRecord) -> str:
    return f"It is {task.state}: {_why(task)}. `corral task retry {task.id}` opens a new run."


def _why(task: TaskRecord) -> str:
    """The last line of its story."""
    return task.story[-1].why if task.story else "nobody said why"


_ENDED: dict[State, Callable[[TaskRecord], str]] = {
    State.SUCCEEDED: _succeeded,
    State.FAILED: _failed,
    State.CANCELLED: _stopped,
    State.ABORTED: _stopped,
    State.EXPIRED: _stopped,
}


# --- tasks that wait for something -----------------------------------------------------


def _workers(search: Search) -> list[WorkerVerdict]:
    """Every worker with every variant, the one that lacks least first."""
    reserved = search.round(search.forced).reservations
    found: list[tuple[int, str, int, WorkerVerdict]] = []
    for (name, variant), facts in search.facts.items():
        listed = [
            Verdict(need=f.need, wanted=_plain(f.wanted), has=_plain(f.has), met=f.met)
            for f in facts
        ]
        if (kept := reserved.get(name)) is not None:
            admits = kept.admits(search.klass, variant, search.case.due)
            has = f"for {kept.task.id}"
            listed.append(Verdict(need="reserved", wanted="for it", has=has, met=admits))
        lacks = sum(not verdict.met for verdict in listed)
        one = WorkerVerdict(worker=name, variant=variant, verdicts=listed, fits=not lacks)
        found.append((lacks, name, variant, one))
    found.sort(key=lambda row: row[:3])
    return [row[3] for row in found]


def _summary(search: Search, cure: Sequence[Part]) -> str:
    task = search.task
    stands = {
        State.WAITING: f"It waits for {_count(len(search.case.parents), 'parent')}",
        State.RETRYING: f"It backs off after attempt {task.made}",
    }.get(task.state, "It is queued")
    if not cure:
        return f"{stands}; the next round of placing starts it."
    return f"{stands}; it starts when {' and '.join(part.text for part in cure)}."


def _reasons(search: Search, parts: Sequence[Part]) -> Iterator[str]:
    """Causes that lie with no single worker."""
    task, case, state = search.task, search.case, search.state
    for parent in case.parents[:_LISTED]:
        yield f"it comes after {_parent(search, parent)}"
    if len(case.parents) > _LISTED:
        yield f"it comes after {_count(len(case.parents) - _LISTED, 'more parent')}"
    if case.due > search.now:
        yield f"attempt {task.made} ended ({_why(task)}); the next is due in " + span(
            case.due - search.now
        )
    count, first = search.ahead()
    if count:
        ids = [other.id for other in first]
        yield f"{_count(count, 'task')} ahead of it in the queue: {_listed(ids, count)}"
    takers = search.round([part for part in parts if part.action != "ahead"]).before
    if takers and any(part.action == "ahead" for part in parts):
        yield f"without that, {_listed(takers)} would start first"
    if any(list(search.bounded_wait(variant)) for variant in search.variants):
        yield f"it prefers a GPU, and waits {span(case.bound - search.now)} more for one"
    for name, kept in search.round(search.forced).reservations.items():
        fits = any(all(f.met for f in search.facts[name, v]) for v in search.variants)
        if fits:
            yield f"{name} is kept for {kept.task.id}, which comes first and does not fit yet"
    for name in dict.fromkeys(name for need in search.klass.needs for name in need.named):
        free, there = state.ledger.named_free(name), state.ledger.named.get(name, 0)
        held = _held(search, _takes(name))
        yield f"of {name}, which the whole fleet shares, {free} of {there} are free{held}"
        count, holder = search.round(search.forced).kept.get(name, (0, task))
        if count:
            yield f"{count} {name} are kept for {holder.id}, which comes first"
    if text := warning(state, search.klass):
        yield text
    silent = [w.name for w in state.workers.values() if w.native and not w.incarnation]
    if silent:
        yield (
            f"{_listed(silent)} did not come back yet since the broker started: "
            "what ran there stays booked for a while"
        )
    if task.queue_limit is not None and task.started is None:
        yield f"it expires in {span(task.opened + task.queue_limit - search.now)}"
    if search.soonest is not None and case.due < search.soonest.at < float("inf"):
        room = span(search.soonest.at - search.now)
        yield f"{search.soonest.worker.name} is expected to have room in {room}"


def _parent(search: Search, parent: TaskRecord) -> str:
    name = next(name for name, id in search.task.spec.after.items() if id == parent.id)
    attempt = parent.attempt
    if attempt is not None:
        return f"{name} ({parent.id}), which runs on {attempt.booking.worker.name}"
    return f"{name} ({parent.id}), which is {parent.state}"


def _held(search: Search, by: Callable[[Booking], bool]) -> str:
    """Who holds what `by` looks for, in brackets."""
    ids = {a.task.id: None for a in search.state.attempts.values() if by(a.booking)}
    return f" (held by {_listed(list(ids))})" if ids else ""


def _say_free(search: Search, part: Part) -> str:
    cards = part.need == "gpus"
    held = _held(search, lambda b: b.worker.name == part.subject and (not cards or bool(b.gpus)))
    return f"{part.subject} lets go of {_amount(part.need, part.amount)}{held}"


def _say_add(search: Search, part: Part) -> str:
    return f"{part.subject} has {_amount(part.need, part.amount)} more than it has"


def _say_resume(search: Search, part: Part) -> str:
    return f"{part.subject} is open again (`corral worker resume {part.subject}`)"


def _say_revive(search: Search, part: Part) -> str:
    return f"{part.subject} is heard of again"


def _say_install(search: Search, part: Part) -> str:
    extra = search.state.workers[part.subject].lacks.get(search.klass.kind)
    how = f" (there: pip install '{extra}')" if extra else ""
    return f"{part.subject} serves {search.klass.kind}{how}"


def _say_label(search: Search, part: Part) -> str:
    name = part.need.removeprefix("label.")
    return f"{part.subject} carries {name}={search.klass.needs[part.variant].labels[name]}"


def _say_named(search: Search, part: Part) -> str:
    return f"{part.amount:g} more of {part.subject} can be had"


def _say_finish(search: Search, part: Part) -> str:
    return f"{_parent(search, search.state.tasks[part.subject])}, has succeeded"


def _say_ahead(search: Search, part: Part) -> str:
    which = f" that {part.subject} could run" if part.subject else ""
    are = "is" if part.amount == 1 else "are"
    return f"{_count(round(part.amount), 'task')} ahead of it{which} {are} gone"


def _say_wait(search: Search, part: Part) -> str:
    why = "its back-off is" if part.need == "back_off" else "its wait for a GPU is"
    return f"{why} over, in {span(part.amount)}"


def _say_add_worker(search: Search, part: Part) -> str:
    need = search.klass.needs[part.variant]
    asked = [_amount(field, getattr(need, field)) for field in _UNITS if getattr(need, field, 0)]
    asked += [f"{name}={value}" for name, value in need.labels.items()]
    return f"one more worker serves {part.subject}, with {', '.join(asked) or 'a free slot'}"


_UNITS = {
    "slots": ("slot", "slots"),
    "cpus": ("core", "cores"),
    "memory_gb": ("GiB of memory",) * 2,
    "gpus": ("GPU", "GPUs"),
    "gpu_memory_gb": ("GiB on each GPU",) * 2,
}
#: every action of a cure, in words
WORDS: dict[str, Callable[[Search, Part], str]] = {
    "free": _say_free,
    "add": _say_add,
    "resume": _say_resume,
    "revive": _say_revive,
    "install": _say_install,
    "label": _say_label,
    "named": _say_named,
    "finish": _say_finish,
    "ahead": _say_ahead,
    "wait": _say_wait,
    "add_worker": _say_add_worker,
}


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _amount(need: str, amount: float) -> str:
    return f"{amount:g} {_UNITS[need][amount != 1]}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(ids: Sequence[str], count: int = 0) -> str:
    """The first of these ids, for people; `count` when there are more than are given."""
    more = max(count, len(ids)) - len(ids[:_LISTED])
    return ", ".join(ids[:_LISTED]) + (f" and {more:,} more" if more else "")


def _takes(name: str) -> Callable[[Booking], bool]:
    return lambda booking: name in booking.amount.named
