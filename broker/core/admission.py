"""From a submission to accepted tasks: params, ids, parents, and what is wrong with them.

A submission is accepted whole or refused whole. Nothing here changes the state; `plan` says what
would be made, and the machine makes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec import structs

from broker.core.placement import refresh, verdicts
from broker.core.queues import RequestClass
from broker.core.state import BrokerState, TaskRecord
from corral.errors import (
    BadParams,
    BadTask,
    Busy,
    CorralError,
    CyclicParents,
    DuplicateId,
    MissingParent,
    StoreFull,
    TooLarge,
    UnknownKind,
)
from corral.messages import Submit
from corral.tasks import DEFAULT_RETRY, Spec, State, problem, request_id

MAX_PARAMS = 16 << 20  # bytes of one task's params
MAX_PARENTS = 10_000
MAX_BATCH = 100_000  # tasks of one submission

_FLAT = 400  # bytes: what is shorter cannot be nested too deep
_SHELL = b"\x91" * 500  # what carries a value nests it deeper: journal, messages, callers
_skip = msgspec.msgpack.Decoder(msgspec.Raw).decode
_SETTINGS = ("needs", "priority", "retry", "run_limit", "queue_limit", "caches")
_NO_PARENTS: dict[str, str] = {}  # shared by all that have none


class Planned(NamedTuple):
    """One task of a submission, judged."""

    id: str
    spec: Spec
    content: bool
    existing: TaskRecord | None  #: it is there already
    reopen: bool  #: and gets a new run


def plan(state: BrokerState, call: Submit, full: str) -> dict[int, Planned]:
    """What the submission makes: its tasks by their place in it, parents first.

    Raises:
        BadTask, BadParams, TooLarge, UnknownKind, MissingParent, CyclicParents, DuplicateId: with
        the first reason found; then nothing of it is made.
        Busy, StoreFull: there is no room for what is not there yet; `full` says why of the store.
    """
    planned = _plan(state, call)
    if full or not has_room(state, len(planned), _params_bytes(call.tasks)):
        made = [one.spec for one in planned.values() if one.existing is None or one.reopen]
        if made and (full or not has_room(state, len(made), _params_bytes(made))):
            raise no_room(state, full)
    return planned


def _params_bytes(specs: list[Spec]) -> int:
    return sum(memoryview(spec.params).nbytes for spec in specs)


def _plan(state: BrokerState, call: Submit) -> dict[int, Planned]:
    tasks = call.tasks
    if len(tasks) > MAX_BATCH:
        raise TooLarge(what="the submission", size=len(tasks), limit=MAX_BATCH)
    planned: dict[int, Planned] = {}
    if len(tasks) == 1 and not tasks[0].after:
        return {0: _judge(state, call, 0, planned, {})}
    if any(spec.after for spec in tasks):
        order: Iterable[int] = _parents_first(tasks)
    else:
        order = range(len(tasks))
    by_id: dict[str, Planned] = {}
    for index in order:
        try:
            one = _judge(state, call, index, planned, by_id)
            twin = by_id.get(one.id)
            if twin is not None and not _same(twin.spec, one.spec):
                raise DuplicateId(id=one.id)
        except CorralError as bad:
            if len(tasks) > 1:
                bad.fields["index"] = index  # which of them
            raise
        by_id[one.id] = twin or one
        planned[index] = one if twin is None else twin._replace(spec=one.spec)
    return planned


def has_room(state: BrokerState, tasks: int, size: int) -> bool:
    """Whether so many more tasks, with so many bytes of params, are within the bounds."""
    bounds = state.settings
    return (
        state.unfinished + tasks <= bounds.max_tasks
        and state.unfinished_bytes + size <= bounds.max_task_bytes
    )


def no_room(state: BrokerState, full: str) -> CorralError:
    """What to tell who brings too much; `full` says why of the store."""
    if full:
        return StoreFull(why=full)
    return Busy(queued=state.unfinished, bytes=state.unfinished_bytes)


def _judge(
    state: BrokerState,
    call: Submit,
    index: int,
    planned: dict[int, Planned],
    by_id: dict[str, Planned],
) -> Planned:
    spec = call.tasks[index]
    entry = state.catalog.entries.get(spec.kind)
    if entry is None:
        if (bad := problem(spec)) is not None:
            raise BadTask(path=f"tasks[{index}].{bad[0]}", why=bad[1])
        raise UnknownKind(kind=spec.kind, known=", ".join(sorted(state.catalog.entries)) or "none")
    size = memoryview(spec.params).nbytes
    if size > MAX_PARAMS:
        raise TooLarge(what=f"params of task {index}", size=size, limit=MAX_PARAMS)
    if nested_too_deep(spec.params):
        raise BadParams(kind=spec.kind, path="params", why="they are nested too deep")
    own = msgspec.Raw(bytes(spec.params))  # a queued task must not hold the message it came in
    if _is_plain(spec):
        spec = Spec(entry.kind.kind, own, _NO_PARENTS)  # that shares what it can
    elif (bad := problem(spec)) is not None:
        raise BadTask(path=f"tasks[{index}].{bad[0]}", why=bad[1])
    else:
        spec = structs.replace(spec, params=own)
    if spec.after:
        spec = _resolve(state, spec, index, planned, by_id)
    kind = entry.kind
    params = entry.judge(spec) if kind.schema or kind.content else None
    if spec.id is not None:
        return _identified(state, spec.id, spec, content=True)
    if kind.content:
        return _identified(state, entry.content_id(spec, params), spec, content=True)
    id = request_id(call.request, index)
    return Planned(id, spec, False, state.tasks.get(id), False)


def nested_too_deep(packed: msgspec.Raw) -> bool:
    """Whether a packed value fits into a message here, but not into all that would carry it."""
    if memoryview(packed).nbytes <= _FLAT:
        return False
    try:
        _skip(_SHELL + bytes(packed))
    except RecursionError:
        return True
    return False


def _is_plain(spec: Spec) -> bool:
    """Whether only kind and params are given, so that nothing else can be wrong."""
    return (
        spec.needs is None
        and spec.id is None
        and not spec.after
        and spec.priority == 0
        and not spec.project
        and spec.retry is None
        and spec.run_limit is None
        and spec.queue_limit is None
        and not spec.name
        and not spec.caches
    )


def _identified(state: BrokerState, id: str, spec: Spec, content: bool) -> Planned:
    existing = state.tasks.get(id)
    if existing is None:
        return Planned(id, spec, content, None, False)
    if not _same(existing.spec, spec):
        raise DuplicateId(id=id)
    again = not existing.live and existing.state is not State.SUCCEEDED
    return Planned(id, spec, content, existing, again)


def _same(one: Spec, other: Spec) -> bool:
    """Whether two specs ask for the same work; how it is to be run may differ."""
    if one.kind != other.kind or one.after != other.after:
        return False
    if memoryview(one.params) == memoryview(other.params):
        return True
    decode = msgspec.msgpack.decode
    try:
        return bool(decode(one.params) == decode(other.params))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def differing(state: BrokerState, one: Spec, other: Spec) -> list[str]:
    """The settings by which two specs of the same work would be run in different ways."""
    implied = {"needs": state.catalog.entries[one.kind].needs, "retry": DEFAULT_RETRY}
    return [
        name
        for name in _SETTINGS
        if (getattr(one, name) or implied.get(name)) != (getattr(other, name) or implied.get(name))
    ]


def _resolve(
    state: BrokerState,
    spec: Spec,
    index: int,
    planned: dict[int, Planned],
    by_id: dict[str, Planned],
) -> Spec:
    """`spec` with its parents' ids instead of references into the submission."""
    if len(spec.after) > MAX_PARENTS:
        raise TooLarge(what=f"after of task {index}", size=len(spec.after), limit=MAX_PARENTS)
    ids = {}
    for name, reference in spec.after.items():
        if reference.startswith("#"):
            id = planned[int(reference[1:])].id
        elif reference in state.tasks or reference in by_id:
            id = reference
        else:
            raise MissingParent(task=spec.name or f"tasks[{index}]", parent=reference)
        ids[name] = id
    return structs.replace(spec, after=ids)


