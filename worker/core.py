"""The agent's mind: a pure machine of events in, instructions out.

It knows the session with the broker and the attempts in their lanes; which child serves a lane is
in `worker.pool`, what the broker has not acknowledged in `worker.outbox`. It reads no clock, opens
no socket and starts no process: `worker.agent` does what it says.

The session:

    CONNECTING  Connected   GREETING    say READY, and every token held
    GREETING    Welcome     WELCOMED    stop what was not adopted; send all results again
    any         Lost, DISCONNECT, silence
                            CONNECTING  results go to the disk; a new socket

An attempt:

    queued      waits in the agent. RECALL and a stop: NACK. Cancel: ended, cancelled.
    fed         its child has it. The child gives it back (queued) or begins it.
    running     told to stop by cancel, by a stop and near its limit; past the grace or the limit
                its child is killed, with all that it started.
    ended       its result is kept until RESULT_ACK, and sent again in every new session.

A child is fed as much as its kind does in a few milliseconds, one attempt when that is not known;
when it does not come back in time it is asked what runs, and gives back the rest. So what runs is
always known a few milliseconds later, and all else can be recalled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from math import inf
from typing import Any

from msgspec import Struct, structs

from corral.messages import (
    Assign,
    CancelAttempts,
    DrainWorker,
    Ended,
    FetchLog,
    Nack,
    Progress,
    Progressed,
    Recall,
    ResultAck,
    Welcome,
)
from corral.tasks import Failure
from corral.wire import Parted
from worker.events import (
    Batch,
    Beat,
    Bury,
    Changed,
    ChildEnded,
    ChildSaid,
    Connected,
    Depart,
    Event,
    Exit,
    Greet,
    Heard,
    Instruction,
    Lost,
    MemoryExceeded,
    ReadLog,
    Reconnect,
    Say,
    Send,
    StopRequested,
    Tell,
    Ticked,
)
from worker.lanes import Booked, Child, Pace
from worker.outbox import Outbox
from worker.pipe import Ask, Done, GiveBack, Given, Ready, Saved, Told, Want, Work
from worker.pool import START_LIMIT, Pool

PATIENCE = 0.005  # seconds until a child is asked what it has not begun
ACK_LIMIT = 10.0  # seconds after a stop for the last results to be acknowledged
HEARTBEAT, LEASE = 2.0, 10.0  # until WELCOME says otherwise


class Illegal(Exception):
    """The shell reported what cannot have happened. Nothing was changed."""


class Session(StrEnum):
    """Where the agent stands with the broker."""

    CONNECTING = "connecting"
    GREETING = "greeting"
    WELCOMED = "welcomed"


class Machine(Struct, frozen=True):
    """What this worker offers, as far as the mind must know it."""

    slots: int
    kinds: frozenset[str]
    cores: tuple[int, ...]
    gpus: frozenset[str]
    spool_after: float  #: seconds of work from which on a result is put on disk


class Core:
    """One agent. `handle` every event with the monotonic time, and carry out what it returns."""

    def __init__(self, machine: Machine, spooled: Iterable[Batch], now: float) -> None:
        self.machine = machine
        self.session = Session.CONNECTING
        self.lanes: dict[int, Booked] = {}
        self.where: dict[bytes, Booked] = {}  #: token of every attempt that has not ended
        self.pool = Pool(machine.slots, machine.cores)
        self.outbox = Outbox(spooled, machine.spool_after, now)
        self.pace = Pace()
        self.stopping: float | None = None  #: until when attempts may save a checkpoint
        self.stop_reason = ""
        self.left = False
        self.heartbeat, self.lease = HEARTBEAT, LEASE
        self.heard_at = self.beaten_at = now
        self._now = now
        self._out: list[Instruction] = []

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """What to do about `event`, in this order.

        Raises:
            Illegal: the event cannot happen now, which is a defect of the shell.
        """
        self._now = now
        out = self._out = []
        if not self.left:
            _EVENTS[type(event)](self, event)
        if self.stopping is not None and not self.left:
            self._leave_when_done(self.stopping)
        return out

    # --- the session --------------------------------------------------------------------

    def _connected(self, event: Connected) -> None:
        if self.session is not Session.CONNECTING:
            raise Illegal("connected twice")
        self.session = Session.GREETING
        self.heard_at = self.beaten_at = self._now
        self._do(Greet(self._inflight()))

    def _inflight(self) -> list[bytes]:
        """Every token held; first those whose work would be lost."""
        running = [item.token for lane in self.lanes.values() for item in lane.fed]
        queued = [item.token for lane in self.lanes.values() for item in lane.queue]
        return running + self.outbox.tokens + queued

    def _lost(self, event: Lost) -> None:
        self._reconnect(event.why)

    def _parted(self, message: Parted) -> None:
        self._reconnect("the broker sent DISCONNECT")

    def _reconnect(self, why: str) -> None:
        self.session = Session.CONNECTING
        self.heard_at = self._now
        self._out += self.outbox.closed()
        self._do(Reconnect(why))

    def _heard(self, event: Heard) -> None:
        message = event.message
        if self.session is Session.WELCOMED or isinstance(message, Welcome | Parted):
            self.heard_at = self._now
            _MESSAGES.get(type(message), Core._ignore)(self, message)

    def _ignore(self, message: object) -> None:
        """HEARTBEAT says only that the broker lives; what workers alone say means nothing here."""

    def _welcome(self, message: Welcome) -> None:
        if self.session is not Session.GREETING:
            return
        self.session = Session.WELCOMED
        self.heartbeat, self.lease = message.heartbeat, message.lease
        adopted = set(message.adopted)
        self._do(Say(f"welcomed by broker epoch {message.epoch}; {len(adopted)} attempts adopted"))
        self._cancel([token for token in self.where if token not in adopted], "not adopted", 0.0)
        for lane in self.lanes.values():
            lane.told = False  # a broker that was restarted does not know what has begun
        if self.stopping is not None:
            self._send(DrainWorker(True, self.stop_reason))
        self._out += self.outbox.opened(self._now)

    def _drain(self, message: DrainWorker) -> None:
        why = f": {message.reason}" if message.reason else ""
        word = "drains this worker" if message.draining else "lets this worker work again"
        self._do(Say(f"the broker {word}{why}"))

    def _changed(self, event: Changed) -> None:
        gpus = frozenset(gpu.uuid for gpu in event.resources.gpus)
        self.machine = structs.replace(self.machine, gpus=gpus)
        if self.session is Session.WELCOMED:
            self._send(event.resources)

    def _fetch_log(self, message: FetchLog) -> None:
        attempt = (message.id, message.attempt)
        for lane in self.lanes.values():
            if lane.fed and lane.child and attempt == (lane.fed[0].id, lane.fed[0].attempt):
                self._do(ReadLog(message, lane.child.number))
                return
        self._do(ReadLog(message, None))

    # --- work comes -----------------------------------------------------------------------

    def _assign(self, message: Assign) -> None:
        for lane in message.lanes:
            fresh = [item for item in lane.items if item.token not in self.where]
            if refusal := self._refusal(lane.kind, lane.gpus):
                self._nack([item.token for item in fresh], refusal)
                continue
            if not fresh:
                continue
            booked = self.lanes.get(lane.booking)
            if booked is None:
                booked = self.lanes[lane.booking] = Booked(lane, self._now)
            if not booked.queue:
                booked.arrived = self._now
            booked.queue.extend(fresh)
            for item in fresh:
                self.where[item.token] = booked
            self._feed(booked)
        self._start()

    def _refusal(self, kind: str, gpus: list[str]) -> str:
        if self.stopping is not None:
            return self.stop_reason
        if kind not in self.machine.kinds:
            return f"this worker does not have the kind {kind}"
        if missing := set(gpus) - self.machine.gpus:
            return f"this worker does not have the GPU {', '.join(sorted(missing))}"
        return ""

    def _start(self) -> None:
        """Give children to lanes that wait for one, in the order in which they came."""
        for lane in [lane for lane in self.lanes.values() if lane.child is None]:
            if self.pool.is_full:
                return
            self._out += self.pool.give(lane, self._now)
            self._feed(lane)

    def _close(self, lane: Booked) -> None:
        """Nothing is left to do in this lane: others may have its child."""
        del self.lanes[lane.booking]
        self._out += self.pool.release(lane, self._now)
        self._start()

    def _feed(self, lane: Booked) -> None:
        """Let the child have its next attempts, when it has few enough."""
        child = lane.child
        if child is None or not child.ready or child.leaving or not lane.queue:
            return
        if lane.recounting or lane.late:
            return
        size = self.pace.chunk(lane.kind)
        room = size - len(lane.fed)
        if room <= 0 or 2 * room < size:
            return
        first = not lane.fed
        items = [lane.queue.popleft() for _ in range(min(room, len(lane.queue)))]
        lane.fed.extend(items)
        if first:
            lane.follow(self._now)
            if len(items) == 1:
                lane.running = items[0].token
        self._do(Tell(child.number, Work(items, lane.arrived, lane.cpus, lane.memory_gb > 0)))
        if not lane.queue:
            lane.arrived = self._now

    # --- what children say ----------------------------------------------------------------

    def _child_said(self, event: ChildSaid) -> None:
        child = self.pool.children.get(event.child)
        if child is None:
            raise Illegal(f"no child {event.child}")
        _WORDS[type(event.message)](self, child, event.message)

    def _ready(self, child: Child, message: Ready) -> None:
        child.ready = True
        if child.lane is not None:
            self._feed(child.lane)

    def _done(self, child: Child, message: Done) -> None:
        lane = child.lane
        if lane is None or message.count > len(lane.fed):
            raise Illegal(f"child {child.number} did what it was not fed")
        tokens = [lane.fed.popleft().token for _ in range(message.count)]
        for token in tokens:
            del self.where[token]
            if lane.cancelled or lane.recalled:
                lane.cancelled.pop(token, None)
                lane.recalled.discard(token)
        child.finished += message.count
        if lane.verdict is not None:
            lane.verdict = "handed_back", "its process was killed for the attempt before it"
        self.pace.learn(lane.kind, message.count, message.busy)
        lane.follow(self._now)
        if len(lane.fed) == 1:
            lane.running = lane.fed[0].token
        for text, warning in message.notes:
            self._do(Say(text, warning))
        self._out += self.outbox.put(tokens, message.ended, message.longest)
        self._feed(lane)
        self._see_to(lane)

    def _given(self, child: Child, message: Given) -> None:
        lane = child.lane
        if lane is None:  # it was done when it was asked
            return
        lane.recounting = False
        returned = set(message.returned)
        back = [item for item in lane.fed if item.token in returned]
        lane.fed = deque(item for item in lane.fed if item.token not in returned)
        lane.queue.extendleft(reversed(back))
        lane.due = self._now
        if lane.running in returned:  # it was about to begin, and has not
            lane.follow(self._now)
        if lane.fed and lane.fed[0].token == message.running:
            lane.running, lane.began, lane.late = message.running, message.began, True
        self._settle(lane)
        self._feed(lane)
        self._see_to(lane)

    def _settle(self, lane: Booked) -> None:
        """Let go of queued attempts that the broker wants back, or that nobody wants."""
        if lane.recalled:
            self._nack(self._let_go(lane, lane.recalled), "recalled")
        if self.stopping is not None and lane.queue:
            everything = {item.token for item in lane.queue} - lane.cancelled.keys()
            self._nack(self._let_go(lane, everything), self.stop_reason)
        if lane.cancelled:
            reasons = {token: why for token, (why, _) in lane.cancelled.items()}
            tokens = self._let_go(lane, reasons)
            self._end([self._ended(token, "cancelled", reasons[token]) for token in tokens])

    def _let_go(self, lane: Booked, tokens: Iterable[bytes]) -> list[bytes]:
        taken = [item.token for item in lane.take(set(tokens))]
        for token in taken:
            del self.where[token]
            lane.recalled.discard(token)
            lane.cancelled.pop(token, None)
        return taken

    def _told(self, child: Child, message: Told) -> None:
        if self.session is Session.WELCOMED and message.token in self.where:
            self._send(Progress([Progressed(message.token, message.fraction, message.metrics)]))

    def _saved(self, child: Child, message: Saved) -> None:
        if message.token in self.where:
            self._out += self.outbox.save(message.token, message.data, self._now)

    def _child_ended(self, event: ChildEnded) -> None:
        child = self.pool.children.pop(event.child, None)
        if child is None:
            raise Illegal(f"no child {event.child}")
        lane = child.lane
        if lane is not None:
            self._out += self.pool.release(lane, self._now)
            self._bury(lane, child, event)
            self._see_to(lane)
        self._start()

    def _bury(self, lane: Booked, child: Child, event: ChildEnded) -> None:
        """Report what a dead child had begun; what it had not begun is queued again."""
        begun = event.begun - child.finished
        how = f"its process ended: {event.how}"
        seconds = self._now - lane.began
        if not child.ready and lane.queue:
            # It cannot even start. Whose turn it is takes the blame, so that retries are counted.
            lane.fed.append(lane.queue.popleft())
            begun, how, seconds = 1, f"its process could not start: {event.how}", 0.0
        over = [lane.fed.popleft() for _ in range(min(begun, len(lane.fed)))]
        lane.queue.extendleft(reversed(lane.fed))
        lane.fed.clear()
        lane.recounting = False
        ends: list[Ended] = []
        for index, item in enumerate(over, 1):
            del self.where[item.token]
            lane.recalled.discard(item.token)
            if index < len(over):
                lane.cancelled.pop(item.token, None)
                lost = "its result was lost when its process died under the next attempt"
                ends.append(self._ended(item.token, "handed_back", lost))
            else:
                outcome, why = self._fate(lane, item.token) or ("killed", how)
                ends.append(self._ended(item.token, outcome, why, seconds))
                self._do(Bury(child.number, item.id, item.attempt))
                text = f"{lane.kind} {item.id} attempt {item.attempt}: {why}"
                self._do(Say(text, warning=True))
        self._end(ends, seconds)
        lane.verdict = None
        lane.follow(self._now)
        self._settle(lane)

    def _fate(self, lane: Booked, token: bytes) -> tuple[str, str] | None:
        """Outcome and message of an attempt whose child died for a reason that is known."""
        why = lane.cancelled.pop(token, None)
        if why is not None:
            return "cancelled", why[0]
        if lane.verdict is not None:
            return lane.verdict
        return ("handed_back", self.stop_reason) if lane.asked is Want.HAND_BACK else None

    def _memory_exceeded(self, event: MemoryExceeded) -> None:
        child = self.pool.children.get(event.child)
        if child is not None and child.lane is not None and child.lane.fed:
            limit = child.lane.memory_gb
            why = f"it used {event.used_gb:.2f} GiB; its limit is {limit:g} GiB"
            self._kill(child, "out_of_memory", why)

    # --- work is taken away ---------------------------------------------------------------

    def _recall(self, message: Recall) -> None:
        for lane, tokens in self._by_lane(message.tokens):
            lane.recalled |= tokens - {lane.running}
            self._settle(lane)
            self._recount(lane, lane.recalled)
            self._see_to(lane)

    def _cancel_attempts(self, message: CancelAttempts) -> None:
        self._cancel(message.tokens, message.reason or "cancelled", message.grace)

    def _cancel(self, tokens: list[bytes], reason: str, grace: float) -> None:
        for lane, mine in self._by_lane(tokens):
            for token in mine:
                lane.cancelled.setdefault(token, (reason, grace))
            self._settle(lane)
            self._recount(lane, lane.cancelled.keys() - {lane.running})
            self._see_to(lane)

    def _by_lane(self, tokens: Iterable[bytes]) -> list[tuple[Booked, set[bytes]]]:
        found: dict[int, tuple[Booked, set[bytes]]] = {}
        for token in tokens:
            if (lane := self.where.get(token)) is not None:
                found.setdefault(lane.booking, (lane, set()))[1].add(token)
        return list(found.values())

    def _recount(self, lane: Booked, wanted: Iterable[bytes]) -> None:
        """Ask the child for what it has not begun, when some of that is wanted."""
        if lane.recounting or lane.child is None or lane.child.leaving:
            return
        if not {item.token for item in lane.fed}.isdisjoint(wanted):
            lane.recounting = True
            self._do(Tell(lane.child.number, GiveBack()))

    def _see_to(self, lane: Booked) -> None:
        """Ask the running attempt to stop when it should; close the lane when nothing is left."""
        if not lane.fed and not lane.queue:
            if self.lanes.get(lane.booking) is lane:
                self._close(lane)
            return
        if not lane.running or lane.child is None or lane.child.leaving:
            return
        if lane.asked is Want.CANCEL:
            return
        if lane.running in lane.cancelled:
            why, grace = lane.cancelled[lane.running]
            self._ask(lane, Want.CANCEL, self._now + grace)
            if grace <= 0:
                self._kill(lane.child, "cancelled", why)
        elif self.stopping is not None and lane.asked is None:
            self._ask(lane, Want.HAND_BACK, self.stopping)

    def _ask(self, lane: Booked, want: Want, kill_at: float) -> None:
        assert lane.child is not None
        lane.asked = want
        lane.kill_at = kill_at
        self._do(Tell(lane.child.number, Ask(lane.running, want)))

    def _kill(self, child: Child, outcome: str, message: str) -> None:
        if child.lane is not None and child.lane.verdict is None:
            child.lane.verdict = outcome, message
        if not child.leaving:
            self._out += self.pool.kill(child, self._now)

    def _stop(self, event: StopRequested) -> None:
        if self.stopping is not None:
            self._do(Say("stopped at once", warning=True))
            self._leave(1)
            return
        self.stopping = self._now + event.grace
        self.stop_reason = event.reason
        self._do(Say(f"draining: {event.reason}"))
        if self.session is Session.WELCOMED:
            self._send(DrainWorker(True, event.reason))
        for lane in list(self.lanes.values()):
            self._settle(lane)
            self._recount(lane, {item.token for item in lane.fed} - {lane.running})
            self._see_to(lane)

    def _leave_when_done(self, grace_ends: float) -> None:
        waits = self.lanes or (self.outbox and self.outbox.is_open)
        if not waits or self._now >= grace_ends + ACK_LIMIT:
            self._leave(0)

    def _leave(self, status: int) -> None:
        self.left = True
        self._out += self.outbox.keep()
        for child in self.pool.children.values():
            self._out += self.pool.kill(child, self._now)
        self._do(Depart())
        self._do(Exit(status))

    # --- results ----------------------------------------------------------------------------

    def _ended(self, token: bytes, outcome: str, message: str, seconds: float = 0.0) -> Ended:
        return Ended(token, outcome, seconds, failure=Failure(outcome, message))

    def _end(self, ends: list[Ended], longest: float = 0.0) -> None:
        if ends:
            self._out += self.outbox.put([ended.token for ended in ends], ends, longest)

    def _acked(self, message: ResultAck) -> None:
        self._out += self.outbox.acked(message.seqs)

    def _nack(self, tokens: list[bytes], reason: str) -> None:
        if tokens and self.session is Session.WELCOMED:
            self._send(Nack(tokens, reason))
        else:  # a NACK could not be said again; a result is, until it is acknowledged
            self._end([self._ended(token, "handed_back", reason) for token in tokens])

    # --- time -------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """The monotonic time at which a `Ticked` is due."""
        if self.left:
            return inf
        soon = [self.heard_at + self.lease]
        if self.session is not Session.CONNECTING:
            soon.append(self.beaten_at + self.heartbeat)
        if (due := self.outbox.due) is not None:
            soon.append(due)
        if self.stopping is not None:
            soon.append(self.stopping + ACK_LIMIT)
        soon.extend(self.pool.due(child) for child in self.pool.children.values())
        for lane in self.lanes.values():
            if lane.fed and lane.child is not None and not lane.child.leaving:
                soon.extend(self._due_in(lane))
        return min(soon)

    def _due_in(self, lane: Booked) -> Iterable[float]:
        if not lane.told and not lane.recounting:
            yield lane.due + PATIENCE
        if lane.kill_at is not None:
            yield lane.kill_at
        if lane.run_limit is not None:
            yield lane.began + lane.run_limit
            if lane.soft_at is not None:
                yield lane.soft_at

    def _tick(self, event: Ticked) -> None:
        now = self._now
        if now >= self.heard_at + self.lease:
            self._reconnect(f"the broker was silent for {self.lease:g} s")
        self._out += self.outbox.tick(now)
        began: list[Progressed] = []
        for lane in list(self.lanes.values()):
            if lane.fed and lane.child is not None and not lane.child.leaving:
                self._tick_lane(lane, lane.child, began)
        if began and self.session is Session.WELCOMED:
            self._send(Progress(began))
        for child in list(self.pool.children.values()):
            if now >= self.pool.due(child):
                self._overdue(child)
        if self.session is not Session.CONNECTING and now >= self.beaten_at + self.heartbeat:
            self.beaten_at = now
            self._do(Beat())

    def _tick_lane(self, lane: Booked, child: Child, began: list[Progressed]) -> None:
        now = self._now
        if not lane.told and now >= lane.due + PATIENCE:
            if lane.running:
                lane.told = True
                began.append(Progressed(lane.running, 0.0, started=True))
            else:
                self._recount(lane, [item.token for item in lane.fed])
        if lane.soft_at is not None and now >= lane.soft_at:
            lane.softened = True
            self._do(Tell(child.number, Ask(lane.running, Want.SOFT)))
        if lane.run_limit is not None and now >= lane.began + lane.run_limit:
            why = f"it ran longer than its limit of {lane.run_limit:g} s"
            self._kill(child, "time_limit", why)
        elif lane.kill_at is not None and now >= lane.kill_at:
            outcome, why = self._fate_when_asked(lane)
            self._kill(child, outcome, why)

    def _fate_when_asked(self, lane: Booked) -> tuple[str, str]:
        why = lane.cancelled.get(lane.running)
        return ("cancelled", why[0]) if why is not None else ("handed_back", self.stop_reason)

    def _overdue(self, child: Child) -> None:
        """A child that should have ended, started, or been needed by now."""
        if child.leaving:
            self._out += self.pool.kill(child, self._now)
        elif not child.ready:
            self._kill(child, "killed", f"its process did not start within {START_LIMIT:g} s")
        else:
            self._out += self.pool.retire(child, self._now)

    # --- doing --------------------------------------------------------------------------------

    def _do(self, instruction: Instruction) -> None:
        self._out.append(instruction)

    def _send(self, message: Any) -> None:
        self._out.append(Send(message))

    # --- invariants ---------------------------------------------------------------------------

    def check(self) -> None:
        """Every invariant; raises AssertionError with the first that is broken."""
        held: dict[bytes, Booked] = {}
        for booking, lane in self.lanes.items():
            assert lane.booking == booking
            assert lane.fed or lane.queue, f"lane {booking} is empty and open"
            assert not lane.fed or lane.child is not None, f"lane {booking} runs nowhere"
            assert not lane.running or lane.running == lane.fed[0].token
            for item in (*lane.fed, *lane.queue):
                assert item.token not in held, f"{item.token.hex()} is held twice"
                held[item.token] = lane
            assert lane.cancelled.keys() <= {item.token for item in lane.fed}
        assert held == self.where
        self.pool.check(list(self.lanes.values()))
        self.outbox.check(held)
        assert self.outbox.is_open == (self.session is Session.WELCOMED)


# What happens, and what the broker and children say: one method for each.
_EVENTS: dict[type[Any], Callable[[Core, Any], None]] = {
    Connected: Core._connected,
    Lost: Core._lost,
    Heard: Core._heard,
    ChildSaid: Core._child_said,
    ChildEnded: Core._child_ended,
    MemoryExceeded: Core._memory_exceeded,
    Changed: Core._changed,
    StopRequested: Core._stop,
    Ticked: Core._tick,
}
_MESSAGES: dict[type[Any], Callable[[Core, Any], None]] = {
    Welcome: Core._welcome,
    Assign: Core._assign,
    CancelAttempts: Core._cancel_attempts,
    ResultAck: Core._acked,
    Recall: Core._recall,
    DrainWorker: Core._drain,
    FetchLog: Core._fetch_log,
    Parted: Core._parted,
}
_WORDS: dict[type[Any], Callable[[Core, Child, Any], None]] = {
    Ready: Core._ready,
    Done: Core._done,
    Given: Core._given,
    Told: Core._told,
    Saved: Core._saved,
}
