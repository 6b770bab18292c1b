"""The shell around the machine: one ROUTER socket, one loop, one thread.

A turn of the loop: take what has arrived, let the machine handle it, commit what it decided, and
only then send. Whatever arrives during a commit is the next turn's, so one fsync serves many tasks
when there are many, and a single task waits for none but its own. What follows from an event is
decided in `broker.core`; bytes are `corral.wire`'s, files `broker.store`'s.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import zmq
from msgspec import structs

from broker.auth import Gate, refusal, require_keys
from broker.backup import PAUSE, Backups
from broker.clock import Clock
from broker.core import admission, doors
from broker.core.effects import (
    Effect,
    Persist,
    ReplyPlain,
    ReplyToClient,
    SendToWorker,
    Telemetry,
)
from broker.core.events import Event, Heard, PeerLost, Turn, Unsendable
from broker.core.facts import Fact
from broker.core.machine import Broker, Collector
from broker.keeper import Keeper
from broker.outbox import Outbox
from broker.queries import Queries
from broker.store import Store
from broker.watch import Watches
from corral import wire
from corral.errors import AddressInUse, CorralError, KeyRefused, StoreFull
from corral.messages import (
    NIL,
    NO_ROOM,
    SERVICE_OF,
    Answer,
    Call,
    Cancel,
    Checkpoint,
    Drain,
    Ended,
    Extension,
    Finished,
    LogChunk,
    Outcomes,
    Refused,
    Results,
    Resume,
    Retry,
    Submit,
)
from corral.settings import BrokerSettings
from corral.tasks import Failure
from corral.wire import Called, Extended, Inbound, Malformed, Replied, Requested

MAX_TURN = 2000  # messages of one turn
MAX_TURN_SECONDS = 0.02
HELD_LONG = 10.0  # seconds that a result may wait for the system before new work is refused
FULL_PAUSE = 5.0  # seconds before what the disk refused is tried again
NOBLOCK = int(zmq.NOBLOCK)
CLOCK_TOLERANCE = 1.0  # seconds
NOTHING: dict[Any, str] = {}
log = logging.getLogger("corral.broker")


class Server:
    """One broker process."""

    def __init__(
        self,
        settings: BrokerSettings,
        endpoint: str,
        store: Store,
        data: Path,
        gate: Gate | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        if gate is None:
            require_keys([endpoint])
        self.settings = settings
        self.store = store
        self.data = data
        self.gate = gate
        self.clock = Clock()
        self.now = self.clock.now
        self.keeper = Keeper(store, settings)
        self.context = context or zmq.Context()
        self.socket = self._bind(endpoint)
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.events: list[Event] = []  #: found while sending, for the next turn
        self.outbox = Outbox(self.socket, store, self._peer_lost, self._unsendable)
        self.watches = Watches(store, self.outbox)
        self.queries = Queries(self)
        self.backups = Backups(self)
        self.running = True
        self._tend_again = 0.0
        self._replies: list[Effect] = []  #: answers that go out after the turn's commit
        #: results and checkpoints that the disk did not take yet, the newest of each attempt
        self._held: dict[tuple[type, bytes], tuple[bytes, Inbound, str]] = {}
        #: since when the system does not let what is held be written, and why; None: it does
        self._unwritable: tuple[float, str] | None = None
        self._full = ""  #: as the log told it last
        self._renewed = 0.0
        self._named = {""}  #: foreign dialects that the log has named
        self._load()

    def _bind(self, endpoint: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self.context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            # Routing ids are not handed over (docs/adr/0010): libzmq loses count of the frames.
            (zmq.ROUTER_HANDOVER, 0),
            (zmq.SNDHWM, 1000),
            (zmq.RCVHWM, 1000),
            (zmq.MAXMSGSIZE, self.settings.max_message),
            (zmq.LINGER, 1000),
            (zmq.HANDSHAKE_IVL, 10000),
            # Dead connections are TCP's to find. ZMTP's own heartbeat aborts the process when it
            # is due for a peer that left unread messages behind (libzmq issues 4364 and 4767).
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.TCP_KEEPALIVE_IDLE, 15),
            (zmq.TCP_KEEPALIVE_INTVL, 5),
            (zmq.TCP_KEEPALIVE_CNT, 3),
            (zmq.BACKLOG, 1024),
        ):
            socket.setsockopt(option, value)
        if self.gate is not None:
            self.gate.setup(socket)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise AddressInUse(endpoint=endpoint, why=str(error)) from None
        return socket

    def _load(self) -> None:
        self.state = self.keeper.load()
        newest = max((task.since for task in self.state.tasks.values()), default=0.0)
        if (behind := self.clock.begin_at(newest)) > CLOCK_TOLERANCE:
            log.warning("this machine's clock is %.0f s behind the newest record", behind)
        self.broker = Broker(
            self.settings, os.urandom(16), self.store.epoch, self.state, self.now()
        )

    # --- the loop ----------------------------------------------------------------------------

    def run(self, turned: Callable[[float], None]) -> None:
        """Serve until `stop`; tell `turned` after each turn of the loop, which a watchdog hears."""
        while self.running:
            self.turn(self._timeout())
            turned(time.monotonic())

    def stop(self) -> None:
        """End the loop after the present turn. Safe in a signal handler."""
        self.running = False

    def close(self) -> None:
        """Fold what has changed and let go of socket and store."""
        self.backups.close()
        try:
            self.keeper.finish(self.state)
        except StoreFull:
            log.warning("the store is full: the journal stays as it is")
        self.socket.close()
        self.store.close()

    def _timeout(self) -> int:
        """Milliseconds until something is due."""
        if self.events:
            return 0
        if self.backups.running:
            return int(PAUSE * 1000)
        if self.outbox.waiting:
            return 20
        deadline = self.broker.next_deadline()
        if deadline is None:
            return 1000
        return max(0, min(1000, int((deadline - self.now()) * 1000) + 1))

    @property
    def full(self) -> str:
        """Why no new work is taken; empty when it is."""
        if not self.store.full and self._unwritable is not None:
            since, why = self._unwritable
            return why if self.now() > since + HELD_LONG else ""
        return self.store.full

    def turn(self, timeout: int) -> None:
        """Wait up to `timeout` ms for a message, then handle everything that is there."""
        effects: list[Effect] = []
        events, self.events = self.events, []
        self.broker.full = self.full
        if self.socket.poll(timeout):
            self._receive(effects)
        now = self.now()
        handle = self.broker.handle
        for event in events:
            effects += handle(event, now)
        effects += handle(Turn(), now)
        self._perform(effects, now)
        self._tend(now)

    def _receive(self, effects: list[Effect]) -> None:
        """Handle messages until none is there, or the turn has taken long enough."""
        # Frames say themselves whether more follow; `recv_multipart` asks the socket after each,
        # which costs more than all the rest of receiving.
        receive, gate = self.socket.recv, self.gate
        until = time.monotonic() + MAX_TURN_SECONDS
        for _ in range(MAX_TURN):
            who = ""
            try:
                first = frame = receive(NOBLOCK, False)
            except zmq.Again:
                return
            frames: list[bytes] = []
            while frame.more:
                frame = receive(NOBLOCK, False)
                frames.append(frame.bytes)
            peer = first.bytes
            moment = time.monotonic()
            now = self.clock.at(moment)
            message = wire.decode(frames)
            if gate is not None:
                key = gate.user(peer, first)
                if key is None:
                    self.drop(peer)
                    self._deny(peer, message, KeyRefused(endpoint=self.endpoint))
                    continue
                denied = refusal(key, message)
                if denied is not None:
                    self._deny(peer, message, denied)
                    continue
                who = key.name
                if self.outbox.barred:
                    self.outbox.barred.discard(peer)
            self._one(peer, message, who, now, effects)
            if moment > until:
                return

    def _one(
        self, peer: bytes, message: Inbound, who: str, now: float, effects: list[Effect]
    ) -> None:
        """Handle one message: what it needs from the disk first, then the machine."""
        blobs: dict[bytes, str] = NOTHING
        left: Mapping[str, str] = NOTHING
        if isinstance(message, Called):
            try:
                prepared = self._prepare(peer, message.call, now)
            except CorralError as error:
                self.refuse(peer, message.call, error)
                return
            if prepared is None:
                return
            left = prepared
        elif isinstance(message, Extended):
            if isinstance(message.message, LogChunk):
                self.queries.log_came(message.message)
                return
            if isinstance(message.message, Finished | Checkpoint):
                try:
                    inner, blobs = self._put_away(message.message)
                except (StoreFull, OSError) as error:
                    self._hold(message.message, (peer, message, who), error)
                    return
                if isinstance(inner, Checkpoint) and self._held:  # what is held is older
                    self._held.pop((Checkpoint, inner.token), None)
                message = Extended(inner)
        elif isinstance(message, Replied) and message.final:
            try:
                blobs = self._put_away_plain(message)
            except (StoreFull, OSError) as error:
                self._hold(message, (peer, message, who), error)
                return
        elif isinstance(message, Requested):
            self._recall_reply(message)
        elif isinstance(message, Malformed) and message.foreign not in self._named:
            self._named.add(message.foreign)
            log.warning("a peer speaks %s, which calls itself MDP/0.2 and is not", message.foreign)
        effects += self.broker.handle(Heard(peer, message, who, blobs, left), now)

    def _prepare(self, peer: bytes, call: Call, now: float) -> Mapping[str, str] | None:
        """Have in memory what the call names.

        Returns what was left in the store, and why; None when the call is answered.

        Raises:
            CorralError: it cannot be done.
        """
        try:
            return self._look_up(peer, call, now)
        except CorralError:
            raise
        except Exception as error:  # nothing is changed yet, so a defect in this ends nothing
            log.exception("%s failed", SERVICE_OF[type(call)])
            raise CorralError(what=f"the broker could not answer: {error!r}") from error

    def _look_up(self, peer: bytes, call: Call, now: float) -> Mapping[str, str] | None:
        keeper, state = self.keeper, self.state
        if isinstance(call, Submit):
            if keeper.tables:
                keeper.recall(state, admission.ids_wanted(state, call))
                keeper.recall_lineage(state, admission.content_wanted(state, call))
            return NOTHING
        # These are of whole ids: a prefix could mean another task.
        if isinstance(call, Results):
            keeper.recall(state, call.ids)
            return NOTHING
        if isinstance(call, Cancel):
            return {id: f"it is {was} already" for id, was in keeper.left(state, call.ids)}
        if isinstance(call, Retry) and self.full:
            return {id: NO_ROOM for id, _ in keeper.left(state, call.ids)}
        if isinstance(call, Retry):
            return dict.fromkeys(keeper.recall_lineage(state, call.ids, bounded=True), NO_ROOM)
        if isinstance(call, Drain | Resume):
            return NOTHING
        answer = self.queries.answer(peer, call, now)
        if answer is not None:
            self.to_client(peer, SERVICE_OF[type(call)], answer)
        return None

    def _recall_reply(self, message: Requested) -> None:
        """Have the task in memory whose reply is asked for."""
        try:
            self.keeper.recall(self.state, doors.ids_wanted(self.state, message))
        except Exception:  # its client hears 500, and nothing is changed
            log.exception("%s failed", message.service)

    def _put_away(self, message: Finished | Checkpoint) -> tuple[Extension, dict[bytes, str]]:
        """Write what is large to its own file, before the fact that names it.

        Raises:
            StoreFull: the disk did not take it.
            OSError: the system lacks what it takes to write a file, which may pass.
        """
        if isinstance(message, Checkpoint):
            if message.token not in self.state.attempts:  # nobody's: not worth a file
                return message, NOTHING
            return message, {message.token: self.store.blob_put(message.data)}
        if not any(map(self._is_large, message.items)):
            return message, NOTHING
        blobs: dict[bytes, str] = {}
        items: list[Ended] = []
        for ended in message.items:
            if self._is_large(ended):
                if ended.token in self.state.attempts:
                    blobs[ended.token] = self.store.blob_put(bytes(ended.value))
                ended = structs.replace(ended, value=NIL)
            else:  # by itself: a view would keep the whole message in memory, the large one too
                ended = structs.replace(ended, value=msgspec.Raw(bytes(ended.value)))
            items.append(ended)
        return Finished(message.seq, items), blobs

    def _put_away_plain(self, message: Replied) -> dict[bytes, str]:
        large = sum(map(len, message.body)) > self.settings.inline_result
        if not large or message.token not in self.state.attempts:
            return NOTHING
        return {message.token: self.store.blob_put(msgspec.msgpack.encode(message.body))}

    def _is_large(self, ended: Ended) -> bool:
        return memoryview(ended.value).nbytes > self.settings.inline_result

    def _hold(
        self,
        message: Finished | Checkpoint | Replied,
        heard: tuple[bytes, Inbound, str],
        error: Exception,
    ) -> None:
        """Keep what the disk refused, once for each attempt: workers save often, and say again."""
        if isinstance(error, OSError):
            why = f"a result or checkpoint waits until it can be written: {error}"
            log.warning("%s", why)
            self._unwritable = self._unwritable or (self.now(), why)
        if isinstance(message, Finished):
            large = filter(self._is_large, message.items)
            token = next(ended.token for ended in large if ended.token in self.state.attempts)
        else:
            token = message.token
        self._held[type(message), token] = heard

    def _try_held(self, now: float) -> None:
        """Write what is held, until the disk refuses again; what it refused is then the last."""
        effects: list[Effect] = []
        for key in list(self._held):
            self._one(*self._held.pop(key), now, effects)
            if key in self._held:
                break
        if not self._held:
            self._unwritable = None
        self._perform(effects, now)

    # --- effects ---------------------------------------------------------------------------

    def _perform(self, effects: list[Effect], now: float) -> None:
        """Commit, then send."""
        facts: list[Fact] = []
        telemetry: list[Telemetry] = []
        rest: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Persist):
                facts += effect.facts
            elif isinstance(effect, Telemetry):
                telemetry.append(effect)
            else:
                rest.append(effect)
        replies, self._replies = self._replies, []
        if facts:
            try:
                self.keeper.append(facts, now)
            except StoreFull as error:
                self._take_back([*rest, *replies], error)
                return
        self.outbox.add(rest, self.state)
        self.outbox.add(replies, self.state)
        self.outbox.flush(self.state)
        self.watches.publish(facts, telemetry, self.state, self.keeper.lsn)

    def _take_back(self, effects: list[Effect], error: StoreFull) -> None:
        """The commit failed: nothing of this turn was. Memory becomes what the store holds.

        Workers register again and announce what they run and what they have to deliver; clients
        whose calls were not stored are told, and those that wait for outcomes ask again.
        """
        log.error("%s", error)
        peers = {peer: worker.dialect for peer, worker in self.broker.fleet.peers.items()}
        before = self.state.tasks
        self._load()
        waiting = {
            waiter.peer
            for id in self.state.tasks.keys() & before.keys()
            for waiter in before[id].collectors or ()
            if isinstance(waiter, Collector)
        }
        for effect in effects:
            if isinstance(effect, ReplyPlain) and effect.service == "titanic.request":
                self.outbox.send(
                    effect.peer, wire.reply(effect.dialect, effect.service, [b"500"], True)
                )
            if not isinstance(effect, ReplyToClient):
                continue
            if isinstance(effect.answer, Outcomes):
                waiting.add(effect.peer)
            elif effect.final:
                answer = Refused(effect.answer.request, error.code, error.fields)
                self.outbox.send(effect.peer, wire.answers(effect.service, [answer], True))
        forgotten = wire.answers("corral.submit", [Outcomes(b"", [], last=True)], False)
        for client in waiting:
            self.outbox.send(client, forgotten)
        for peer, dialect in peers.items():
            self.outbox.send(peer, wire.disconnect(wire.Dialect(dialect)))

    def _tend(self, now: float) -> None:
        """What is due beside messages: slow peers, a copy, the disk, the fold, logs that lack."""
        if self.outbox.waiting:
            self.outbox.retry()
        self.watches.catch_up(self.state, self.keeper.lsn)
        if self.backups.step():
            self.events.append(Turn())  # the answer goes out at once
        if now >= self._renewed + 1.0:
            self._renewed = now
            self._renew()
            self.queries.expire(now)
            self._try_held(now)
        if now < self._tend_again:
            return
        try:
            if self.keeper.tend(self.state, now):
                self.events.append(Turn())  # more is due: come back without waiting
        except (StoreFull, OSError) as error:
            log.warning("%s", error)
            self._tend_again = now + FULL_PAUSE

    def _renew(self) -> None:
        """Hold on to the store, and say when it begins and ends to refuse new work."""
        self.store.renew()
        was, self._full = self._full, self.full
        if self._full and not was:
            log.warning("no new work is taken: %s", self._full)
        elif was and not self._full:
            log.warning("new work is taken again")

    # --- peers ----------------------------------------------------------------------------------

    def _peer_lost(self, peer: bytes) -> None:
        self.events.append(PeerLost(peer))
        self.watches.drop(peer)
        if self.gate is not None:
            self.gate.forget(peer)

    def _unsendable(self, token: bytes, failure: Failure) -> None:
        self.events.append(Unsendable(token, failure))

    def drop(self, peer: bytes) -> None:
        """Have nothing more to do with a peer whose key was revoked."""
        self.outbox.bar(peer)
        worker = self.broker.fleet.peers.get(peer)
        if worker is not None:
            self.outbox.send(peer, wire.disconnect(wire.Dialect(worker.dialect)))
        self.events.append(PeerLost(peer, revoked=True))
        self.watches.drop(peer)

    def _deny(self, peer: bytes, message: Inbound, error: CorralError) -> None:
        self.broker.refused[error.code] += 1
        if isinstance(message, Called):
            self.refuse(peer, message.call, error)
        elif isinstance(message, Extended):
            self.outbox.send(peer, wire.disconnect())
        elif not isinstance(message, Requested) and message.dialect is not None:
            self.outbox.send(peer, wire.disconnect(message.dialect))

    def refuse(self, peer: bytes, call: Call, error: CorralError) -> None:
        """Tell a client why its call changed nothing."""
        fields = {name: _plain(value) for name, value in error.fields.items()}
        self.to_client(peer, SERVICE_OF[type(call)], Refused(call.request, error.code, fields))

    def to_client(self, peer: bytes, service: str, answer: Answer, final: bool = True) -> None:
        """Answer a client when this turn is committed."""
        self._replies.append(ReplyToClient(peer, service, answer, final))

    def to_worker(self, peer: bytes, message: Extension) -> None:
        """Send a worker something that changes nothing."""
        self._replies.append(SendToWorker(peer, message))


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
