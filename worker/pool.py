"""The children of an agent: which are warm, which lane each serves, what they hold. Pure.

A lane gets a child when a slot is free and no other child, dying ones included, holds one of its
GPUs. Methods return instructions; `worker.core` decides when to call them.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from worker.events import Confine, Instruction, Kill, Retire, Spawn
from worker.lanes import Booked, Child, least_used

WARM = 60.0  # seconds an idle child is kept
SPARE = 6  # idle children kept beside one for each slot: pipelines change between kinds
START_LIMIT = 60.0  # seconds for a child to import its handler
RETIRE_LIMIT = 5.0  # seconds for a child to end by itself


class Pool:
    """Every child from its start until it is dead."""

    def __init__(self, slots: int, cores: tuple[int, ...]) -> None:
        self.children: dict[int, Child] = {}
        self._slots = slots
        self._cores = cores
        self._used: Counter[int] = Counter()  # core -> lanes that are bound to it
        self._number = 0

    @property
    def is_full(self) -> bool:
        """Whether every slot has a lane."""
        return sum(child.lane is not None for child in self.children.values()) >= self._slots

    def give(self, lane: Booked, now: float) -> list[Instruction]:
        """Let a child serve the lane, a warm one or a new one.

        While another one holds a GPU of it the lane gets none, and that one, if idle, must end.
        """
        idle = [c for c in self.children.values() if c.lane is None and not c.leaving]
        warm = [child for child in idle if child.purpose == lane.purpose]
        if warm:
            return self._bind(lane, warm[-1])  # the one that was used last
        out: list[Instruction] = []
        for child in idle:
            if child.gpus & lane.gpus:
                out += self.retire(child, now)
        if any(child.gpus & lane.gpus for child in self.children.values()):
            return out
        if len(idle) >= self._slots + SPARE:
            out += self.retire(min(idle, key=lambda child: child.since), now)
        self._number += 1
        child = self.children[self._number] = Child(self._number, lane.purpose, now)
        return [*out, Spawn(child.number, *lane.purpose), *self._bind(lane, child)]

    def _bind(self, lane: Booked, child: Child) -> list[Instruction]:
        lane.child, child.lane = child, lane
        lane.cores = least_used(self._cores, self._used, lane.cpus)
        self._used.update(lane.cores)
        return [Confine(child.number, lane.cores, lane.memory_gb)]

    def release(self, lane: Booked, now: float) -> list[Instruction]:
        """The lane needs its child no more, if it has one; that one is idle now, or dead."""
        child, lane.child = lane.child, None
        self._used.subtract(lane.cores)
        lane.cores = ()
        if child is None:
            return []
        child.lane = None
        if child.leaving or child.number not in self.children:
            return []
        child.since = now
        self.children[child.number] = self.children.pop(child.number)  # the newest is the last
        return [Confine(child.number, (), 0.0)]

    def retire(self, child: Child, now: float) -> list[Instruction]:
        """Let an idle child end."""
        child.leaving = True
        child.since = now
        return [Retire(child.number)]

    def kill(self, child: Child, now: float) -> list[Instruction]:
        """End a child now."""
        child.leaving = True
        child.since = now
        return [Kill(child.number)]

    def due(self, child: Child) -> float:
        """When a child should have ended, or started, or been needed."""
        if child.leaving:
            return child.since + RETIRE_LIMIT
        if not child.ready:
            return child.since + START_LIMIT
        return child.since + WARM if child.lane is None else inf

    def check(self, lanes: list[Booked]) -> None:
        """Lanes and children agree; no slot, core or GPU is given twice."""
        served = [child.lane for child in self.children.values() if child.lane is not None]
        assert len(served) <= self._slots, "more lanes run than there are slots"
        for number, child in self.children.items():
            assert child.number == number
            assert child.lane is None or child.lane.child is child
        for lane in lanes:
            assert lane.child is None or lane.child.lane is lane
        gpus = Counter(gpu for child in self.children.values() for gpu in child.gpus)
        assert not gpus or max(gpus.values()) == 1, "two children hold one GPU"
        assert +self._used == Counter(core for lane in lanes for core in lane.cores)
