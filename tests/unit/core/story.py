"""A story of the broker's mind: peers speak in messages, and hear what the machine answers.

`Story` wraps the machine, a clock, a journal in memory and everybody's inbox. A test reads like
what happens: a worker registers, a client submits, the worker gets the task and ends it. Whatever
the machine sends has to be taken by somebody: `Story.end` fails when a message is left over, checks
every invariant, and shows that the journal replayed, and the records restored, are the live state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

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
from broker.core.events import Event, Heard, PeerLost, Turn
from broker.core.explain import explain
from broker.core.facts import (
    Fact,
    decode_facts,
    decode_kept,
    decode_record,
    encode_facts,
    encode_kept,
    encode_record,
)
from broker.core.machine import Broker
from broker.core.queues import Lane
from broker.core.resources import Worker
from broker.core.state import BrokerState, TaskRecord
from corral import messages, tasks
from corral.messages import (
    Accepted,
    CancelAttempts,
    Checkpoint,
    Document,
    Done,
    Ended,
    Explanation,
    Finished,
    Gpu,
    Kind,
    Nack,
    Outcome,
    Outcomes,
    Progress,
    Progressed,
    Raw,
    Refused,
    ResultAck,
    Welcome,
)
from corral.settings import BrokerSettings
from corral.tasks import Failure, Needs, Spec, State
from corral.wire import (
    Beaten,
    Called,
    Dialect,
    Extended,
    Inbound,
    Parted,
    Readied,
    Replied,
    Requested,
)

START = 1_000_000.0
ANYTHING = Kind("work", needs=tasks.needs(cpus=1.0))
T = TypeVar("T")


def packed(value: Any) -> Raw:
    """A value as the wire carries it."""
    return Raw(msgspec.msgpack.encode(value))


def spec(kind: str = "work", params: Any = None, **fields: Any) -> Spec:
    """A task as a client submits it."""
    return Spec(kind, packed({} if params is None else params), **fields)


def gpu(uuid: str, memory_gb: float = 24.0, foreign_gb: float = 0.0) -> Gpu:
    """A card."""
    return Gpu(uuid, memory_gb, "card", False, foreign_gb)


class Peer:
    """Somebody at the other end of the socket."""

    def __init__(self, story: Story, name: str) -> None:
        self.story = story
        self.name = name
        self.inbox: list[Any] = []
        self.beats = 0
        self._connections = 0
        self.connect()

    def connect(self) -> None:
        """Come from a new connection, with a new routing id."""
        self._connections += 1
        self.id = f"{self.name}#{self._connections}".encode()
        self.story.peers[self.id] = self

    def says(self, message: Inbound, who: str = "", blobs: dict[bytes, str] | None = None) -> None:
        """Send a message; a turn follows unless several things happen together.

        Args:
            blobs: token -> digest of a value that the shell has put on disk.
        """
        self.story.happens(Heard(self.id, message, who, blobs or {}))

    def takes(self, kind: type[T]) -> T:
        """The next thing in the inbox, which must be of this kind."""
        assert self.inbox, f"{self.name} got nothing; a {kind.__name__} was expected"
        found = self.inbox.pop(0)
        assert isinstance(found, kind), f"{self.name} got {found!r}, not a {kind.__name__}"
        return found

    def hears_nothing(self) -> None:
        """Nothing came."""
        assert self.inbox == [], f"{self.name} got {self.inbox!r}"


class Client(Peer):
    """A native client."""

    def __init__(self, story: Story, name: str) -> None:
        super().__init__(story, name)
        self.requests = 0

    def request(self) -> bytes:
        """A new request id."""
        self.requests += 1
        return f"{self.name}/{self.requests}".encode()

    def calls(self, call: messages.Call, who: str = "") -> None:
        """Call the broker."""
        self.says(Called(call), who)

    def submits(self, *specs: Spec, collect: bool = False, request: bytes = b"") -> list[str]:
        """Submit tasks, which are accepted; returns their ids."""
        request = request or self.request()
        self.calls(messages.Submit(request, list(specs), collect))
        ids, _, _ = self.is_accepted(request, len(specs))
        return ids

    def submit(self, kind: str = "work", params: Any = None, **fields: Any) -> str:
        """Submit one task."""
        [id] = self.submits(spec(kind, params, **fields))
        return id

    def is_accepted(self, request: bytes, count: int) -> tuple[list[str], list[int], list[str]]:
        """Ids, indices of those that were known, warnings."""
        accepted = self.takes(Accepted)
        assert accepted.request == request
        ids = accepted.ids or [tasks.request_id(request, index) for index in range(count)]
        return ids, accepted.known, accepted.warnings

    def is_refused(self, *specs: Spec) -> Refused:
        """Submit what is refused; nothing of it may be stored."""
        before = dict(self.story.state.tasks)
        self.calls(messages.Submit(self.request(), list(specs)))
        assert self.story.state.tasks == before
        return self.takes(Refused)

    def is_told(self, id: str) -> Outcome:
        """A single outcome that was pushed or asked for."""
        [outcome] = self.takes(Outcomes).items
        assert outcome.id == id
        return outcome

    def asks(self, *ids: str, wait: bool = True) -> bytes:
        """Ask for outcomes."""
        request = self.request()
        self.calls(messages.Results(request, list(ids), wait))
        return request

    def cancels(self, *ids: str, reason: str = "", who: str = "") -> Done:
        """Cancel tasks."""
        self.calls(messages.Cancel(self.request(), list(ids), reason), who)
        return self.takes(Done)

    def retries(self, *ids: str, who: str = "") -> Done:
        """Open new runs."""
        self.calls(messages.Retry(self.request(), list(ids)), who)
        return self.takes(Done)

    def drains(self, worker: str, who: str = "", **fields: Any) -> None:
        """Drain a worker."""
        self.calls(messages.Drain(self.request(), worker, **fields), who)
        assert self.takes(Done).changed == [worker]

    def resumes(self, worker: str, who: str = "") -> None:
        """Resume a worker."""
        self.calls(messages.Resume(self.request(), worker), who)
        assert self.takes(Done).changed == [worker]


class Native(Peer):
    """A native worker. It beats by itself while time passes, unless it is `silent`."""

    def __init__(self, story: Story, name: str, **document: Any) -> None:
        super().__init__(story, name)
        self.silent = False
        self.connected = False
        self.starts = 1
        self.fields: dict[str, Any] = {"kinds": [ANYTHING], "cpus": 8.0, "memory_gb": 32.0}
        self.fields |= document
        self.tokens: dict[str, bytes] = {}  #: task -> the last token it was given
        self.seq = 0

    @property
    def record(self) -> Worker:
        """What the broker knows of it."""
        return self.story.state.workers[self.name]

    def registers(self, *inflight: bytes, **document: Any) -> Welcome:
        """READY with a capability document, and WELCOME."""
        self.fields |= document
        self.connected = True
        self.says(self.readies(*inflight))
        return self.takes(Welcome)

    def readies(self, *inflight: bytes) -> Readied:
        """Its READY."""
        document = Document(
            name=self.name,
            incarnation=f"{self.name}.{self.starts}",
            inflight=list(inflight),
            **self.fields,
        )
        return Readied(Dialect.MDP02, "corral", document)

    def returns(self, *inflight: bytes, **document: Any) -> Welcome:
        """The same process comes back on a new connection."""
        self.connect()
        return self.registers(*inflight, **document)

    def restarts(self, *inflight: bytes, **document: Any) -> Welcome:
        """A new process of the same name registers."""
        self.starts += 1
        return self.returns(*inflight, **document)

    def gets(self, *ids: str) -> list[AssignTask]:
        """Exactly these tasks are next in its inbox, in this order."""
        found: list[AssignTask] = []
        while self.inbox and isinstance(self.inbox[0], AssignTask):
            found.append(self.takes(AssignTask))
        assert [one.id for one in found] == list(ids), f"{self.name} got {found!r}"
        for one in found:
            self.tokens[one.id] = one.token
        return found

    def gets_any(self, assigned: AssignTask) -> None:
        """This one, wherever it stands in the inbox."""
        self.inbox.remove(assigned)
        self.tokens[assigned.id] = assigned.token

    def token(self, id: str) -> bytes:
        """The token of the attempt it was given last."""
        return self.tokens[id]

    def ends(self, *ids: str, outcome: str = "ok", seconds: float = 1.0, **fields: Any) -> None:
        """Attempts are over; the broker acknowledges."""
        self.finishes(*(Ended(self.token(id), outcome, seconds, **fields) for id in ids))

    def finishes(self, *ended: Ended, blobs: dict[bytes, str] | None = None) -> None:
        """Report ends, and take the acknowledgement."""
        self.seq += 1
        self.says(Extended(Finished(self.seq, list(ended))), blobs=blobs)
        acks = [one for one in self.inbox if isinstance(one, ResultAck)]
        assert [ack.seqs for ack in acks] == [[self.seq]]
        self.inbox.remove(acks[0])

    def fails(
        self, id: str, type: str = "ValueError", outcome: str = "error", message: str = "bad"
    ) -> None:
        """An attempt did not succeed."""
        self.ends(id, outcome=outcome, failure=Failure(type, message))

    def begins(self, *ids: str) -> None:
        """Attempts have begun."""
        items = [Progressed(self.token(id), 0.0, started=True) for id in ids]
        self.says(Extended(Progress(items)))

    def saves(self, token: bytes, digest: str) -> None:
        """A checkpoint, which the shell has put on disk."""
        self.says(Extended(Checkpoint(token, b"state")), blobs={token: digest} if digest else {})

    def hands_back(self, *ids: str) -> None:
        """NACK: these attempts never began here."""
        self.says(Extended(Nack([self.token(id) for id in ids], "recalled")))

    def is_asked_to_stop(self, *ids: str) -> CancelAttempts:
        """CANCEL for exactly these attempts."""
        asked = self.takes(CancelAttempts)
        assert asked.tokens == [self.token(id) for id in ids]
        return asked

    def lets_go(self, id: str) -> None:
        """It stopped what it was asked to stop."""
        self.ends(id, outcome="cancelled")

    def beats_now(self) -> None:
        """HEARTBEAT."""
        self.says(Beaten(Dialect.MDP02))

    def parts(self) -> None:
        """DISCONNECT: it leaves in order."""
        self.connected = False
        self.says(Parted(Dialect.MDP02))

    def vanishes(self) -> None:
        """Its connection is gone, as ROUTER says when something is sent."""
        self.connected = False
        self.story.happens(PeerLost(self.id))


class Plain(Peer):
    """A peer that speaks plain Majordomo of one dialect: a client or a worker."""

    def __init__(self, story: Story, name: str, dialect: Dialect) -> None:
        super().__init__(story, name)
        self.dialect = dialect

    def requests(self, service: str, *frames: bytes) -> None:
        """Ask for a service."""
        self.says(Requested(self.dialect, service, list(frames)))

    def hears(self, *frames: bytes, service: str, final: bool = True, blob: str = "") -> None:
        """A reply came, and it is this."""
        reply = self.takes(ReplyPlain)
        assert (reply.dialect, reply.service) == (self.dialect, service)
        assert (reply.body, reply.final, reply.blob) == (list(frames), final, blob)

    def serves(self, service: str) -> None:
        """READY for one service."""
        self.says(Readied(self.dialect, service, None))

    def gets(self, id: str) -> bytes:
        """A task came; returns its token."""
        assigned = self.takes(AssignTask)
        assert (assigned.id, assigned.dialect, assigned.native) == (id, self.dialect, False)
        return assigned.token

    def takes_token(self) -> bytes:
        """Whatever task came; its token."""
        return self.takes(AssignTask).token

    def replies(self, token: bytes, *frames: bytes, final: bool = True, blob: str = "") -> None:
        """Answer a request."""
        blobs = {token: blob} if blob else {}
        self.says(Replied(self.dialect, token, list(frames), final), blobs=blobs)

    def beats_now(self) -> None:
        """HEARTBEAT."""
        self.says(Beaten(self.dialect))

    def parts(self) -> None:
        """DISCONNECT."""
        self.says(Parted(self.dialect))

    def is_turned_away(self) -> None:
        """DISCONNECT from the broker."""
        assert self.takes(Disconnect).dialect == self.dialect


class Story:
    """The machine and everybody around it."""

    def __init__(self, settings: BrokerSettings | None = None, seed: bytes = b"story") -> None:
        self.settings = settings or BrokerSettings()
        self.seed = seed
        self.epoch = 1
        self.now = START
        self.peers: dict[bytes, Peer] = {}
        self.journal: list[bytes] = []  #: a row for each turn that made facts
        self.telemetry: list[Telemetry] = []
        self.tables: dict[str, tuple[int, bytes]] = {}  #: task -> (row it is as of, record)
        self.kept: tuple[int, bytes] = (0, b"")
        self.trimmed = 0  #: rows that the journal no longer holds
        self._row: list[Fact] = []
        self._together = False
        self.broker = Broker(self.settings, seed, self.epoch, now=self.now)

    @property
    def state(self) -> BrokerState:
        """What the broker knows."""
        return self.broker.state

    # --- who takes part -------------------------------------------------------------------

    def client(self, name: str = "client") -> Client:
        """A native client."""
        return Client(self, name)

    def worker(self, name: str = "w1", **document: Any) -> Native:
        """A native worker that has registered."""
        worker = Native(self, name, **document)
        assert worker.registers().adopted == []
        return worker

    def announces(self, *kinds: Kind) -> None:
        """A worker announced these kinds, and left again."""
        with self.together():
            passing = self.worker("passing", kinds=list(kinds))
            passing.parts()

    def plain(self, name: str, dialect: Dialect = Dialect.MDP02) -> Plain:
        """A peer of plain Majordomo."""
        return Plain(self, name, dialect)

    # --- what happens ---------------------------------------------------------------------

    def happens(self, *events: Event) -> None:
        """Let the machine handle events, and take a turn."""
        for event in events:
            self._handle(event)
        if not self._together:
            self.turn()

    def turn(self) -> None:
        """See to what is due, place what can be placed, and commit."""
        self._handle(Turn())
        if self._row:
            self.journal.append(encode_facts(self._row))
            self._row = []
        self.broker.check()

    def _handle(self, event: Event) -> None:
        for index, effect in enumerate(self.broker.handle(event, self.now)):
            assert index == 0 or not isinstance(effect, Persist), "facts come before all else"
            self._deliver(effect)

    def _deliver(self, effect: Effect) -> None:
        if isinstance(effect, Persist):
            assert effect.facts
            self._row += effect.facts
        elif isinstance(effect, Telemetry):
            self.telemetry.append(effect)
        elif isinstance(effect, Beat):
            self.peers[effect.peer].beats += 1
        else:
            peer = self.peers[effect.peer]
            if isinstance(effect, SendToWorker):
                peer.inbox.append(effect.message)
            elif isinstance(effect, ReplyToClient):
                peer.inbox.append(effect.answer)
            else:
                peer.inbox.append(effect)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Several things arrive before one turn."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
        self.turn()

    def later(self, seconds: float) -> None:
        """Time passes; the machine comes back whenever it said that it must."""
        until = self.now + seconds
        while (due := self.broker.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            for peer in list(self.peers.values()):
                if isinstance(peer, Native) and peer.connected and not peer.silent:
                    self._handle(Heard(peer.id, Beaten(Dialect.MDP02)))
            self.turn()
            after = self.broker.next_deadline()
            assert after is None or after > self.now, "the machine would spin"
        self.now = until

    def progress(self) -> Telemetry:
        """The next sampled progress."""
        return self.telemetry.pop(0)

    def explain(self, id: str) -> Explanation:
        """Why a task stands where it stands. Explaining changes nothing."""
        before = snapshot(self.state)
        explanation = explain(self.state, id, self.now)
        assert snapshot(self.state) == before
        self.broker.check()
        return explanation

    # --- looking --------------------------------------------------------------------------

    def task(self, id: str) -> TaskRecord:
        """What the broker knows of a task."""
        return self.state.tasks[id]

    def is_(self, id: str, state: State) -> None:
        """A task is in this state."""
        assert self.task(id).state is state

    def causes(self, id: str) -> list[str]:
        """The causes in a task's story."""
        return [step.cause for step in self.task(id).story or ()]

    # --- folding --------------------------------------------------------------------------

    def fold(self, *ids: str) -> None:
        """Keep records of these tasks as they are after the last row."""
        lsn = len(self.journal)
        for id in ids:
            self.tables[id] = (lsn, encode_record(self.state.record(self.task(id))))

    def fold_rest(self, begun: int | None = None) -> None:
        """Keep records of all tasks, and what belongs to none; the journal need not hold more.

        Args:
            begun: the last row when this pass of folding began; later ones stay in the journal.
        """
        lsn = len(self.journal)
        self.fold(*self.state.tasks)
        self.kept = (lsn, encode_kept(self.state.kept(lsn)))
        self.trimmed = lsn if begun is None else begun

    def loaded(self) -> BrokerState:
        """The state that records, and the rows of the journal after them, lead to."""
        state = BrokerState(self.settings)
        folded = {"": self.kept[0]}
        if self.kept[1]:
            state.restore_kept(decode_kept(self.kept[1]))
        for id, (lsn, record) in self.tables.items():
            folded[id] = lsn
            state.restore(decode_record(record))
        for lsn, row in enumerate(self.journal[self.trimmed :], self.trimmed + 1):
            state.replay(lsn, decode_facts(row), folded)
        state.rejoin()
        return state

    # --- restarting -----------------------------------------------------------------------

    def replayed(self) -> BrokerState:
        """The state that the journal leads to."""
        state = BrokerState(self.settings)
        for lsn, row in enumerate(self.journal, 1):
            state.replay(lsn, decode_facts(row), {})
        return state

    def reloaded(self) -> BrokerState:
        """The same, put in order as a broker does that starts."""
        state = self.replayed()
        state.rejoin()
        return state

    def restored(self) -> BrokerState:
        """The state that records of everything lead to."""
        state = BrokerState(self.settings)
        kept = encode_kept(self.state.kept(len(self.journal)))
        state.restore_kept(decode_kept(kept))
        records = [encode_record(self.state.record(task)) for task in self.state.tasks.values()]
        for record in records:
            state.restore(decode_record(record))
        state.rejoin()
        return state

    def restart(self, state: BrokerState | None = None) -> None:
        """The broker dies and starts again from its journal; every connection is gone."""
        self.nothing_else()
        self.epoch += 1
        state = state or self.reloaded()
        before = list(self.peers.values())
        self.peers.clear()
        for peer in before:
            if isinstance(peer, Native):
                peer.connected = False  # it registers again when the test says so
            else:
                peer.connect()
        self.broker = Broker(self.settings, self.seed, self.epoch, state, self.now)
        self.turn()

    # --- the end --------------------------------------------------------------------------

    def nothing_else(self) -> None:
        """Nothing was sent that nobody took."""
        left = {peer.id.decode(): peer.inbox for peer in self.peers.values() if peer.inbox}
        assert left == {}, f"nobody expected {left!r}"
        assert self.telemetry == []

    def end(self) -> None:
        """What every story ends with."""
        self.nothing_else()
        self.broker.check()
        live = snapshot(self.state)
        replayed = self.replayed()
        replayed.check()
        if self.epoch == 1:  # a restart puts what is queued in order
            assert snapshot(replayed) == live
        assert unordered(snapshot(replayed)) == unordered(live)
        for state in (self.restored(), self.loaded()):
            state.check()
            assert unordered(snapshot(state)) == unordered(live)


