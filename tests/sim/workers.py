"""Simulated native workers: an agent, its lanes, and children that do what their params say.

An agent keeps the wire contract of `worker.core` and is no more careful than that: it begins what
it is told to begin, so that a broker that books something twice is seen to. What children really
run, from when to when and with which resources, goes into the history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from msgspec import structs

from corral import wire
from corral.messages import (
    Assign,
    CancelAttempts,
    Checkpoint,
    Document,
    DrainWorker,
    Ended,
    FetchLog,
    Finished,
    Item,
    Kind,
    Lane,
    LogChunk,
    Nack,
    Progress,
    Progressed,
    Raw,
    Recall,
    Resources,
    ResultAck,
    Welcome,
)
from corral.tasks import Failure
from corral.wire import Extended, Frames, Parted
from tests.sim.network import HEARTBEAT, Host, Socket
from tests.sim.workload import pack, unpack

if TYPE_CHECKING:
    from tests.sim.world import World

SPOOL_AFTER = 5.0  # seconds of work that a result on disk protects
TICK = 2.0
LEASE = 10.0
_GARBAGE = ([b"MDPW02", b"\x7f", b"?"], [b"MDPW02", b"\x49", b"\xc1"], [b"MDPW02", b"\x49"])


class Booked:
    """A lane: what it holds, what runs in it, and what waits."""

    __slots__ = ("child", "lane", "queue", "running", "stopping")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.queue: deque[Item] = deque()
        self.running: Item | None = None
        self.child = 0  #: number of the child that runs it
        self.stopping = False


class NativeWorker:
    """One worker on one host."""

    def __init__(self, world: World, document: Document) -> None:
        self.world = world
        self.engine = world.engine
        self.document = document
        self.name = document.name
        self.host = Host(self.name)
        world.hosts.append(self.host)
        self.up = False
        self.incarnation = self.session = 0
        self.version = 0  #: of the drifting kind, when it serves that
        self.frozen: float | None = None  #: when it goes on
        self.children_frozen = False
        self.spool: dict[int, list[Ended]] = {}
        self._pending: list[Callable[[], None]] = []  #: what happened while it was frozen
        self._child = 0
        self._seq = 0
        self._begin()

    def _begin(self) -> None:
        self.socket: Socket | None = None
        self.welcomed = self.leaving = self.stubborn = False
        self.lanes: dict[int, Booked] = {}
        self.where: dict[bytes, Booked] = {}
        self.unacked: dict[int, list[Ended]] = {}
        self.acked: list[bytes] = []  #: tokens whose results the broker has: for late repeats
        self.heard_at = self.engine.now
        self._pending = []
        self.frozen = None

    # --- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """The agent starts, as a new incarnation; the disk still holds its spool."""
        if self.up:
            return
        self.incarnation += 1
        self._begin()
        self.up = True
        self.unacked = dict(self.spool)
        document = self.document
        kinds = [self._kind(kind) for kind in document.kinds]
        self.document = structs.replace(
            document,
            incarnation=f"{self.name}/{self.incarnation}",
            started=self.engine.now,
            kinds=kinds,
        )
        self.world.history.log(
            "up",
            worker=self.name,
            incarnation=self.document.incarnation,
            native=True,
            slots=document.slots,
            cpus=document.cpus,
            memory_gb=document.memory_gb,
            gpus={gpu.uuid: gpu.memory_gb for gpu in document.gpus},
            labels=document.labels,
            kinds=[kind.kind for kind in kinds],
        )
        self._connect()
        self.engine.after(self.engine.between(0.5, TICK), self._tick, self.incarnation)

    def _kind(self, kind: Kind) -> Kind:
        return self.world.kind_now(kind)

    def kill(self) -> None:
        """The whole machine stops: children and all that was only in memory are gone."""
        if not self.up:
            return
        self.up = False
        self._close()
        self.world.history.log(
            "down",
            worker=self.name,
            incarnation=self.document.incarnation,
            spooled=[e.token for items in self.spool.values() for e in items],
        )
        self._begin()

    def freeze(self, seconds: float, children: bool) -> None:
        """SIGSTOP for the agent, and perhaps for its children."""
        if self.up and self.frozen is None:
            self.frozen = self.engine.now + seconds
            self.children_frozen = children
            self.engine.at(self.frozen, self._thaw, self.incarnation)

    def _thaw(self, incarnation: int) -> None:
        if incarnation != self.incarnation or self.frozen is None:
            return
        self.frozen = None
        pending, self._pending = self._pending, []
        for action in pending:
            if self.incarnation == incarnation and self.up:
                action()

    def _when_awake(self, action: Callable[[], None]) -> bool:
        """False: it is frozen, and does it later."""
        if self.frozen is None:
            return True
        self._pending.append(action)
        return False

    def terminate(self) -> None:
        """SIGTERM: take nothing new, finish, leave in order."""
        if self.up and not self.leaving:
            self.leaving = True
            for booked in self.lanes.values():
                waiting = [item.token for item in booked.queue]
                booked.queue.clear()
                self._nack(waiting, "it is stopping")
            self._send(wire.extension(DrainWorker(True, "SIGTERM")))
            self.engine.after(60.0, self._give_up, self.incarnation)
            self._leave_when_done()

    def _give_up(self, incarnation: int) -> None:
        if incarnation == self.incarnation and self.up and self.leaving:
            self.kill()

    def _leave_when_done(self) -> None:
        if self.leaving and not self.lanes and not (self.unacked and self.welcomed):
            self.world.history.log("parted", worker=self.name)
            if self.socket is not None and self.socket.link is not None:
                self.socket.send(wire.disconnect())
            self.kill()
            self.world.later_start(self)

    # --- the session ----------------------------------------------------------------------

    def _connect(self) -> None:
        self._close()
        self.welcomed = False
        self.heard_at = self.engine.now
        self.socket = Socket(self.world.network, self.host, self.hear)
        self._greet()

    def _greet(self) -> None:
        # The READY waits in the socket until there is a connection; what it lists is as of now.
        self.session += 1
        ended = [ended.token for items in self.unacked.values() for ended in items]
        document = structs.replace(
            self.document, session=self.session, inflight=[*self.where, *ended]
        )
        assert self.socket is not None
        self.socket.send(wire.ready("corral", document))

    def _close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _send(self, frames: Frames) -> None:
        if self.socket is not None:
            self.socket.send(frames)

    def _tick(self, incarnation: int) -> None:
        if not self.up or incarnation != self.incarnation:
            return
        if self.frozen is not None:
            self.engine.at(self.frozen + 0.001, self._tick, incarnation)
            return
        self.engine.after(TICK, self._tick, incarnation)
        now = self.engine.now
        if now - self.heard_at > LEASE:
            self._connect()
        elif not self.engine.chance(0.003):  # else this beat is lost
            self._send(HEARTBEAT)
        if self.welcomed and self.unacked and self.engine.chance(0.1):
            self._resend()
        if self.engine.chance(0.002):
            self.change()

    def reconnect(self) -> None:
        """Its own watch on the connection fired: open another."""
        if self.up and self.frozen is None:
            self._connect()

    def hear(self, frames: Frames) -> None:
        """What the broker said."""
        if not self._when_awake(lambda: self.hear(frames)):
            return
        self.heard_at = self.engine.now
        if frames == HEARTBEAT:
            return
        heard = wire.heard_by_worker(frames)
        if isinstance(heard, Parted):
            self._connect()
        elif isinstance(heard, Extended):
            message = heard.message
            if self.welcomed or isinstance(message, Welcome):
                _MESSAGES[type(message)](self, message)

    def _welcome(self, message: Welcome) -> None:
        if self.welcomed:
            return
        self.welcomed = True
        adopted = set(message.adopted)
        # Some stop nothing, and deliver what nobody wants any more: no harm may come of it.
        stubborn = self.stubborn = self.engine.chance(0.3)
        for seq, items in list(self.unacked.items()):
            kept = [
                ended if stubborn or ended.token in adopted else Ended(ended.token, "cancelled")
                for ended in items
            ]
            self.unacked[seq] = kept
            if seq in self.spool:
                self.spool[seq] = kept
        if not stubborn:
            self._cancel([token for token in self.where if token not in adopted], 0.2)
        if self.leaving:
            self._send(wire.extension(DrainWorker(True, "SIGTERM")))
        self._resend()

    # --- work -----------------------------------------------------------------------------

    def _assign(self, message: Assign) -> None:
        for lane in message.lanes:
            fresh = [item for item in lane.items if item.token not in self.where]
            for item in fresh:
                self.world.history.log("got", worker=self.name, token=item.token, id=item.id)
            if self.leaving:
                self._nack([item.token for item in fresh], "it is stopping")
                continue
            booked = self.lanes.get(lane.booking)
            if booked is None:
                booked = self.lanes[lane.booking] = Booked(lane)
            booked.queue.extend(fresh)
            for item in fresh:
                self.where[item.token] = booked
            self._next(booked)

    def _next(self, booked: Booked) -> None:
        if booked.running is not None:
            return
        if not booked.queue:
            self.lanes.pop(booked.lane.booking, None)
            self._leave_when_done()
            return
        item = booked.running = booked.queue.popleft()
        lane = booked.lane
        self._child += 1
        booked.child = self._child
        booked.stopping = False
        params = unpack(item.params)
        self.world.history.log(
            "start",
            worker=self.name,
            incarnation=self.document.incarnation,
            token=item.token,
            id=item.id,
            attempt=item.attempt,
            booking=lane.booking,
            cpus=lane.cpus,
            memory_gb=lane.memory_gb,
            gpus=list(lane.gpus),
            named=dict(params.get("uses", {})),
            parents={name: bytes(value) for name, value in item.parents.items()},
            checkpoint=item.checkpoint,
        )
        outcome, seconds = _fate(item, lane, params)
        if seconds > 0.02 and self.welcomed:
            self._send(wire.extension(Progress([Progressed(item.token, 0.0, started=True)])))
        child = booked.child
        if seconds > 4.0:
            self.engine.after(seconds / 2, self._child_saves, self.incarnation, booked, child)
        self.engine.after(
            seconds, self._child_ends, self.incarnation, booked, child, outcome, seconds
        )

    def _child_saves(self, incarnation: int, booked: Booked, child: int) -> None:
        item = booked.running
        if incarnation != self.incarnation or booked.child != child or item is None:
            return
        if self.frozen is None and self.welcomed:
            state = pack([item.id, item.attempt])
            self.world.history.log(
                "saved", worker=self.name, token=item.token, id=item.id, value=state
            )
            self._send(wire.extension(Checkpoint(item.token, state)))
            self._send(wire.extension(Progress([Progressed(item.token, 0.5, {"loss": 0.1})])))

    def _child_ends(
        self, incarnation: int, booked: Booked, child: int, outcome: str, seconds: float
    ) -> None:
        """A child is done, or was killed: it lets go now, and its agent reports when it can."""
        item = booked.running
        if incarnation != self.incarnation or not self.up or booked.child != child or item is None:
            return
        if self.frozen is not None and self.children_frozen:
            delay = self.frozen - self.engine.now + min(seconds, 1.0)
            self.engine.after(delay, self._child_ends, incarnation, booked, child, outcome, seconds)
            return
        booked.child = 0
        ended = _ended(item, outcome, seconds)
        self.world.history.log(
            "end",
            worker=self.name,
            token=item.token,
            id=item.id,
            outcome=ended.outcome,
            value=bytes(ended.value),
        )
        if self._when_awake(lambda: self._report(booked, item, ended)):
            self._report(booked, item, ended)

    def _report(self, booked: Booked, item: Item, ended: Ended) -> None:
        booked.running = None
        self.where.pop(item.token, None)
        self._deliver([ended])
        self._next(booked)

    # --- results ----------------------------------------------------------------------------

    def _deliver(self, items: list[Ended]) -> None:
        if not items:
            return
        self._seq += 1
        self.unacked[self._seq] = items
        if not self.welcomed or any(ended.seconds >= SPOOL_AFTER for ended in items):
            self.spool[self._seq] = items
        if self.welcomed:
            self._send(wire.extension(Finished(self._seq, items)))

    def _resend(self) -> None:
        for seq, items in self.unacked.items():
            self._send(wire.extension(Finished(seq, items)))

    def _result_ack(self, message: ResultAck) -> None:
        for seq in message.seqs:
            items = self.unacked.pop(seq, None)
            self.spool.pop(seq, None)
            if items is not None:
                tokens = [ended.token for ended in items]
                self.acked = [*self.acked[-50:], *tokens]
                self.world.history.log("acked", worker=self.name, tokens=tokens)
        self._leave_when_done()

    def _nack(self, tokens: list[bytes], reason: str) -> None:
        for token in tokens:
            self.where.pop(token, None)
        if tokens:
            self.world.history.log("nacked", worker=self.name, tokens=tokens)
            if self.welcomed:
                self._send(wire.extension(Nack(tokens, reason)))

    # --- work is taken away -------------------------------------------------------------------

    def _cancel_attempts(self, message: CancelAttempts) -> None:
        if not (self.stubborn and message.reason == "revoked"):
            self._cancel(message.tokens, message.grace)

    def _cancel(self, tokens: Iterable[bytes], grace: float) -> None:
        ended: list[Ended] = []
        held = {e.token for items in self.unacked.values() for e in items}
        for token in tokens:
            booked = self.where.get(token)
            if booked is None:
                if token not in held:
                    ended.append(Ended(token, "cancelled"))
            elif booked.running is not None and booked.running.token == token:
                if not booked.stopping:
                    booked.stopping = True
                    within = grace * self.engine.random.random() + 0.01
                    self.engine.after(
                        within, self._child_ends, self.incarnation, booked, booked.child,
                        "cancelled", within,
                    )  # fmt: skip
            else:
                booked.queue = deque(item for item in booked.queue if item.token != token)
                del self.where[token]
                self.world.history.log("dropped", worker=self.name, tokens=[token])
                ended.append(Ended(token, "cancelled"))
        self._deliver(ended)
        for booked in list(self.lanes.values()):
            self._next(booked)

    def _recall(self, message: Recall) -> None:
        back = []
        for token in message.tokens:
            booked = self.where.get(token)
            if booked is not None and (booked.running is None or booked.running.token != token):
                booked.queue = deque(item for item in booked.queue if item.token != token)
                back.append(token)
        self._nack(back, "recalled")

    def _drain_worker(self, message: DrainWorker) -> None:
        """It is the broker that gives nothing more."""

    def _fetch_log(self, message: FetchLog) -> None:
        self._send(wire.extension(LogChunk(message.fetch, b"", 0)))

    def change(self) -> None:
        """Something on the machine has changed: what its caches hold, or who else uses a card."""
        if self.up and self.frozen is None and self.welcomed:
            random = self.engine.random
            gpus = [
                structs.replace(gpu, foreign_gb=random.choice((0.0, 3.0)))
                if gpu.memory_gb < 20.0
                else gpu
                for gpu in self.document.gpus
            ]
            caches = random.choice(([], ["prices"]))
            self.document = structs.replace(self.document, gpus=gpus, caches=caches)
            self._send(wire.extension(Resources(self.document.memory_gb, gpus, caches)))

    # --- what a broken worker does ----------------------------------------------------------

    def babble(self) -> None:
        """Say what no worker says, until the broker turns it away."""
        if self.up and self.frozen is None:
            for _ in range(3):
                self._send(self.engine.random.choice(_GARBAGE))

    def greet_twice(self) -> None:
        """READY again on a connection that is registered."""
        if self.up and self.frozen is None and self.welcomed:
            self._greet()

    def forge(self, token: bytes) -> None:
        """Report a result for an attempt that is, or was, somebody else's."""
        if self.up and self.frozen is None and self.welcomed:
            value = Raw(pack(["forged", token.hex()]))
            self._seq += 1
            self._send(wire.extension(Finished(self._seq, [Ended(token, "ok", 1.0, value)])))

    def repeat(self) -> None:
        """Report again, as failed, what the broker has acknowledged long ago."""
        if self.up and self.frozen is None and self.welcomed and self.acked:
            token = self.engine.random.choice(self.acked)
            self._seq += 1
            value = Raw(pack(["repeated", token.hex()]))
            self._send(wire.extension(Finished(self._seq, [Ended(token, "ok", 1.0, value)])))


