"""What one turn sends, packed into as few messages as its peers understand.

Frames, not bytes, are the cost of ZeroMQ, so all that one turn has for one native peer travels
together: attempts by booking, answers by service, outcomes of collecting clients in one list.
Plain peers get what their RFC says, one message each. Sending never waits: a peer that takes
nothing for long is given up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec
import zmq

from broker.core.doors import frames_of
from broker.core.effects import (
    AssignTask,
    Beat,
    Disconnect,
    Effect,
    Persist,
    ReplyPlain,
    ReplyToClient,
    SendToWorker,
    Telemetry,
)
from broker.core.state import BrokerState, TaskRecord
from broker.store import Store
from corral import wire
from corral.errors import NotFound, StoreCorrupt
from corral.messages import (
    Answer,
    Assign,
    Chunk,
    Item,
    KeysAre,
    Lane,
    Outcome,
    Outcomes,
    Refused,
    ResultAck,
)
from corral.tasks import Failure
from corral.wire import Frames

MAX_BYTES = 8 << 20  # of values in one message to a native peer
MAX_ITEM = 60 << 20  # bytes of one attempt: workers take messages of 64 MiB
MAX_WAITING = 1000  # messages a slow peer may leave waiting
LOST = (NotFound, StoreCorrupt)  # a file that is gone or altered
log = logging.getLogger("corral.broker")


class Outbox:
    """Gathers what is to be sent, and sends it."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        store: Store,
        lost: Callable[[bytes], None],
        unsendable: Callable[[bytes, Failure], None],
    ) -> None:
        self.socket = socket
        self.store = store
        self.lost = lost  #: told of a peer that cannot be reached
        self.unsendable = unsendable  #: told of a token whose inputs cannot be sent, and why
        self.waiting: dict[bytes, deque[Frames]] = {}
        self.barred: set[bytes] = set()  #: peers whose key was revoked: they hear refusals alone
        self._acks: dict[bytes, list[int]] = {}
        self._answers: dict[tuple[bytes, str, bool], list[Answer]] = {}
        self._outcomes: dict[bytes, list[Outcome]] = {}
        self._attempts: dict[bytes, list[AssignTask]] = {}

    def add(self, effects: Sequence[Effect], state: BrokerState) -> None:
        """Take over what has to be sent, in order, except what can travel together."""
        for effect in effects:
            if self.barred and self._is_barred(effect):
                continue
            if isinstance(effect, AssignTask):
                if effect.native:
                    self._attempts.setdefault(effect.peer, []).append(effect)
                else:
                    self._assign_plain(effect, state)
            elif isinstance(effect, ReplyToClient):
                answer = effect.answer
                if type(answer) is Outcomes and not answer.request:
                    self._outcomes.setdefault(effect.peer, []).extend(answer.items)
                else:
                    key = (effect.peer, effect.service, effect.final)
                    self._answers.setdefault(key, []).append(answer)
            elif isinstance(effect, SendToWorker):
                message = effect.message
                if type(message) is ResultAck:
                    self._acks.setdefault(effect.peer, []).extend(message.seqs)
                else:
                    self.send(effect.peer, wire.extension(message))
            elif isinstance(effect, Beat):
                self.send(effect.peer, wire.heartbeat(effect.dialect))
            elif isinstance(effect, ReplyPlain):
                self._reply_plain(effect)
            elif isinstance(effect, Disconnect):
                self.send(effect.peer, wire.disconnect(effect.dialect))

    def bar(self, peer: bytes) -> None:
        """Send a peer only why, until its key gives access again or nobody has its id."""
        self.barred.add(peer)
        self.waiting.pop(peer, None)

    def _is_barred(self, effect: Effect) -> bool:
        if isinstance(effect, Persist | Telemetry) or effect.peer not in self.barred:
            return False
        # Whoever revoked a key of its own hears of it.
        return not (isinstance(effect, ReplyToClient) and type(effect.answer) in (Refused, KeysAre))

    def flush(self, state: BrokerState) -> None:
        """Send what was gathered."""
        acks, self._acks = self._acks, {}
        for peer, seqs in acks.items():
            self.send(peer, wire.extension(ResultAck(seqs)))
        attempts, self._attempts = self._attempts, {}
        for peer, ones in attempts.items():
            self._assign(peer, ones, state)
        answers, self._answers = self._answers, {}
        for (peer, service, final), items in answers.items():
            self._send_answers(peer, service, items, final)
        outcomes, self._outcomes = self._outcomes, {}
        for peer, ended in outcomes.items():
            self._send_answers(peer, "corral.submit", [Outcomes(b"", ended)], False)

    def _send_answers(self, peer: bytes, service: str, answers: list[Answer], final: bool) -> None:
        batch: list[Answer] = []
        size = 0
        for answer in answers:
            for part, weight, last in _parts(answer):
                if not last:  # it travels alone and goes ahead
                    self.send(peer, wire.answers(service, [part], False))
                    continue
                if batch and size + weight > MAX_BYTES:
                    self.send(peer, wire.answers(service, batch, final))
                    batch, size = [], 0
                batch.append(part)
                size += weight
        self.send(peer, wire.answers(service, batch, final))

    # --- attempts ------------------------------------------------------------------------------

    def _assign(self, peer: bytes, ones: list[AssignTask], state: BrokerState) -> None:
        lanes: dict[int, Lane] = {}
        size = 0
        for one in ones:
            task = state.tasks[one.id]
            if task.attempt is None or task.attempt.token != one.token:
                continue  # cancelled later in the same turn
            item = self._item(task, one.token, state)
            if isinstance(item, Failure):
                self.unsendable(one.token, item)
                continue
            weight = _weight(item)
            if lanes and size + weight > MAX_BYTES:
                self.send(peer, wire.extension(Assign(list(lanes.values()))))
                lanes, size = {}, 0
            size += weight
            lane = lanes.get(one.booking)
            if lane is None:
                booking = task.attempt.booking
                need = task.klass.needs[booking.variant]
                lane = lanes[one.booking] = Lane(
                    one.booking, task.spec.kind, need.cpus, need.memory_gb, booking.gpus,
                    task.spec.run_limit, [],
                )  # fmt: skip
            lane.items.append(item)
        if lanes:
            self.send(peer, wire.extension(Assign(list(lanes.values()))))

    def _item(self, task: TaskRecord, token: bytes, state: BrokerState) -> Item | Failure:
        """An attempt with all that it needs, or why that cannot be sent."""
        attempt = task.attempt
        assert attempt is not None
        what = "its checkpoint"
        parents = {}
        try:
            checkpoint = self._checkpoint(task)
            weight = memoryview(task.spec.params).nbytes + len(checkpoint or b"")
            for name, id in task.spec.after.items():
                what = f"the result of its parent {name} ({id})"
                parent = state.tasks[id]
                weight += self._size_of(parent)
                if weight <= MAX_ITEM:  # else only the sum matters: it may be many gigabytes
                    parents[name] = self._value_of(parent)
        except (*LOST, OSError) as error:
            why = f"{what} cannot be read: {error}"
            log.error("task %s: %s", task.id, why)
            # What the system refuses now it may give later.
            return Failure("input_lost" if isinstance(error, LOST) else "input_unreadable", why)
        if weight > MAX_ITEM:
            why = f"its params, checkpoint and parents' results are {weight} bytes together"
            return Failure("inputs_too_large", why)
        return Item(token, task.id, attempt.number, task.spec.params, parents, checkpoint)

    def _checkpoint(self, task: TaskRecord) -> bytes | None:
        """Where its last attempt was. None: nowhere, so it begins anew."""
        if not task.checkpoint:
            return None
        try:
            return self.store.blob_get(task.checkpoint)
        except LOST as error:
            log.error("task %s begins anew, its checkpoint is lost: %s", task.id, error)
            return None

    def _size_of(self, task: TaskRecord) -> int:
        return self.store.blob_size(task.blob) if task.blob else memoryview(task.value).nbytes

    def _value_of(self, task: TaskRecord) -> msgspec.Raw:
        return msgspec.Raw(self.store.blob_get(task.blob)) if task.blob else task.value

    def _assign_plain(self, effect: AssignTask, state: BrokerState) -> None:
        task = state.tasks[effect.id]
        if task.attempt is not None and task.attempt.token == effect.token:
            body = frames_of(task.spec.params)
            self.send(effect.peer, wire.request(effect.dialect, effect.token, body))

    def _reply_plain(self, effect: ReplyPlain) -> None:
        body = effect.body
        if effect.blob:
            try:
                body = [*body, *frames_of(self.store.blob_get(effect.blob))]
            except (*LOST, OSError) as error:
                log.error("a result for a client of %s cannot be read: %s", effect.service, error)
                return
        self.send(effect.peer, wire.reply(effect.dialect, effect.service, body, effect.final))

    # --- the socket ----------------------------------------------------------------------

    def send(self, peer: bytes, frames: Frames) -> bool:
        """Send now, or keep it for a peer whose queue is full. False: it is not on its way."""
        queue = self.waiting.get(peer)
        if queue is not None:
            if len(queue) >= MAX_WAITING:
                del self.waiting[peer]
                self.lost(peer)
                return False
            queue.append(frames)
            return False
        try:
            self.socket.send_multipart([peer, *frames], zmq.NOBLOCK)
        except zmq.Again:
            self.waiting[peer] = deque([frames])
            return False
        except zmq.ZMQError:  # EHOSTUNREACH: nobody has that routing id any more
            self.barred.discard(peer)
            self.lost(peer)
            return False
        return True

    def retry(self) -> None:
        """Try again what slow peers left waiting."""
        for peer in list(self.waiting):
            queue = self.waiting[peer]
            try:
                while queue:
                    self.socket.send_multipart([peer, *queue[0]], zmq.NOBLOCK)
                    queue.popleft()
            except zmq.Again:
                continue
            except zmq.ZMQError:
                self.barred.discard(peer)
                self.lost(peer)
            del self.waiting[peer]


def _parts(answer: Answer) -> Iterator[tuple[Answer, int, bool]]:
    """An answer in parts of about MAX_BYTES: (part, bytes of values, whether it is the last)."""
    if type(answer) is not Outcomes:
        yield answer, len(answer.data) if type(answer) is Chunk else 0, True
        return
    part: list[Outcome] = []
    size = 0
    for outcome in answer.items:
        weight = memoryview(outcome.value).nbytes
        if outcome.failure is not None:
            weight += len(outcome.failure.message) + len(outcome.failure.traceback)
        if part and size + weight > MAX_BYTES:
            yield Outcomes(answer.request, part), size, False
            part, size = [], 0
        part.append(outcome)
        size += weight
    yield Outcomes(answer.request, part, answer.last), size, True


def _weight(item: Item) -> int:
    """Bytes that an attempt brings into a message."""
    values = sum(memoryview(value).nbytes for value in item.parents.values())
    return memoryview(item.params).nbytes + values + len(item.checkpoint or b"")
