"""Doors for peers that speak plain Majordomo: requests, replies, MMI (RFC 8) and Titanic (RFC 9).

All lead to the same durable queue. A plain request is a task of the kind it names; the reply is its
result. Plain Majordomo has no way to say that a task failed: such a request gets no reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from broker.core.admission import MAX_PARAMS, Planned, has_room, nested_too_deep
from broker.core.effects import ReplyPlain, ReplyToClient
from broker.core.events import Heard
from broker.core.facts import Aliased
from broker.core.fleet import RESERVED
from broker.core.state import BrokerState, TaskRecord
from corral.messages import NIL, Ended, Outcome, Raw, Refused
from corral.tasks import Spec, State, is_name, request_id
from corral.wire import (
    Beaten,
    Dialect,
    Frames,
    Inbound,
    Malformed,
    Parted,
    Readied,
    Replied,
    Requested,
)

if TYPE_CHECKING:
    from broker.core.machine import Broker

FOLD_AGE = 2.0  # seconds: a plain client resends no sooner
MAX_FOLDING = 100_000  # requests that a resend may fold onto
MAX_ALIASES = 200_000  # requests of Titanic's that nobody has closed: every fold writes them all
MAX_STRANGERS = 10_000  # tasks of kinds that nobody has announced
_PACK = msgspec.msgpack.Encoder().encode


class PlainWaiter(NamedTuple):
    """A plain client that waits for a task."""

    peer: bytes
    dialect: Dialect
    service: str
    request: bytes = b""


class Doors:
    """What plain peers may do, by message."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.requests = 0
        self.folding: dict[bytes, str] = {}  #: digest of service and content -> task in flight

    def heard(self, event: Heard, now: float) -> None:
        """Anything that is not a native call or extension."""
        _HANDLERS[type(event.message)](self, event, event.message, now)

    # --- workers --------------------------------------------------------------------------

    def _readied(self, event: Heard, message: Readied, now: float) -> None:
        fleet = self.broker.fleet
        if message.document is not None and message.dialect is Dialect.MDP02:
            fleet.ready(event.peer, message.document, now)
        else:
            fleet.ready_plain(event.peer, message.dialect, message.service, now)

    def _beaten(self, event: Heard, message: Beaten, now: float) -> None:
        self.broker.fleet.beat(event.peer, message.dialect, now)

    def _parted(self, event: Heard, message: Parted, now: float) -> None:
        self.broker.fleet.parted(event.peer, now)

    def _replied(self, event: Heard, message: Replied, now: float) -> None:
        fleet = self.broker.fleet
        worker = fleet.peers.get(event.peer)
        if worker is None or worker.dialect != message.dialect:
            fleet.turn_away(event.peer, message.dialect, "unknown worker", now)
            return
        worker.seen = now
        attempt = self.broker.state.attempts.get(message.token)
        if attempt is None or attempt.booking.worker is not worker:
            self.broker.refused["late result"] += 1
        elif message.final:
            blob = event.blobs.get(message.token, "")
            value = NIL if blob else Raw(_PACK(message.body or [b""]))  # clients count on a body
            ended = Ended(message.token, "ok", now - attempt.at, value)
            self.broker.ended(event.peer, worker, ended, blob, now)
        elif not attempt.revoked:
            self._partial(attempt.task, message.body)

    def _partial(self, task: TaskRecord, body: Frames) -> None:
        """A PARTIAL goes to clients of 0.2; those of 0.1 would take it for the reply."""
        for waiter in task.collectors or ():
            if isinstance(waiter, PlainWaiter) and waiter.dialect is Dialect.MDP02:
                self.broker.effects.append(
                    ReplyPlain(waiter.peer, waiter.dialect, waiter.service, body, False)
                )

    def _malformed(self, event: Heard, message: Malformed, now: float) -> None:
        broker = self.broker
        reason = f"foreign: {message.foreign}" if message.foreign else message.reason
        if message.dialect is not None:
            broker.fleet.strike(event.peer, message.dialect, reason, now)
            return
        broker.refused[reason] += 1
        if message.request:
            what = f"the call cannot be read: {message.detail}"
            answer = Refused(message.request, "usage", {"what": what})
            broker.effects.append(ReplyToClient(event.peer, "corral.submit", answer, True))

    # --- clients --------------------------------------------------------------------------

    def _requested(self, event: Heard, message: Requested, now: float) -> None:
        service = message.service
        if event.peer in self.broker.fleet.peers:
            self.broker.fleet.turn_away(event.peer, message.dialect, "header changed", now)
        elif service.startswith("mmi."):
            self._reply(event, message, self._mmi(service, message.body))
        elif service.startswith("titanic."):
            action = _TITANIC.get(service)
            body = [b"501"] if action is None else action(self, event, message.body, now)
            if isinstance(body, TaskRecord):
                self._deliver_titanic(event, message, body)
            else:
                self._reply(event, message, body)
        else:
            self._request(event, message, now)

    def _reply(self, event: Heard, message: Requested, body: Frames) -> None:
        self.broker.effects.append(
            ReplyPlain(event.peer, message.dialect, message.service, body, True)
        )

    def _request(self, event: Heard, message: Requested, now: float) -> None:
        state = self.broker.state
        digest = blake2b(_PACK([message.service, message.body]), digest_size=16).digest()
        waiter = PlainWaiter(event.peer, message.dialect, message.service)
        task = state.tasks.get(self.folding.get(digest, ""))
        if task is not None and task.live and self._folds(task, event.peer, now):
            task.collectors = (waiter,)
            return
        task = self._make(message.service, message.body, now)
        if task is not None:
            task.collectors = (waiter,)
            self.folding[digest] = task.id
            if len(self.folding) > MAX_FOLDING:
                tasks = state.tasks
                self.folding = {
                    k: id for k, id in self.folding.items() if id in tasks and tasks[id].live
                }

    def _folds(self, task: TaskRecord, peer: bytes, now: float) -> bool:
        """Whether an equal request from `peer` is a resend: another routing id, old enough."""
        age = now - task.submitted
        return FOLD_AGE <= age <= self.broker.settings.fold_after and all(
            isinstance(waiter, PlainWaiter) and waiter.peer != peer
            for waiter in task.collectors or ()
        )

    def _make(self, service: str, body: Frames, now: float) -> TaskRecord | None:
        """A task from frames; None, counted, when it cannot be one."""
        broker = self.broker
        state = broker.state
        entry = state.catalog.get(service)
        size = sum(map(len, body))
        if broker.full:
            self.broker.refused["store_full"] += 1
            return None
        if not has_room(state, 1, size):
            self.broker.refused["busy"] += 1
            return None
        if entry is None and self._strangers() >= MAX_STRANGERS:
            self.broker.refused["unknown service"] += 1
            return None
        if size > MAX_PARAMS:
            self.broker.refused["oversized request"] += 1
            return None
        if entry is None or entry.kind.frames:
            params = Raw(_PACK(body))
        else:
            found = _json_object(body)
            if found is None:
                self.broker.refused["body is no JSON object"] += 1
                return None
            params = Raw(_PACK(found))
            if nested_too_deep(params):
                self.broker.refused["nested too deep"] += 1
                return None
        self.requests += 1
        spec = Spec(service, params, queue_limit=broker.settings.plain_queue_limit)
        id = request_id(broker.prefix, self.requests)
        return broker.accept(Planned(id, spec, False, None, False), now)

    def _strangers(self) -> int:
        """How many tasks wait for services that nobody has announced."""
        state = self.broker.state
        active = state.queue.active.values()
        return sum(klass.size for klass in active if state.catalog.get(klass.kind) is None)

    def deliver(self, waiter: PlainWaiter, task: TaskRecord, outcome: Outcome) -> None:
        """Send a plain client its reply; when there is no result, there is none to send."""
        if outcome.state is State.SUCCEEDED:
            body = [] if outcome.blob else frames_of(outcome.value)
            self.broker.effects.append(
                ReplyPlain(waiter.peer, waiter.dialect, waiter.service, body, True, outcome.blob)
            )

    # --- MMI (RFC 8) ----------------------------------------------------------------------

    def _mmi(self, service: str, body: Frames) -> Frames:
        name = body[0].decode("utf-8", "replace")
        state = self.broker.state
        serving = [w for w in state.workers.values() if w.open and name in w.kinds]
        if service == "mmi.service":
            return [b"200" if serving else b"404"]
        if service == "mmi.workers":
            return [b"200", json.dumps(sorted(worker.name for worker in serving)).encode()]
        if service == "mmi.queue":
            size = sum(c.size for c in state.queue.active.values() if c.kind == name)
            return [b"200", str(size).encode()]
        if service == "mmi.version":
            return [b"200", b"MDP/0.1 MDP/0.2"]
        return [b"501"]

    # --- Titanic (RFC 9) ------------------------------------------------------------------

    def _titanic_request(self, event: Heard, body: Frames, now: float) -> Frames:
        service = body[0].decode("utf-8", "replace")
        if len(body) < 2 or not is_name(service) or service.startswith(RESERVED):
            return [b"400"]
        if len(self.broker.state.aliases) >= MAX_ALIASES:
            self.broker.refused["too many open requests"] += 1
            return [b"500"]
        task = self._make(service, body[1:], now)
        if task is None:
            return [b"500"]
        self.requests += 1
        alias = blake2b(
            self.broker.prefix + self.broker.seed + self.requests.to_bytes(8, "big"), digest_size=16
        ).hexdigest()
        self.broker._fact(Aliased(alias, task.id))
        return [b"200", alias.encode()]

    def _titanic_reply(self, event: Heard, body: Frames, now: float) -> Frames | TaskRecord:
        state = self.broker.state
        id = state.aliases.get(_alias(body))
        if id is None:
            return [b"400"]
        task = state.tasks.get(id)
        if task is None:  # the store, which has it, could not give it back
            return [b"500"]
        if task.live:
            return [b"300"]
        if task.state is not State.SUCCEEDED:
            return [b"400", f"FAILED {task.state}".encode()]
        return task

    def _deliver_titanic(self, event: Heard, message: Requested, task: TaskRecord) -> None:
        body = [b"200"] if task.blob else [b"200", *frames_of(task.value)]
        self.broker.effects.append(
            ReplyPlain(event.peer, message.dialect, message.service, body, True, task.blob)
        )

    def _titanic_close(self, event: Heard, body: Frames, now: float) -> Frames:
        state = self.broker.state
        alias = _alias(body)
        id = state.aliases.get(alias)
        if id is not None:
            self.broker._fact(Aliased(alias, ""))
            task = state.tasks.get(id)
            last = id not in state.aliased
            if task is not None and last and task.state in (State.QUEUED, State.WAITING):
                self.broker.cancel(task, now, "its last Titanic client closed it")
        return [b"200"]