def _fate(item: Item, lane: Lane, params: dict[str, Any]) -> tuple[str, float]:
    """How an attempt ends and after how many seconds, unless something comes between."""
    seconds = float(params["t"])
    outcome = "ok"
    do = params["do"]
    if do == "oom":
        if lane.memory_gb < params["gb"]:
            outcome = "out_of_memory"
    elif item.attempt <= params["k"]:
        outcome = do
        if do == "hang":
            outcome, seconds = "killed", 60.0
    if lane.run_limit is not None and seconds >= lane.run_limit:
        return "time_limit", lane.run_limit
    return outcome, seconds


def _ended(item: Item, outcome: str, seconds: float) -> Ended:
    """What the agent reports; a value names its attempt, so that no two are equal."""
    if outcome == "ok":
        padding = b"x" * (300 if item.token[-1] % 16 == 0 else 0)  # some are large
        return Ended(item.token, "ok", seconds, Raw(pack([item.id, item.token.hex(), padding])))
    failure = Failure("Fatal" if outcome == "fatal" else outcome, "as told")
    said = "error" if outcome == "fatal" else outcome
    return Ended(item.token, said, seconds, failure=failure)


_MESSAGES: dict[type[Any], Callable[[NativeWorker, Any], None]] = {
    Welcome: NativeWorker._welcome,
    Assign: NativeWorker._assign,
    CancelAttempts: NativeWorker._cancel_attempts,
    ResultAck: NativeWorker._result_ack,
    Recall: NativeWorker._recall,
    DrainWorker: NativeWorker._drain_worker,
    FetchLog: NativeWorker._fetch_log,
}
