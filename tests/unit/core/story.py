"""A story of the broker's mind: peers speak in messages, and hear what the machine answers.

`Story` wraps the machine, a clock, a journal in memory and everybody's inbox. A test reads like
what happens: a worker registers, a client submits, the worker gets the task and ends it. Whatever
the machine sends has to be taken by somebody: `Story.end` fails when a message is left over, checks
every invariant, and shows that the journal replayed, and the records restored, are the live state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.core.effects import (
    Beat,
    Effect,
    Persist,
    ReplyToClient,
    SendToWorker,
    Telemetry,
)
from broker.core.events import Event, Heard, Turn
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
from broker.core.state import BrokerState, TaskRecord
from corral.messages import (
    Explanation,
    Kind,
)
from corral.settings import BrokerSettings
from corral.tasks import State
from corral.wire import (
    Beaten,
    Dialect,
)
from tests.unit.core.peers import (
    Client,
    Native,
    Peer,
    Plain,
)

START = 1_000_000.0


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
        "unfinished": (state.unfinished, state.unfinished_bytes),
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
