"""What there is and who holds it: workers, bookings, and the ledger of the whole fleet.

A booking takes a slot, cores and memory of one worker, GPUs by their UUID and named resources
fleet-wide, and gives them back exactly once. Nothing here decides where a task goes
(`broker.core.placement`) or when a worker is lost (`broker.core.fleet`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import structs

from corral.messages import Document, Gpu
from corral.tasks import Variant

if TYPE_CHECKING:
    from broker.core.queues import RequestClass

# Amounts are kept as whole numbers, so that taking and giving back leaves exactly what was there.
MILLI = 1000  # thousandths of a core
MIB = 1024  # MiB in a GiB


class Health(StrEnum):
    """What the broker has heard lately."""

    LIVE = "live"
    SUSPECT = "suspect"
    UNAVAILABLE = "unavailable"
    GONE = "gone"


class Admission(StrEnum):
    """Whether a worker may be given something new."""

    OPEN = "open"
    DRAINING = "draining"
    DRAINED = "drained"


class Amount:
    """What one attempt of a variant takes, in whole units."""

    __slots__ = ("cpus", "gpu_memory", "gpus", "memory", "named", "need")

    def __init__(self, variant: Variant) -> None:
        self.need = variant
        self.cpus = round(variant.cpus * MILLI)
        self.memory = round(variant.memory_gb * MIB)
        self.gpus = variant.gpus
        self.gpu_memory = round(variant.gpu_memory_gb * MIB)
        self.named = variant.named


class Booking:
    """Resources held for the attempts that run on them, one after the other."""

    __slots__ = (
        "amount", "began", "gpus", "klass", "number", "open", "run_limit", "variant", "worker",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        worker: Worker,
        variant: int,
        amount: Amount,
        gpus: list[str],
        began: float,
    ) -> None:
        self.number = number
        self.began = began  #: when the attempt that runs now did, as far as is known
        self.worker = worker
        self.variant = variant
        self.amount = amount
        self.gpus = gpus
        self.open = 0  #: attempts that have not been closed
        self.klass: RequestClass | None = (
            None  #: the request class whose tasks may be added; None: no more
        )
        self.run_limit: float | None = None  #: of the tasks that may be added


class Worker:
    """One worker in the registry, native or plain, or a name that only old bookings know."""

    __slots__ = (
        "about",
        "admission",
        "bookings",
        "caches",
        "cpus",
        "cpus_used",
        "deadline",
        "dialect",
        "drain_policy",
        "drain_reason",
        "drain_since",
        "drained_by",
        "former",
        "gpus",
        "health",
        "incarnation",
        "kinds",
        "labels",
        "lacks",
        "last_used",
        "memory",
        "memory_used",
        "name",
        "native",
        "peer",
        "seen",
        "session",
        "since",
        "slots",
        "slots_used",
        "started",
    )  # fmt: skip

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.peer: bytes | None = None  #: routing id; None: not registered at present
        self.native = True
        self.dialect = 2
        self.incarnation = ""
        self.former: tuple[str, ...] = ()  #: incarnations before it, the last few
        self.session = 0  #: which READY of its incarnation is in force
        self.started = 0.0  #: when its incarnation did, by its own clock
        self.health = Health.UNAVAILABLE
        self.admission = Admission.OPEN
        self.kinds: frozenset[str] = frozenset()
        self.lacks: dict[str, str] = {}  #: kind that it cannot run -> what pip must install there
        self.slots = 0
        self.slots_used = 0
        self.cpus = 0
        self.cpus_used = 0
        self.memory = 0
        self.memory_used = 0
        self.gpus: dict[str, Gpu] = {}
        self.labels: dict[str, str] = {}
        self.caches: frozenset[str] = frozenset()
        self.about: dict[str, str] = {}
        self.bookings: dict[int, Booking] = {}
        self.seen = now
        self.since = now
        self.last_used = 0
        self.drained_by = ""
        self.drain_reason = ""
        self.drain_since: float | None = None
        self.drain_policy = "wait"
        self.deadline: float | None = None

    def describe(self, document: Document) -> None:
        """Take over what a capability document says."""
        if self.incarnation and self.incarnation != document.incarnation:
            self.former = (*self.former[-7:], self.incarnation)
        self.incarnation = document.incarnation
        self.session = document.session
        self.started = document.started
        self.kinds = frozenset(kind.kind for kind in document.kinds if not kind.extra)
        self.lacks = {kind.kind: kind.extra for kind in document.kinds if kind.extra}
        self.slots = max(0, min(document.slots, 10_000))
        self.cpus = round(_amount(document.cpus) * MILLI)
        self.labels = document.labels
        self.about = document.about
        self.measure(document.memory_gb, document.gpus, document.caches)

    def measure(self, memory_gb: float, gpus: list[Gpu], caches: list[str]) -> None:
        """Take over what may change while it is registered."""
        self.memory = round(_amount(memory_gb) * MIB)
        self.gpus = {gpu.uuid: _sane(gpu) for gpu in gpus}
        self.caches = frozenset(caches)

    def outlived(self, document: Document) -> bool:
        """Whether this READY is of a connection, or a process, that another has replaced.

        A message of a connection that is closed may come after those of the next one.
        """
        if document.incarnation == self.incarnation:
            return document.session < self.session
        if document.incarnation in self.former:
            return True
        # A broker that was restarted knows no former ones. The worker's clock may have been set
        # back, so an earlier start counts for nothing once the later one is silent.
        return self.health is not Health.UNAVAILABLE and document.started < self.started

    @property
    def open(self) -> bool:
        """Whether it may be given something new."""
        return self.health is Health.LIVE and self.admission is Admission.OPEN

    @property
    def status(self) -> str:
        """One word for people, from health, admission and load."""
        if self.health is not Health.LIVE:
            return self.health.value
        if self.admission is not Admission.OPEN:
            return self.admission.value
        return "busy" if self.slots_used >= self.slots else "available"


def _amount(value: float) -> float:
    """What a peer says it has, as an amount that can be counted; no number is nothing."""
    return max(0.0, min(value, 1e6))


def _sane(gpu: Gpu) -> Gpu:
    return structs.replace(
        gpu, memory_gb=_amount(gpu.memory_gb), foreign_gb=_amount(gpu.foreign_gb)
    )


class Ledger:
    """Every booking of the fleet."""

    def __init__(self, named: dict[str, int]) -> None:
        self.named = dict(named)
        self.named_used: dict[str, int] = dict.fromkeys(named, 0)
        self.gpu_holder: dict[str, int] = {}  #: UUID -> booking
        self.gpu_seen_by: dict[str, set[str]] = {}  #: UUID -> names of workers that list it
        self.bookings: dict[int, Booking] = {}

    def take(self, booking: Booking) -> None:
        """Book it. What a worker runs already is booked even beyond what it has."""
        worker, amount = booking.worker, booking.amount
        worker.slots_used += 1
        worker.cpus_used += amount.cpus
        worker.memory_used += amount.memory
        worker.bookings[booking.number] = booking
        for uuid in booking.gpus:
            self.gpu_holder.setdefault(uuid, booking.number)
        for name, count in amount.named.items():
            self.named_used[name] = self.named_used.get(name, 0) + count
        self.bookings[booking.number] = booking

    def give_back(self, booking: Booking) -> None:
        """Free all that it holds."""
        worker, amount = booking.worker, booking.amount
        del self.bookings[booking.number], worker.bookings[booking.number]
        worker.slots_used -= 1
        worker.cpus_used -= amount.cpus
        worker.memory_used -= amount.memory
        for uuid in booking.gpus:
            if self.gpu_holder.get(uuid) == booking.number:
                del self.gpu_holder[uuid]
        for name, count in amount.named.items():
            self.named_used[name] -= count

    def reindex(self) -> None:
        """Find anew who holds each card: what is loaded may take it before another lets go."""
        self.gpu_holder = {
            uuid: booking.number for booking in self.bookings.values() for uuid in booking.gpus
        }

    def named_free(self, name: str) -> int:
        """How many of a named resource are free."""
        return self.named.get(name, 0) - self.named_used.get(name, 0)

    def free_gpus(self, worker: Worker, amount: Amount) -> list[str]:
        """UUIDs on `worker` that are free and large enough, the smallest first."""
        fitting = [
            gpu
            for gpu in worker.gpus.values()
            if gpu.uuid not in self.gpu_holder
            and round((gpu.memory_gb - gpu.foreign_gb) * MIB) >= amount.gpu_memory
        ]
        return [gpu.uuid for gpu in sorted(fitting, key=lambda gpu: (gpu.memory_gb, gpu.uuid))]

    def see_gpus(self, worker: Worker, present: bool) -> None:
        """Keep the index from a card to the workers that list it."""
        for uuid in worker.gpus:
            seen = self.gpu_seen_by.setdefault(uuid, set())
            if present:
                seen.add(worker.name)
            else:
                seen.discard(worker.name)
                if not seen:
                    del self.gpu_seen_by[uuid]

    def sharers(self, booking: Booking) -> set[str]:
        """Names of all workers for which taking or freeing `booking` changes what fits."""
        names = {booking.worker.name}
        for uuid in booking.gpus:
            names |= self.gpu_seen_by.get(uuid, set())
        return names

    def check(self) -> None:
        """Used amounts equal the sum of the bookings; no card and no named thing is held twice."""
        held: dict[str, int] = {}
        named: dict[str, int] = dict.fromkeys(self.named, 0)
        for booking in self.bookings.values():
            assert booking.open > 0, f"booking {booking.number} holds without an attempt"
            assert booking.worker.bookings[booking.number] is booking
            for uuid in booking.gpus:
                assert uuid not in held, f"GPU {uuid} is booked twice"
                held[uuid] = booking.number
            for name, count in booking.amount.named.items():
                named[name] = named.get(name, 0) + count
        assert held == self.gpu_holder, "the GPU index is not what is booked"
        used = {name: count for name, count in self.named_used.items() if count}
        assert used == {name: count for name, count in named.items() if count}
        workers = {id(b.worker): b.worker for b in self.bookings.values()}
        for worker in workers.values():
            mine = worker.bookings.values()
            assert worker.slots_used == len(mine)
            assert worker.cpus_used == sum(b.amount.cpus for b in mine)
            assert worker.memory_used == sum(b.amount.memory for b in mine)
