"""A second opinion on who starts: the rules of scheduling, written down again without any thrift.

Imports nothing of Corral. Amounts are whole numbers: thousandths of a core, MiB. One round asks the
lanes in the order of priority, share and age; what cannot start is kept a machine; nothing is
cached, and every question is answered by looking at everything. Run times are unknown here, so no
slot is given work in advance.

`World.starts` is the question: do these parts of a cure, applied as `corral.messages.Part`
documents them, let the task start at once?
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

HOLD = 5.0  # seconds
FOREVER = float("inf")


@dataclass
class Need:
    """One variant."""

    cpus: int
    memory: int
    gpus: int
    gpu_memory: int
    named: dict[str, int]
    labels: dict[str, str]


@dataclass(eq=False)
class Task:
    """A task that does not run."""

    id: str
    kind: str
    needs: list[Need]
    priority: int
    project: str
    order: int
    since: float
    key: object  #: equal for tasks that ask for the same
    state: str = "queued"
    due: float = 0.0  #: when a back-off ends
    parents: list[str] = field(default_factory=list)  #: unfinished ones, with repetitions
    caches: frozenset[str] = frozenset()


@dataclass
class Held:
    """What a running attempt, or some of them in a row, hold."""

    number: int
    cpus: int
    memory: int
    gpus: list[str]
    named: dict[str, int]
    tasks: list[str]


@dataclass
class Card:
    memory: int
    foreign: int


@dataclass
class Machine:
    """One worker."""

    name: str
    kinds: set[str]
    health: str
    admission: str
    slots: int
    slots_used: int
    cpus: int
    cpus_used: int
    memory: int
    memory_used: int
    cards: dict[str, Card]
    labels: dict[str, str]
    caches: frozenset[str]
    last_used: int
    held: list[Held]

    @property
    def open(self) -> bool:
        return self.health == "live" and self.admission == "open"


@dataclass
class Lane:
    key: object
    priority: int
    project: str
    tasks: list[Task]


@dataclass
class Kept:
    """A machine that a blocked task gets when it frees."""

    machine: str
    slots: int
    cpus: int
    memory: int

    def admits(self, need: Need) -> bool:
        return (
            need.gpus == 0
            and self.slots >= 1
            and self.cpus >= need.cpus
            and self.memory >= need.memory
        )


@dataclass
class World:
    """Everything that decides who starts."""

    now: float
    gpu_wait: float
    machines: dict[str, Machine]
    taken: set[str]  #: cards in use
    named: dict[str, int]
    named_used: dict[str, int]
    lanes: list[Lane]
    times: dict[str, float]  #: project -> share received
    weights: dict[str, float]
    strategies: dict[str, str]
    holds: dict[object, tuple[str, int, float]]
    tasks: dict[str, Task]  #: all that do not run
    children: dict[str, list[str]]
    booking: int

    # --- what fits --------------------------------------------------------------------

    def free_cards(self, machine: Machine, need: Need) -> list[str]:
        fitting = [
            (card.memory, uuid)
            for uuid, card in machine.cards.items()
            if uuid not in self.taken and card.memory - card.foreign >= need.gpu_memory
        ]
        return [uuid for _, uuid in sorted(fitting)]

    def fits(self, task: Task, need: Need, machine: Machine) -> bool:
        return (
            task.kind in machine.kinds
            and machine.open
            and machine.slots > machine.slots_used
            and (not need.cpus or machine.cpus - machine.cpus_used >= need.cpus)
            and (not need.memory or machine.memory - machine.memory_used >= need.memory)
            and (not need.gpus or len(self.free_cards(machine, need)) >= need.gpus)
            and all(machine.labels.get(name) == value for name, value in need.labels.items())
        )

    def could(self, task: Task, need: Need, machine: Machine, dead_too: bool = False) -> bool:
        """Whether the machine would do if it were idle."""
        return (
            task.kind in machine.kinds
            and (dead_too or machine.health in ("live", "suspect"))
            and machine.slots >= 1
            and machine.cpus >= need.cpus
            and machine.memory >= need.memory
            and sum(card.memory >= need.gpu_memory for card in machine.cards.values()) >= need.gpus
            and all(machine.labels.get(name) == value for name, value in need.labels.items())
            and all(self.named.get(name, 0) >= count for name, count in need.named.items())
        )

    def named_free(self, name: str) -> int:
        return self.named.get(name, 0) - self.named_used.get(name, 0)

    def load(self, machine: Machine) -> float:
        return max(
            machine.slots_used / (machine.slots or 1),
            machine.cpus_used / (machine.cpus or 1),
            machine.memory_used / (machine.memory or 1),
        )

    def cost(self, task: Task, need: Need, machine: Machine) -> tuple[Any, ...]:
        """Less is better."""
        manners = bool(machine.cards) and not need.gpus
        strategy = self.strategies.get(task.kind, "resource_aware")
        if strategy == "least_loaded":
            mine: tuple[float, ...] = (self.load(machine),)
        elif strategy == "round_robin":
            mine = ()
        elif strategy == "affinity":
            mine = (-len(task.caches & machine.caches), self.load(machine))
        else:
            left = 0.0
            if machine.cpus:
                left += (machine.cpus - machine.cpus_used - need.cpus) / machine.cpus
            if machine.memory:
                left += (machine.memory - machine.memory_used - need.memory) / machine.memory
            left += (machine.slots - machine.slots_used - 1) / (machine.slots or 1)
            mine = (left,)
        return (manners, *mine, machine.last_used, machine.name)

    # --- one round ----------------------------------------------------------------------

    def round(self, subject: str) -> bool:
        """Whether the task starts."""
        kept: dict[str, Kept] = {}
        kept_named: dict[str, int] = {}
        blocked: list[Lane] = []
        while True:
            lanes = [lane for lane in self.lanes if lane.tasks and lane not in blocked]
            if not lanes:
                return False
            lane = min(lanes, key=self.place_of)
            task = lane.tasks[0]
            if self.start(task, kept, kept_named):
                lane.tasks.pop(0)
                if task.id == subject:
                    return True
            else:
                if not any(lane.key == other.key for other in blocked):
                    self.keep(task, kept, kept_named)
                blocked.append(lane)

    def place_of(self, lane: Lane) -> tuple[float, ...]:
        return (-lane.priority, self.times[lane.project], lane.tasks[0].order)

    def start(self, task: Task, kept: dict[str, Kept], kept_named: dict[str, int]) -> bool:
        for variant, need in enumerate(task.needs):
            if variant and task.needs[0].gpus and not need.gpus and self.waits_for_gpu(task):
                return False
            if any(
                self.named_free(name) - kept_named.get(name, 0) < count
                for name, count in need.named.items()
            ):
                continue
            candidates = [
                machine
                for machine in self.machines.values()
                if self.fits(task, need, machine)
                and (machine.name not in kept or kept[machine.name].admits(need))
            ]
            if candidates:
                best = min(candidates, key=lambda machine: self.cost(task, need, machine))
                self.book(task, need, best, kept)
                return True
        return False

    def waits_for_gpu(self, task: Task) -> bool:
        some = any(m.open and self.could(task, task.needs[0], m) for m in self.machines.values())
        return some and self.now - task.since < self.gpu_wait

    def book(self, task: Task, need: Need, machine: Machine, kept: dict[str, Kept]) -> None:
        hold = self.holds.get(task.key)
        if hold is not None and hold[0] == machine.name:
            del self.holds[task.key]
        if machine.name in kept:
            beside = kept[machine.name]
            beside.slots -= 1
            beside.cpus -= need.cpus
            beside.memory -= need.memory
        cards = self.free_cards(machine, need)[: need.gpus] if need.gpus else []
        self.taken |= set(cards)
        for name, count in need.named.items():
            self.named_used[name] = self.named_used.get(name, 0) + count
        machine.slots_used += 1
        machine.cpus_used += need.cpus
        machine.memory_used += need.memory
        self.booking += 1
        machine.last_used = self.booking
        machine.held.append(
            Held(self.booking, need.cpus, need.memory, cards, need.named, [task.id])
        )
        share = max(need.cpus / 1000 + 8.0 * need.gpus, 0.1)
        self.times[task.project] += share / self.weights.get(task.project, 1.0)

    def keep(self, task: Task, kept: dict[str, Kept], kept_named: dict[str, int]) -> None:
        """What a task that cannot start is kept."""
        for variant, need in enumerate(task.needs):
            capable = [m for m in self.machines.values() if m.open and self.could(task, need, m)]
            if not capable:
                continue
            for name, count in need.named.items():
                kept_named[name] = kept_named.get(name, 0) + count
            if all(self.named_free(name) >= count for name, count in need.named.items()):
                found = self.first_to_free(task, variant, capable)
                if found is not None:
                    kept.setdefault(found.machine, found)
            return

    def first_to_free(self, task: Task, variant: int, capable: list[Machine]) -> Kept | None:
        need = task.needs[variant]
        hold = self.holds.get(task.key)
        if hold is not None and hold[1] == variant and self.now < hold[2]:
            for machine in capable:
                if machine.name == hold[0]:
                    found = self.room_on(need, machine)
                    if found is not None:
                        return found[1]
        rooms = []
        for machine in capable:
            found = self.room_on(need, machine)
            if found is not None:
                rooms.append((found[0], self.load(machine), machine.name, found[1]))
        if not rooms:
            return None
        best = min(rooms, key=lambda room: room[:3])
        self.holds[task.key] = (best[2], variant, self.now + HOLD)
        return best[3]

    def room_on(self, need: Need, machine: Machine) -> tuple[float, Kept] | None:
        """When there is room (now, or nobody knows when), and what is left beside it."""
        slots = machine.slots - machine.slots_used
        cpus = machine.cpus - machine.cpus_used
        memory = machine.memory - machine.memory_used
        gpus = len(self.free_cards(machine, need)) if need.gpus else 0
        at = self.now
        for held in [*sorted(machine.held, key=lambda held: held.number), None]:
            if slots >= 1 and cpus >= need.cpus and memory >= need.memory and gpus >= need.gpus:
                left = Kept(machine.name, slots - 1, cpus - need.cpus, memory - need.memory)
                return at, left
            if held is not None:
                at = FOREVER
                slots += 1
                cpus += held.cpus
                memory += held.memory
                gpus += len(held.gpus)
        return None

    # --- parts of a cure ------------------------------------------------------------------

    def starts(self, subject: str, parts: list[Any]) -> bool:
        """Whether the task starts when these parts are so."""
        world = deepcopy(self)
        return world.apply(subject, parts) is not None and world.round(subject)

    def apply(self, subject: str, parts: list[Any]) -> list[str] | None:
        """Apply parts: ids of the tasks that had to go; None when it does not join the queue."""
        before = deepcopy(self)
        task = self.tasks[subject]
        finished = [part.subject for part in parts if part.action == "finish"]
        then = self.now + sum(part.amount for part in parts if part.action == "wait")
        if set(task.parents) - set(finished) or then < task.due:
            return None
        for parent in finished:
            self.let_go(parent)
        for part in parts:
            if part.action not in ("finish", "wait", "ahead"):
                self.change(task, part)
        self.join_after(task, finished)
        self.now = then
        gone: list[str] = []
        for part in parts:
            if part.action == "ahead":
                gone += self.ahead(task, before, part.subject)
        return gone

    def change(self, task: Task, part: Any) -> None:
        """One part that is about machines or named resources."""
        if part.action == "named":
            self.named[part.subject] = self.named.get(part.subject, 0) + round(part.amount)
        else:
            getattr(self, part.action)(task, part)

    def free(self, task: Task, part: Any) -> None:
        machine = self.machines[part.subject]
        if part.need == "gpus":
            need = task.needs[part.variant]
            free = self.free_cards(machine, need)
            held = sorted(
                (card.memory, uuid)
                for uuid, card in machine.cards.items()
                if uuid not in free and card.memory >= need.gpu_memory
            )
            for _, uuid in held[: round(part.amount)]:
                self.taken.discard(uuid)
                machine.cards[uuid].foreign = 0
        elif part.need == "slots":
            machine.slots_used -= round(part.amount)
        elif part.need == "cpus":
            machine.cpus_used -= round(part.amount * 1000)
        else:
            machine.memory_used -= round(part.amount * 1024)

    def add(self, task: Task, part: Any) -> None:
        machine = self.machines[part.subject]
        if part.need == "gpus":
            size = task.needs[part.variant].gpu_memory
            for index in range(round(part.amount)):
                machine.cards[f"{machine.name}/new-{index}"] = Card(size, 0)
        elif part.need == "slots":
            machine.slots += round(part.amount)
        elif part.need == "cpus":
            machine.cpus += round(part.amount * 1000)
        else:
            machine.memory += round(part.amount * 1024)

    def resume(self, task: Task, part: Any) -> None:
        self.machines[part.subject].admission = "open"

    def revive(self, task: Task, part: Any) -> None:
        self.machines[part.subject].health = "live"

    def install(self, task: Task, part: Any) -> None:
        self.machines[part.subject].kinds.add(task.kind)

    def label(self, task: Task, part: Any) -> None:
        name = part.need.removeprefix("label.")
        self.machines[part.subject].labels[name] = task.needs[part.variant].labels[name]

    def add_worker(self, task: Task, part: Any) -> None:
        need = task.needs[part.variant]
        cards = {f"(new)/new-{index}": Card(need.gpu_memory, 0) for index in range(need.gpus)}
        self.machines["(new)"] = Machine(
            name="(new)", kinds={task.kind}, health="live", admission="open", slots=1,
            slots_used=0, cpus=need.cpus, cpus_used=0, memory=need.memory, memory_used=0,
            cards=cards, labels=dict(need.labels), caches=frozenset(), last_used=0, held=[],
        )  # fmt: skip

    def join_after(self, task: Task, finished: list[str]) -> None:
        """Parents have succeeded, one after the other: their children join the queue."""
        left = {one.id: list(one.parents) for one in self.tasks.values()}
        for parent in finished:
            for child in self.children.get(parent, []):
                one = self.tasks[child]
                left[child] = [id for id in left[child] if id != parent]
                if not left[child] and one.state == "waiting" and child not in finished:
                    one.since = self.now
                    self.join(one)
        if task.state == "retrying":
            task.since = task.due
            self.join(task)

    def let_go(self, id: str) -> None:
        """A task is over, wherever it stood."""
        for lane in self.lanes:
            lane.tasks = [one for one in lane.tasks if one.id != id]
        for machine in self.machines.values():
            for held in list(machine.held):
                if id in held.tasks:
                    held.tasks.remove(id)
                    if held.tasks:
                        continue
                    machine.held.remove(held)
                    machine.slots_used -= 1
                    machine.cpus_used -= held.cpus
                    machine.memory_used -= held.memory
                    self.taken -= set(held.gpus)
                    for name, count in held.named.items():
                        self.named_used[name] -= count

    def join(self, task: Task) -> None:
        if not any(lane.tasks for lane in self.lanes if lane.project == task.project):
            busy = {lane.project for lane in self.lanes if lane.tasks}
            mine = self.times.get(task.project, 0.0)
            self.times[task.project] = max([mine, min([self.times[p] for p in busy] or [mine])])
        for lane in self.lanes:
            if (lane.key, lane.priority, lane.project) == (task.key, task.priority, task.project):
                lane.tasks.append(task)
                return
        self.lanes.append(Lane(task.key, task.priority, task.project, [task]))

    def ahead(self, task: Task, before: World, worker: str) -> list[str]:
        """Take out who is offered before the task, of those that the worker could run."""
        gone = []
        mine = (-task.priority, self.times[task.project], task.order)
        for lane in self.lanes:
            own = task in lane.tasks
            while lane.tasks and lane.tasks[0] is not task:
                head = lane.tasks[0]
                able = not worker or any(
                    before.could(head, need, before.machines[worker], dead_too=True)
                    for need in head.needs
                )
                if not own and (not able or self.place_of(lane) > mine):
                    break
                gone.append(lane.tasks.pop(0).id)
        return gone
