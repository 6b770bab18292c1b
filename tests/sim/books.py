"""The checker's own books: tasks, attempts, bookings, queues and machines, kept from the history.

Shares no code with the broker. Every entry is made by `checker`, which judges; here are only the
rules that the books themselves have: the table of transitions, and that nothing is booked or used
beyond what there is (P6).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

Entry = dict[str, Any]
Amount = list[float]  # slots, cores, GiB

OVER = frozenset({"succeeded", "failed", "cancelled", "aborted", "expired"})
NEXT = {
    ("waiting", "parents_done"): "queued",
    ("waiting", "parent_lost"): "aborted",
    ("queued", "assign"): "running",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "back_off"): "retrying",
    ("running", "requeue"): "queued",
    ("retrying", "due"): "queued",
    **{(state, "expire"): "expired" for state in ("waiting", "queued", "retrying")},
    **{(state, "cancel"): "cancelled" for state in ("waiting", "queued", "running", "retrying")},
    **{(state, "reopen"): "queued" for state in OVER - {"succeeded"}},
    **{(state, "reopen_waiting"): "waiting" for state in OVER - {"succeeded"}},
}
BROKEN_BY = {"cancelled": "P9", "succeeded": "P3"}  # a transition out of that state
POLICY = {"limit": 3, "lost_limit": 5, "memory_limit": 2, "poison_limit": 3, "never": ()}
BUDGET = {"out_of_memory": "memory_limit", "lost": "lost_limit", "killed": "poison_limit"}
#: what a task is; the rest of a spec is how it is run, and a new run may have another way
WORK = ("kind", "params", "after", "project")
NO_FAULT = frozenset({"handed_back", "cancelled", "recalled"})
NEVER = ENDLESS = float("inf")
#: a plain worker says nothing of its machine, and does one thing after the other
PLAIN = {
    "native": False, "slots": 1, "cpus": ENDLESS, "memory_gb": ENDLESS, "gpus": {}, "labels": {}
}  # fmt: skip


class Violation(Exception):
    """A promise was broken. `about` names what is concerned, to tell its story from the history."""

    def __init__(self, promise: str, why: str, *about: Any) -> None:
        super().__init__(f"{promise}: {why}")
        self.promise = promise
        self.about = [a for a in about if a]


def way(spec: Entry) -> str:
    """How it is asked to be run."""
    return repr([(name, spec[name]) for name in sorted(spec) if name not in WORK])


class Task:
    """What the rows say about one task."""

    def __init__(self, id: str, spec: Entry, at: float) -> None:
        self.id, self.spec = id, spec
        self.state = "waiting"
        self.ways = {way(spec)}  #: of its runs
        self.identified = False  #: by its content, or by the id that its client gave
        self.opened = self.queued_at = self.since = at
        self.token: bytes | None = None  #: the current one
        self.memory = 0.0  #: GiB asked for since it ran out of it
        self.value: bytes | None = None
        self.saved: bytes | None = None  #: its checkpoint
        self.ended: set[str] = set()  #: how its runs ended
        self.faults: Counter[str] = Counter()  #: of this run, by budget
        self.causes: Counter[str] = Counter()
        self.begun = False  #: this run has had an attempt
        self.lane: tuple[Any, ...] | None = None
        self.may_cancel = self.may_reopen = self.told = False


class Attempt:
    """What the rows and its worker say about one attempt."""

    def __init__(self, task: Task, token: bytes, worker: str, booking: int, at: float) -> None:
        self.task, self.token, self.worker, self.booking = task, token, worker, booking
        self.open = True
        self.excused = False  #: its worker was gone: what it still uses is nobody's fault
        self.got = self.started = self.running = False
        self.let_go = self.dead = self.parted = False  #: why its worker has it no more
        self.outcome: str | None = None
        self.value: bytes | None = None
        self.saves: bytes | None = None  #: the checkpoint that its worker sent last
        self.uses: Amount = [0.0] * 3
        self.holds: Entry = {}  #: cards and named things that it really uses
        self.unheld = at  #: since when no worker holds it; infinity while one does


class Booking:
    """What the rows say is held on one worker."""

    def __init__(self, worker: str, need: Entry, gpus: list[str]) -> None:
        self.worker, self.need, self.gpus = worker, need, gpus
        self.amount = [1.0, need["cpus"], need["memory_gb"]]
        self.open = 0


class Machine:
    """One worker: what it has, what the rows book on it, what it really uses."""

    def __init__(self, doc: Entry) -> None:
        self.doc = doc
        self.native: bool = doc["native"]
        self.has: Amount = [doc["slots"], doc["cpus"], doc["memory_gb"]]
        self.booked, self.used = [0.0] * 3, [0.0] * 3
        self.bookings = 0
        self.current: dict[bytes, Attempt] = {}  #: attempts with a current token
        self.open: dict[bytes, Attempt] = {}  #: attempts that hold something
        self.running: dict[bytes, Attempt] = {}  #: attempts that really run
        self.admission = "open"
        self.changed_at = 0.0  #: when a booking or its admission changed last
        self.fine_since = float("inf")
        self.up = True


class Books:
    """Everything that the history has said so far."""

    def __init__(self) -> None:
        self.now = 0.0
        self.settings: Entry = {}
        self.kinds: dict[str, list[list[Entry]]] = {}  #: needs, of each version
        self.tasks: dict[str, Task] = {}
        self.attempts: dict[bytes, Attempt] = {}
        self.bookings: dict[int, Booking] = {}
        self.machines: dict[str, Machine] = {}
        self.lanes: dict[tuple[Any, ...], dict[str, Task]] = {}  #: what is queued, in order
        self.gpu_booked: dict[str, int] = {}
        self.gpu_used: dict[str, Attempt] = {}
        self.named_booked: Counter[str] = Counter()
        self.named_used: Counter[str] = Counter()
        self.shared_at = 0.0  #: when a card or a named thing changed hands
        self.stalls: list[tuple[float, float]] = []  #: when the broker stood still
        self.delays: list[tuple[float, float]] = []  #: when it could not write, or was down

    def quiet_time(self, since: float, spans: list[tuple[float, float]]) -> float:
        """Seconds since then, without those in which the broker could do nothing."""
        spent, seen = self.now - since, since
        for begin, end in sorted(spans[-60:]):
            begin, end = max(begin, seen), min(end, self.now)
            if begin < end:
                spent -= end - begin
                seen = end
        return max(0.0, spent)

    # --- tasks ----------------------------------------------------------------------------

    def parents(self, task: Task) -> list[str]:
        """The states of its parents."""
        return [self.tasks[id].state for id in task.spec["after"].values()]

    def needs(self, task: Task) -> list[list[Entry]]:
        """What it asks for; more than one version when its kind's needs have changed."""
        own = task.spec["needs"]
        return [own] if own is not None else self.kinds[task.spec["kind"]]

    def asks(self, task: Task) -> list[Entry]:
        """The variants of all versions, with more memory after running out of it."""
        return [
            {**variant, "memory_gb": max(variant["memory_gb"], task.memory)}
            for needs in self.needs(task)
            for variant in needs
        ]

    def move(self, task: Task, cause: str) -> None:
        """One transition."""
        state = NEXT.get((task.state, cause))
        if state is None:
            promise = BROKEN_BY.get(task.state, "P2")
            raise Violation(promise, f"{task.id}: {cause} while {task.state}", task.id)
        task.causes[cause] += 1
        self.enter(task, state)

    def enter(self, task: Task, state: str) -> None:
        """Let a task be in a state, and in its lane when it is queued."""
        if task.lane is not None:
            del self.lanes[task.lane][task.id]
            if not self.lanes[task.lane]:
                del self.lanes[task.lane]
            task.lane = None
        task.state, task.since = state, self.now
        if state in OVER:
            task.ended.add(state)
        if state == "queued":
            spec = task.spec
            asks = (spec["kind"], str(spec["needs"]), task.memory, str(spec["caches"]))
            task.lane = (spec["priority"], *asks, spec["project"])
            task.queued_at = self.now
            self.lanes.setdefault(task.lane, {})[task.id] = task

    def blame(self, task: Task, outcome: str, kind: str | None) -> int:
        """Count a fault of a run; how many more are allowed, -1 when it must fail.

        Args:
            kind: the type of the error.
        """
        if outcome in NO_FAULT:
            return 0
        policy = {**POLICY, **(task.spec["retry"] or {})}
        budget = BUDGET.get(outcome, "limit")
        task.faults[budget] += 1
        if outcome == "time_limit" or kind in policy["never"]:
            return -1
        left: int = policy[budget] - (outcome == "killed") - task.faults[budget]
        return max(left, -1)

    # --- what is booked -------------------------------------------------------------------

    def book(self, attempt: Attempt, need: Entry, gpus: list[str]) -> None:
        """An attempt takes a booking, or joins one."""
        machine, id = self.machines[attempt.worker], attempt.task.id
        machine.changed_at = self.now
        doc, kind = machine.doc, attempt.task.spec["kind"]
        small = any(doc["gpus"].get(uuid, -1.0) < need["gpu_memory_gb"] for uuid in gpus)
        if small or kind not in doc["kinds"] or need["labels"].items() - doc["labels"].items():
            raise Violation("P6", f"{attempt.worker} has not what {id} asks for", id)
        booking = self.bookings.get(attempt.booking)
        if booking is None:
            booking = self.bookings[attempt.booking] = Booking(attempt.worker, need, gpus)
            machine.bookings += 1
            machine.booked = _plus(machine.booked, booking.amount)
            if _beyond(machine.booked, machine.has):
                why = f"{attempt.worker} has {machine.has} and {machine.booked} is booked"
                raise Violation("P6", why, id)
            self.named_booked.update(need["named"])
            if any(self.named_booked[n] > self.settings["named"][n] for n in need["named"]):
                raise Violation("P6", f"{id}: {self.named_booked} are booked", id)
            for uuid in gpus:
                if self.gpu_booked.setdefault(uuid, attempt.booking) != attempt.booking:
                    raise Violation("P6", f"{uuid} is booked twice", id)
            if need["named"] or gpus:
                self.shared_at = self.now
        elif booking.worker != attempt.worker or booking.need != need:
            raise Violation("P6", f"booking {attempt.booking} is not one booking", id)
        booking.open += 1
        machine.open[attempt.token] = attempt

    def free(self, attempt: Attempt) -> None:
        """An attempt lets go of its booking."""
        attempt.open = False
        booking, machine = self.bookings[attempt.booking], self.machines[attempt.worker]
        del machine.open[attempt.token]
        machine.changed_at = self.now
        booking.open -= 1
        if not booking.open:
            del self.bookings[attempt.booking]
            machine.bookings -= 1
            machine.booked = _plus(machine.booked, booking.amount, -1)
            self.named_booked.subtract(booking.need["named"])
            for uuid in booking.gpus:
                del self.gpu_booked[uuid]
            if booking.need["named"] or booking.gpus:
                self.shared_at = self.now

    def fits(self, task: Task, machine: Machine, variant: int = 0, whole: bool = False) -> bool:
        """Whether the rows leave room for it there; `whole`: if nothing were booked.

        When its kind's needs have changed it must fit by each of them.
        """
        doc = machine.doc
        if task.spec["kind"] not in doc["kinds"]:
            return False
        for needs in self.needs(task):
            need = needs[min(variant, len(needs) - 1)]
            wants = [1.0, need["cpus"], max(need["memory_gb"], task.memory)]
            booked = [0.0] * 3 if whole else machine.booked
            if _beyond(_plus(booked, wants), machine.has):
                return False
            cards = [gb for uuid, gb in doc["gpus"].items() if whole or uuid not in self.gpu_booked]
            if sum(gb >= need["gpu_memory_gb"] for gb in cards) < need["gpus"]:
                return False
            if any(doc["labels"].get(label) != value for label, value in need["labels"].items()):
                return False
            for name, count in need["named"].items():
                taken = 0 if whole else self.named_booked[name]
                if self.settings["named"].get(name, 0) - taken < count:
                    return False
        return True

    # --- what is really used --------------------------------------------------------------

    def use(self, attempt: Attempt, uses: Amount, gpus: list[str], named: Entry) -> None:
        """An attempt begins to use what its worker gave it; nobody else may use it too."""
        machine, id = self.machines[attempt.worker], attempt.task.id
        attempt.uses, attempt.holds = uses, {"gpus": gpus, "named": named}
        machine.used = _plus(machine.used, uses)
        if _beyond(machine.used, machine.has):
            others = [a.task.id for a in machine.running.values()]
            why = f"{attempt.worker} has {machine.has} and uses {machine.used}"
            raise Violation("P6", f"{why} (slots, cores, GiB)", *others)
        for uuid in gpus:
            other = self.gpu_used.setdefault(uuid, attempt)
            if other is not attempt or uuid not in machine.doc["gpus"]:
                raise Violation("P6", f"{uuid} runs {other.task.id} and {id}", id, other.task.id)
        self.named_used.update(named)
        if any(self.named_used[name] > self.settings["named"][name] for name in named):
            raise Violation("P6", f"{id}: {self.named_used} are in use", id)

    def release(self, attempt: Attempt) -> None:
        """It really ended, or what it uses is no longer anybody's fault."""
        machine = self.machines[attempt.worker]
        machine.running.pop(attempt.token, None)
        if attempt.running and attempt.holds:
            machine.used = _plus(machine.used, attempt.uses, -1)
            for uuid in attempt.holds["gpus"]:
                del self.gpu_used[uuid]
            self.named_used.subtract(attempt.holds["named"])
        attempt.running = False


def _plus(one: Amount, other: Amount, sign: int = 1) -> Amount:
    return [a + sign * b for a, b in zip(one, other, strict=True)]


def _beyond(amount: Amount, there: Amount) -> bool:
    return any(a > b + 1e-6 for a, b in zip(amount, there, strict=True))
