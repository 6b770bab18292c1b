"""What a task is: its fields, its needs, its states, and the table of legal transitions.

The vocabulary of Corral. Everything here is data or a pure function of it: no clock, no socket, no
randomness. How a task is placed lives in `broker.core`, how it travels in `corral.messages`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from corral.errors import IllegalTransition

MAX_NAME = 200  # bytes of a kind, worker, project or resource name (a Majordomo service name)
MAX_ID = 64
LAST = "last"  #: in place of an id: the newest task

# An object in memory costs some fifty times the bytes that ask for it on the wire. So lists have a
# longest length, which the decoder checks before it makes one.
MANY = Meta(max_length=100_000)  # of what travels in batches, and a task's parents
FEW = Meta(max_length=1_000)  # of what one task, kind or worker tells about itself


class State(StrEnum):
    """Where a task stands. The last five are terminal."""

    WAITING = "waiting"  #: some parent has not succeeded yet
    QUEUED = "queued"  #: may start as soon as a worker fits
    RUNNING = "running"  #: an attempt holds a current token
    RETRYING = "retrying"  #: an attempt failed; the next one is due later
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABORTED = "aborted"  #: a parent did not succeed
    EXPIRED = "expired"  #: it waited longer than its queue limit


class Cause(StrEnum):
    """Why a task changes its state. A task's story is a list of these."""

    PARENTS_DONE = "parents_done"
    PARENT_LOST = "parent_lost"
    ASSIGN = "assign"
    SUCCEED = "succeed"
    FAIL = "fail"
    BACK_OFF = "back_off"
    DUE = "due"
    REQUEUE = "requeue"  #: no fault of the task: a drain, a recall, a lost worker
    CANCEL = "cancel"
    EXPIRE = "expire"
    REOPEN = "reopen"  #: a new run begins and can start at once
    REOPEN_WAITING = "reopen_waiting"  #: a new run begins and waits for its parents


# The rules. A pair that is not here is illegal: `after` raises and nothing changes.
# `succeeded` has no row that leaves it: a recorded result is final.
_LEAVE = {Cause.CANCEL: State.CANCELLED, Cause.EXPIRE: State.EXPIRED}
_REOPEN = {Cause.REOPEN: State.QUEUED, Cause.REOPEN_WAITING: State.WAITING}
TRANSITIONS: Mapping[State, Mapping[Cause, State]] = {
    State.WAITING: {
        Cause.PARENTS_DONE: State.QUEUED,
        Cause.PARENT_LOST: State.ABORTED,
        **_LEAVE,
    },
    State.QUEUED: {Cause.ASSIGN: State.RUNNING, **_LEAVE},
    State.RUNNING: {
        Cause.SUCCEED: State.SUCCEEDED,
        Cause.FAIL: State.FAILED,
        Cause.BACK_OFF: State.RETRYING,
        Cause.REQUEUE: State.QUEUED,
        Cause.CANCEL: State.CANCELLED,
    },
    State.RETRYING: {Cause.DUE: State.QUEUED, **_LEAVE},
    State.SUCCEEDED: {},
    State.FAILED: _REOPEN,
    State.CANCELLED: _REOPEN,
    State.ABORTED: _REOPEN,
    State.EXPIRED: _REOPEN,
}

TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.ABORTED, State.EXPIRED})


def after(state: State, cause: Cause) -> State:
    """The state that follows `state` for `cause`.

    Raises:
        IllegalTransition: the table has no such row.
    """
    try:
        return TRANSITIONS[state][cause]
    except KeyError:
        raise IllegalTransition(state=state.value, cause=cause.value) from None


class Variant(Struct, frozen=True, array_like=True, omit_defaults=True):
    """One way to run a task: what a single worker must have free, all of it at once."""

    cpus: float = 0.0  #: cores; 0 for work that only waits
    memory_gb: float = 0.0  #: main memory, GiB; enforced on the attempt when above 0
    gpus: int = 0  #: whole GPUs, each held alone
    gpu_memory_gb: float = 0.0  #: at least this much memory on each of these GPUs, GiB
    named: Annotated[dict[str, int], FEW] = {}  #: counted fleet-wide: {"ib_gateway": 1}
    labels: Annotated[dict[str, str], FEW] = {}  #: labels that the worker must carry


Needs = Annotated[tuple[Variant, ...], FEW]  #: variants in order of preference


def prefer_gpu(cpus: float = 1.0, memory_gb: float = 0.0, gpu_memory_gb: float = 0.0) -> Needs:
    """One GPU when one is free in time, else the same cores and memory without it."""
    return (
        Variant(cpus=cpus, memory_gb=memory_gb, gpus=1, gpu_memory_gb=gpu_memory_gb),
        Variant(cpus=cpus, memory_gb=memory_gb),
    )


def force_gpu(cpus: float = 1.0, memory_gb: float = 0.0, gpu_memory_gb: float = 0.0) -> Needs:
    """One GPU and nothing else will do."""
    return (Variant(cpus=cpus, memory_gb=memory_gb, gpus=1, gpu_memory_gb=gpu_memory_gb),)


def needs(
    cpus: float = 1.0, memory_gb: float = 0.0, gpus: int = 0, named: dict[str, int] | None = None
) -> Needs:
    """A single variant."""
    return (Variant(cpus=cpus, memory_gb=memory_gb, gpus=gpus, named=named or {}),)


DEFAULT_NEEDS: Needs = (Variant(cpus=1.0),)