def _parents_first(tasks: list[Spec]) -> list[int]:
    """An order in which parents come before their children (depth first, iterative).

    Raises:
        CyclicParents: there is none; names the circle.
        MissingParent: a `#` reference names no task of the submission.
    """
    by_id = {spec.id: index for index, spec in enumerate(tasks) if spec.id is not None}
    inside = [
        [
            found
            for reference in spec.after.values()
            if (found := _inside(reference, by_id)) is not None
        ]
        for spec in tasks
    ]
    for index, spec in enumerate(tasks):
        for reference in spec.after.values():
            parent = _inside(reference, by_id)
            if parent is not None and not 0 <= parent < len(tasks):
                raise MissingParent(task=spec.name or f"tasks[{index}]", parent=reference)
    order: list[int] = []
    done = [False] * len(tasks)
    for root in range(len(tasks)):
        path, on_path = [(root, iter(inside[root]))], {root}
        while path and not done[root]:
            index, rest = path[-1]
            step = next((parent for parent in rest if not done[parent]), None)
            if step is None:
                done[index] = True
                order.append(index)
                on_path.discard(index)
                path.pop()
            elif step in on_path:
                circle = [i for i, _ in path]
                circle = [*circle[circle.index(step) :], step]
                names = (tasks[i].name or tasks[i].id or f"tasks[{i}]" for i in circle)
                raise CyclicParents(circle=" after ".join(names))
            else:
                on_path.add(step)
                path.append((step, iter(inside[step])))
    return order


