"""Workers come, beat, fall silent, and leave: registration, leases, adoption.

A lease is a worker's last sign of life plus `unavailable_after`. When it ends, the tokens of its
attempts are revoked and their tasks queued again, but what they held stays booked until the worker
returns and says what it still runs, or is gone. A worker that registers lists every token it runs
or has spooled: those that are current are adopted, and all others of its are over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.core.effects import Beat, Disconnect, SendToWorker
from broker.core.facts import Admitted, Announced, Closed
from broker.core.resources import Admission, Health, Worker
from corral.messages import CancelAttempts, Document, DrainWorker, Kind, Resources, Welcome
from corral.tasks import Failure, Spec, Variant, is_name, problem
from corral.wire import Dialect

if TYPE_CHECKING:
    from broker.core.machine import Broker

RESERVED = ("mmi.", "titanic.", "corral.")
LOOKS = 4  #: at the clock, per heartbeat: a shorter stand-still is not seen
_ENDLESS = 1_000_000_000  # of a machine that did not say what it has


class Fleet:
    """The registry's live side."""

    def __init__(self, broker: Broker, now: float) -> None:
        self.broker = broker
        self.state = broker.state
        self.peers: dict[bytes, Worker] = {}
        self.strikes: dict[bytes, int] = {}
        self.next_sweep = now + broker.settings.heartbeat
        self.next_look = now + broker.settings.heartbeat / LOOKS
        self.adoption_ends = now + broker.settings.adoption_window
        for worker in self.state.workers.values():
            worker.seen = now

    # --- registration ---------------------------------------------------------------------

    def ready(self, peer: bytes, document: Document, now: float) -> None:
        """A native worker registers, for the first time or again."""
        broker, state = self.broker, self.state
        kinds = document.kinds
        named = is_name(document.name) and document.incarnation
        bad = not named or any(not _may_serve(kind.kind) or _senseless(kind) for kind in kinds)
        full = document.name not in state.workers and len(state.workers) >= self._most()
        if bad or full or peer in self.peers:
            self.turn_away(
                peer, Dialect.MDP02, "ready again" if peer in self.peers else "ready", now
            )
            return
        known = state.workers.get(document.name)
        if known is not None and known.outlived(document):
            self.turn_away(peer, Dialect.MDP02, "late ready", now)
            return
        worker = state.worker(document.name, now)
        self._detach(worker)
        returned = worker.incarnation == document.incarnation
        self._announce(kinds)
        state.ledger.see_gpus(worker, present=False)
        worker.describe(document)
        state.ledger.see_gpus(worker, present=True)
        worker.native, worker.dialect = True, Dialect.MDP02
        self._attach(worker, peer, now)
        adopted, stop = self._adopt(worker, frozenset(document.inflight), returned, now)
        settings = broker.settings
        welcome = Welcome(
            broker.epoch, settings.heartbeat, settings.unavailable_after, now, adopted
        )
        broker.effects.append(SendToWorker(peer, welcome))
        if stop:
            broker.effects.append(SendToWorker(peer, CancelAttempts(stop, "revoked", 0.0)))
        if worker.admission is not Admission.OPEN:
            if worker.drained_by == worker.name and not returned:
                self._admit(worker, Admission.OPEN, now)  # it stopped by itself and is back
            else:
                broker.effects.append(SendToWorker(peer, DrainWorker(True, worker.drain_reason)))
                self.drained(worker, now)

    def ready_plain(self, peer: bytes, dialect: Dialect, service: str, now: float) -> None:
        """A worker of plain Majordomo registers for one service."""
        state = self.state
        if peer in self.peers or not _may_serve(service) or len(state.workers) >= self._most():
            self.turn_away(peer, dialect, "ready again" if peer in self.peers else "ready", now)
            return
        worker = state.worker(f"{service}@{peer.hex()}", now)
        worker.native, worker.dialect = False, dialect
        worker.kinds = frozenset((service,))
        worker.slots, worker.cpus, worker.memory = 1, _ENDLESS, _ENDLESS
        if state.catalog.get(service) is None:
            self._announce([Kind(service, needs=(Variant(),), frames=True)])
        self._attach(worker, peer, now)

    def _most(self) -> int:
        return self.broker.settings.max_workers

    def _announce(self, kinds: Iterable[Kind]) -> None:
        for kind in kinds:
            if self.state.catalog.news(kind):
                self.broker._fact(Announced(kind))

    def _attach(self, worker: Worker, peer: bytes, now: float) -> None:
        worker.peer = peer
        worker.health = Health.LIVE
        worker.seen = worker.since = now
        self.peers[peer] = worker
        self.state.queue.touch(self._neighbours(worker))

    def _neighbours(self, worker: Worker) -> set[str]:
        """Workers for which this one's cards are cards too."""
        seen_by = self.state.ledger.gpu_seen_by
        names = {worker.name}
        for uuid in worker.gpus:
            names |= seen_by.get(uuid, set())
        return names

    def _detach(self, worker: Worker) -> None:
        if worker.peer is not None:
            self.peers.pop(worker.peer, None)
            self.strikes.pop(worker.peer, None)
            worker.peer = None

    def _adopt(
        self, worker: Worker, inflight: frozenset[bytes], returned: bool, now: float
    ) -> tuple[list[bytes], list[bytes]]:
        """(tokens that stay current, tokens that it must stop); all others of its are over.

        Args:
            returned: the same incarnation is back, so what it does not list never reached it.
        """
        adopted: list[bytes] = []
        stop: list[bytes] = []
        for attempt in self.broker.attempts_on(worker):
            if attempt.token in inflight:
                (stop if attempt.revoked else adopted).append(attempt.token)
            elif attempt.revoked:
                self._over(attempt.token, attempt.task.id, "lost", now)
            elif returned:
                failure = Failure("recalled", "the assignment never reached its worker")
                self.broker.move_failed(attempt, "recalled", failure, now)
            else:
                failure = Failure("lost", f"{worker.name} restarted and no longer runs it")
                self.broker.move_failed(attempt, "lost", failure, now)
        return adopted, stop

    def _over(self, token: bytes, id: str, outcome: str, now: float) -> None:
        self.broker._fact(Closed(now, token, id, None, outcome))

    # --- signs of life --------------------------------------------------------------------

    def sender(self, peer: bytes, now: float) -> Worker | None:
        """The worker that speaks; who is not registered is told to register."""
        worker = self.peers.get(peer)
        if worker is None:
            self.turn_away(peer, Dialect.MDP02, "unknown worker", now)
            return None
        worker.seen = now
        if worker.health is Health.UNAVAILABLE:
            # Its tokens are revoked and what it runs is unknown: it must say so anew.
            self.turn_away(peer, Dialect.MDP02, "lease over", now)
            return None
        if worker.health is Health.SUSPECT:
            worker.health = Health.LIVE
            self.state.queue.touch((worker.name,))
        return worker

    def beat(self, peer: bytes, dialect: Dialect, now: float) -> None:
        """HEARTBEAT."""
        worker = self.peers.get(peer)
        if worker is not None and worker.dialect == dialect:
            self.sender(peer, now)
        else:
            self.turn_away(peer, dialect, "unknown worker", now)

    def turn_away(self, peer: bytes, dialect: Dialect, reason: str, now: float) -> None:
        """DISCONNECT, and forget the peer: what a plain worker had is done elsewhere.

        A native one still runs what it runs, and says so when it registers again.
        """
        self.broker.refused[reason] += 1
        worker = self.peers.get(peer)
        if worker is not None:
            dialect = Dialect(worker.dialect)
            if worker.native:
                self.peer_lost(peer, now)
            else:
                self.parted(peer, now, "it broke the protocol")
        self.broker.effects.append(Disconnect(peer, dialect))

    def strike(self, peer: bytes, dialect: Dialect, reason: str, now: float) -> None:
        """A worker sent nonsense: three times and it is turned away."""
        count = self.strikes.get(peer, 0) + 1
        if peer in self.peers and count < 3:
            self.strikes[peer] = count
            self.broker.refused[reason] += 1
        else:
            self.turn_away(peer, dialect, reason, now)

    def resources(self, worker: Worker, message: Resources) -> None:
        """Something changed on the machine since it registered."""
        names = self._neighbours(worker)
        self.state.ledger.see_gpus(worker, present=False)
        worker.measure(message.memory_gb, message.gpus, message.caches)
        self.state.ledger.see_gpus(worker, present=True)
        self.state.queue.touch(names | self._neighbours(worker))

    # --- silence and leaving --------------------------------------------------------------

    def peer_lost(self, peer: bytes, now: float, revoked: bool = False) -> None:
        """Its connection is gone. A native worker may come back, so its lease runs on; not so
        when its key was revoked."""
        worker = self.peers.get(peer)
        if worker is None:
            return
        if worker.native and revoked:
            self._detach(worker)
            self._lost(worker, now, "its key was revoked")
        elif worker.native:
            self._detach(worker)
            worker.health = Health.SUSPECT
            self.state.queue.touch((worker.name,))
        else:
            self._lost(worker, now, "its connection is gone")
            self._gone(worker, now)

    def parted(self, peer: bytes, now: float, why: str = "it left") -> None:
        """It left in order: what it had not finished is queued again, without blame."""
        worker = self.peers.get(peer)
        if worker is None:
            return
        for attempt in self.broker.attempts_on(worker):
            if attempt.revoked:
                self._over(attempt.token, attempt.task.id, "handed_back", now)
            else:
                failure = Failure("handed_back", f"{worker.name}: {why}")
                self.broker.move_failed(attempt, "handed_back", failure, now)
        self._gone(worker, now)

    def _lost(self, worker: Worker, now: float, why: str) -> None:
        worker.health = Health.UNAVAILABLE
        self.state.queue.touch((worker.name,))
        for attempt in self.broker.attempts_on(worker):
            if not attempt.revoked:
                self.broker.lose(attempt, now, f"{worker.name}: {why}")

    def _gone(self, worker: Worker, now: float) -> None:
        for attempt in self.broker.attempts_on(worker):
            self._over(attempt.token, attempt.task.id, "gone", now)
        if worker.drained_by == worker.name:
            self._admit(worker, Admission.OPEN, now)  # it wanted to leave, and has
        self.drained(worker, now)
        self._detach(worker)
        worker.health = Health.GONE
        names = self._neighbours(worker)
        self.state.ledger.see_gpus(worker, present=False)
        del self.state.workers[worker.name]
        self.state.queue.touch(names)

    def drained(self, worker: Worker, now: float) -> None:
        """Say so once nothing of a draining worker runs any more."""
        if worker.admission is Admission.DRAINING and not worker.bookings:
            self._admit(worker, Admission.DRAINED, now)

    def _admit(self, worker: Worker, admission: Admission, now: float) -> None:
        since = now if worker.drain_since is None else worker.drain_since
        self.broker._fact(
            Admitted(
                since, worker.name, admission.value, worker.drained_by, worker.drain_reason,
                worker.deadline, worker.drain_policy,
            )
        )  # fmt: skip

    def look(self, now: float) -> None:
        """Allow for a stand-still of this broker: silence during that time proves nothing."""
        step = self.broker.settings.heartbeat / LOOKS
        late = now - self.next_look
        if late > step:
            for worker in self.state.workers.values():
                worker.seen = min(now, worker.seen + late)
            self.adoption_ends += late
        self.next_look = now + step

    def sweep(self, now: float) -> None:
        """Beat to everybody, and judge the silent; once per heartbeat."""
        if now < self.next_sweep:
            return
        settings = self.broker.settings
        self.next_sweep = now + settings.heartbeat
        effects = self.broker.effects
        for worker in list(self.state.workers.values()):
            if worker.peer is not None:
                effects.append(Beat(worker.peer, Dialect(worker.dialect)))
            if worker.native:
                self._judge(worker, now)
            elif not worker.bookings and now - worker.seen > settings.unavailable_after:
                # Plain workers beat while they wait, not while they work.
                self._gone(worker, now)

    def _judge(self, worker: Worker, now: float) -> None:
        settings = self.broker.settings
        silence = now - worker.seen
        if worker.health is Health.UNAVAILABLE:
            if not worker.incarnation and now < self.adoption_ends:
                return  # known from the journal only: it may still announce itself
            if not worker.incarnation:
                self._lost(worker, now, "it did not come back after the broker's restart")
            if silence > settings.gone_after:
                self._gone(worker, now)
        elif silence > settings.unavailable_after:
            self._lost(worker, now, f"silent for {silence:.1f} s")
        elif silence > settings.suspect_after and worker.health is Health.LIVE:
            worker.health = Health.SUSPECT
            self.state.queue.touch((worker.name,))

    def check(self) -> None:
        """The index of peers agrees with the registry; the unavailable run nothing current."""
        for peer, worker in self.peers.items():
            assert worker.peer == peer
            assert self.state.workers[worker.name] is worker
        for attempt in self.state.attempts.values():
            worker = attempt.booking.worker
            assert self.state.workers.get(worker.name) is worker, "booked on a worker that is gone"
            if worker.health is Health.UNAVAILABLE and worker.incarnation:
                assert attempt.revoked, f"{attempt.task.id} runs on {worker.name} without a lease"


def _senseless(kind: Kind) -> bool:
    """Whether it announces needs that no task could have."""
    return problem(Spec(kind.kind, needs=kind.needs or None)) is not None


def _may_serve(service: str) -> bool:
    return is_name(service) and not service.startswith(RESERVED)