class Retry(Struct, frozen=True, array_like=True):
    """When a failed attempt is followed by another."""

    limit: int = 3  #: attempts after the first, for errors of the task itself
    lost_limit: int = 5  #: attempts after the first, for workers that vanished
    memory_limit: int = 2  #: attempts after the first, for running out of memory, each with 1.5 x
    poison_limit: int = 3  #: attempts whose process died under it before it fails for good
    delay: float = 1.0  #: seconds before the first retry; doubles each time
    max_delay: float = 300.0  #: seconds, upper bound of the delay
    never: Annotated[tuple[str, ...], FEW] = ()  #: error types that are not retried


DEFAULT_RETRY = Retry()


class Task(Struct, frozen=True, array_like=True):
    """One unit of work, as its author writes it."""

    kind: str  #: what to do; names the handler
    params: Any = {}  #: a mapping (or a struct) that fits the kind's schema
    after: dict[str, str] = {}  #: name -> id of a parent; "#3" is the task at 3 in this submission
    needs: Needs | None = None  #: None: what the kind announces
    priority: int = 0  #: higher first, strictly
    project: str = ""  #: shares are fair between projects
    id: str | None = None  #: None: from the content, or from the request
    retry: Retry | None = None  #: None: the default policy
    run_limit: float | None = None  #: seconds one attempt may run
    queue_limit: float | None = None  #: seconds a run may wait before its first attempt
    caches: tuple[str, ...] = ()  #: names of data that a worker may already hold
    name: str = ""  #: for people


class Spec(Struct, frozen=True, array_like=True, gc=False):
    """A `Task` as broker and worker carry it: the same fields, the params still packed."""

    kind: str
    params: msgspec.Raw = msgspec.Raw(b"\x80")
    after: Annotated[dict[str, str], MANY] = {}
    needs: Needs | None = None
    priority: int = 0
    project: str = ""
    id: str | None = None
    retry: Retry | None = None
    run_limit: float | None = None
    queue_limit: float | None = None
    caches: Annotated[tuple[str, ...], FEW] = ()
    name: str = ""


class Failure(Struct, frozen=True, array_like=True):
    """Why an attempt did not succeed."""

    type: str  #: the exception's class name, or out_of_memory, time_limit, lost, killed, cancelled
    message: str = ""
    traceback: str = ""


def request_id(request: bytes, index: int) -> str:
    """The id of task `index` of a submission; both sides compute it, so a resend is no new task."""
    return blake2b(request + index.to_bytes(4, "big"), digest_size=10).hexdigest()


def content_id(
    kind: str, params: Any, parents: Mapping[str, str], code_version: str, data_snapshot: str
) -> str:
    """The id of a task that its content identifies: equal work has equal ids.

    `params` are decoded builtins; their key order does not matter. `parents` maps names to ids.
    """
    canonical = msgspec.json.encode(
        [kind, params, dict(parents), code_version, data_snapshot], order="deterministic"
    )
    return blake2b(canonical, digest_size=10).hexdigest()


def is_name(text: str) -> bool:
    """Whether `text` can name a kind: 1 to 200 printable ASCII characters without space."""
    return 0 < len(text) <= MAX_NAME and all("!" <= char <= "~" for char in text)


def problem(spec: Spec) -> tuple[str, str] | None:
    """The first field of `spec` that no broker could accept, as (path, why); None when it is fine.

    Only what can be judged without knowing the fleet: names, bounds, finite numbers.
    """
    if not is_name(spec.kind):
        return "kind", "must be 1 to 200 printable characters without space"
    if spec.id is not None and not (is_name(spec.id) and len(spec.id) <= MAX_ID):
        return "id", f"must be 1 to {MAX_ID} printable characters without space"
    if spec.id == LAST:
        return "id", f"must not be {LAST!r}, which means the newest task"
    if len(spec.project) > MAX_NAME or len(spec.name) > MAX_NAME:
        return ("project" if len(spec.project) > MAX_NAME else "name"), "is over 200 characters"
    if any(len(name) > MAX_NAME for name in spec.after):
        return "after", "is over 200 characters in a name"
    if not -1_000_000 <= spec.priority <= 1_000_000:
        return "priority", "must be between -1000000 and 1000000"
    for path, seconds in (("run_limit", spec.run_limit), ("queue_limit", spec.queue_limit)):
        if seconds is not None and not 0 < seconds < 1e9:
            return path, "must be a number of seconds above 0"
    if spec.retry is not None and (bad := _bad_retry(spec.retry)):
        return f"retry.{bad}", "must be a number from 0 to under 1000000000"
    return bad_needs(spec.needs) if spec.needs is not None else None


def _bad_retry(retry: Retry) -> str | None:
    numbers = {
        field: getattr(retry, field) for field in Retry.__struct_fields__ if field != "never"
    }
    return next((field for field, value in numbers.items() if not 0 <= value < 1e9), None)


def bad_needs(variants: Iterable[Variant]) -> tuple[str, str] | None:
    """The first part of `variants` that no broker could accept, as (path, why)."""
    listed = tuple(variants)
    if not 0 < len(listed) <= 8:
        return "needs", "must list 1 to 8 variants"
    for index, variant in enumerate(listed):
        amounts: dict[str, float] = {
            "cpus": variant.cpus,
            "memory_gb": variant.memory_gb,
            "gpus": variant.gpus,
            "gpu_memory_gb": variant.gpu_memory_gb,
            **{f"named.{name}": amount for name, amount in variant.named.items()},
        }
        for field, amount in amounts.items():
            if not 0 <= amount < 1e6:
                return f"needs[{index}].{field}", "must be a number from 0 to under 1000000"
    return None