def _inside(reference: str, by_id: dict[str, int]) -> int | None:
    """The index inside the submission that a parent reference means; None: it is outside."""
    if reference.startswith("#"):
        return int(reference[1:]) if reference[1:].isdecimal() and len(reference) < 10 else -1
    return by_id.get(reference)


def ids_wanted(state: BrokerState, call: Submit) -> list[str]:
    """Ids that the submission may mean and that are not in memory: the store may have them."""
    wanted: list[str] = []
    for index, spec in enumerate(call.tasks):
        if spec.after:
            wanted += [id for id in spec.after.values() if not id.startswith("#")]
        if spec.id is not None:
            wanted.append(spec.id)
        elif call.resend:
            wanted.append(request_id(call.request, index))
    return [id for id in wanted if id not in state.tasks]


def content_wanted(state: BrokerState, call: Submit) -> list[str]:
    """Ids of identified tasks that are not in memory, or that would be opened anew.

    Their ancestors are wanted too: a new run opens those that did not succeed.
    """
    entries = state.catalog.entries
    if not any(
        s.id is not None or ((entry := entries.get(s.kind)) is not None and entry.kind.content)
        for s in call.tasks
    ):
        return []
    try:
        planned = _plan(state, call)
    except CorralError:
        return []  # the machine will say what is wrong with it
    return [
        one.id for one in planned.values() if one.content and (one.existing is None or one.reopen)
    ]


def warning(state: BrokerState, klass: RequestClass) -> str:
    """Why no worker could run a class even if it were idle; empty when one could."""
    if klass.stale is None or klass.stale:
        refresh(klass, state)
    if any(klass.capable):
        return ""
    serving = [
        worker
        for worker in state.workers.values()
        if klass.kind in worker.kinds and worker.health in ("live", "suspect")
    ]
    if not serving:
        lacks = (worker.lacks.get(klass.kind) for worker in state.workers.values())
        extra = next(filter(None, lacks), "")
        lack = f": it must be installed there (pip install '{extra}')" if extra else ""
        return f"no worker that is there now serves {klass.kind}{lack}"
    missing: dict[str, str] = {}
    for variant in range(len(klass.needs)):
        for worker in serving:
            for fact in verdicts(klass, variant, worker, state.ledger, whole=True):
                if not fact.met:
                    missing[fact.need] = f"{fact.need} {fact.wanted}"
    return f"no worker can meet the needs of {klass.kind}: {', '.join(missing.values())}"