def ids_wanted(state: BrokerState, message: Requested) -> list[str]:
    """The task whose reply is asked for, when it is not in memory: the store has it."""
    if message.service != "titanic.reply":
        return []
    id = state.aliases.get(_alias(message.body), "")
    return [id] if id and id not in state.tasks else []


def _alias(body: Frames) -> str:
    return body[0].decode("ascii", "replace").lower()


def _json_object(body: Frames) -> Any:
    """The one JSON object that the frames are; None when they are something else."""
    if len(body) != 1:
        return None
    try:
        found = msgspec.json.decode(body[0])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def frames_of(packed: Raw | bytes) -> Frames:
    """A packed value as plain frames: bytes as they are, anything else as one JSON frame.

    What JSON cannot say stays msgpack.
    """
    try:
        value = msgspec.msgpack.decode(packed)
        if isinstance(value, bytes):
            return [value]
        if isinstance(value, list) and value and all(isinstance(item, bytes) for item in value):
            return value
        return [msgspec.json.encode(value)]
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return [bytes(packed)]


_HANDLERS: dict[type[Inbound], Callable[[Doors, Heard, Any, float], None]] = {
    Readied: Doors._readied,
    Beaten: Doors._beaten,
    Parted: Doors._parted,
    Replied: Doors._replied,
    Malformed: Doors._malformed,
    Requested: Doors._requested,
}
_TITANIC: dict[str, Callable[[Doors, Heard, Frames, float], Any]] = {
    "titanic.request": Doors._titanic_request,
    "titanic.reply": Doors._titanic_reply,
    "titanic.close": Doors._titanic_close,
}