def snapshot(state: BrokerState) -> dict[str, Any]:
    """All of a state that outlives a restart, as plain data."""
    return {
        "tasks": {id: encode_record(state.record(task)) for id, task in state.tasks.items()},
        "waiting": {
            task.id: task.waiting for task in state.tasks.values() if task.state is State.WAITING
        },
        "children": {
            task.id: sorted(child.id for child in task.children or () if child.live)
            for task in state.tasks.values()
            if any(child.live for child in task.children or ())
        },
        "lanes": {
            (lane.klass.key, lane.priority, lane.project.name): _standing(lane)
            for lane in state.queue.lanes()
        },
        "bookings": {
            one.number: (one.worker.name, one.variant, one.gpus, one.open, one.amount.need)
            for one in state.ledger.bookings.values()
        },
        "used": {
            worker.name: (worker.slots_used, worker.cpus_used, worker.memory_used)
            for worker in state.workers.values()
            if worker.bookings
        },
        "named": {name: used for name, used in state.ledger.named_used.items() if used},
        "gpus": dict(state.ledger.gpu_holder),
        "counts": +state.counts,
        "unfinished": state.unfinished,
        "counters": (state.order, state.booking),
        "kinds": {name: entry.kind for name, entry in state.catalog.entries.items()},
        "admissions": dict(state.admissions),
        "aliases": dict(state.aliases),
    }


def _standing(lane: Lane) -> list[str]:
    return [task.id for task in lane.tasks if task.lane is lane]


def unordered(shot: dict[str, Any]) -> dict[str, Any]:
    """The same without order and class of what is queued, which records do not keep.

    A task that names no needs of its own asks, after a restart, for what its kind announces then.
    """
    return {**shot, "lanes": sorted(id for ids in shot["lanes"].values() for id in ids)}


def kind(name: str = "work", needs: Needs = (), **fields: Any) -> Kind:
    """What a worker announces about a handler."""
    return Kind(name, needs=needs, **fields)


def by_worker(workers: Iterable[Native]) -> dict[str, list[str]]:
    """What each worker was given, in order: worker -> ids."""
    found: dict[str, list[str]] = {}
    for worker in workers:
        while worker.inbox:
            assigned = worker.takes(AssignTask)
            worker.tokens[assigned.id] = assigned.token
            found.setdefault(worker.name, []).append(assigned.id)
    return found
