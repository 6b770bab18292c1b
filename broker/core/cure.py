"""What would let a task start at once: a cure, found by asking the scheduler itself.

A plan of parts is applied to a copy of the world (`broker.core.whatif`), and the real round says
whether the task starts. Then parts are left out again until each one that is left is needed. So
nothing is guessed: the whole cure starts the task, and less of it does not. How a cure is told to
people is `broker.core.explain`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from typing import NamedTuple

from broker.core.placement import Fact, Reservation, refresh, reserve, verdicts
from broker.core.resources import Worker
from broker.core.state import BrokerState, TaskRecord
from broker.core.whatif import ROOM, Ahead, Case, Outcome, World, large_enough
from corral.messages import Part

_PLANS = 3  # workers for which a cure is tried
_TICK = 0.001  # seconds beyond the moment at which something ends, so that it has ended
#: what each part asks of people; the plan that asks least is tried first
_COST = {
    "wait": 1, "named": 2, "free": 2, "ahead": 2, "resume": 3, "revive": 4, "label": 6,
    "install": 8, "add": 10,
}  # fmt: skip
#: needs that are met or not, and what would meet them
_SWITCH = {"kind": "install", "health": "revive", "admission": "resume"}


class Plan(NamedTuple):
    """What one worker lacks for one variant."""

    cost: float
    worker: str
    parts: list[Part]


class Search:
    """The search for a cure of one task."""

    def __init__(self, state: BrokerState, task: TaskRecord, now: float) -> None:
        self.state = state
        self.task = task
        self.now = now
        self.case = Case(state, task, now)
        self.klass = self.case.klass
        self.variants = range(len(self.klass.needs))
        self.facts = {
            (worker.name, variant): list(verdicts(self.klass, variant, worker, state.ledger))
            for worker in state.workers.values()
            for variant in self.variants
        }
        self.forced = [*self._parents(), *self._back_off()]
        self.soonest: Reservation | None = None  #: where room is expected first
        self._outcomes: dict[tuple[Part, ...], Outcome] = {}

    def round(self, parts: Sequence[Part]) -> Outcome:
        """How a round ends with these parts applied."""
        key = tuple(parts)
        found = self._outcomes.get(key)
        if found is None:
            found = self._outcomes[key] = self.case.round(parts)
        return found

    def cure(self) -> list[Part]:
        """Parts that start the task, each of which is needed."""
        if self.round(self.forced).started:
            return self.forced
        working = (parts for parts in self._plans() if self.round(parts).started)
        return self._least(next(working, self.forced))  # the last plan works in any world

    def _least(self, parts: list[Part]) -> list[Part]:
        """Leave out parts until every one that is left is needed."""
        for part in parts:
            rest = [other for other in parts if other is not part]
            if part not in self.forced and self.round(rest).started:
                return self._least(rest)
        return parts

    # --- plans ----------------------------------------------------------------------------

    def _plans(self) -> Iterator[list[Part]]:
        """Lists of parts worth trying, those that ask least first."""
        ways = [
            (plan.cost + more, plan, gone)
            for plan in self._nearest()
            for more, gone in ((0, None), (_COST["ahead"], plan.worker), (2 * _COST["ahead"], ""))
        ]
        for _, plan, gone in sorted(ways, key=lambda way: way[0]):
            yield [*self.forced, *plan.parts, *self._gone(gone)]
        new = Part(action="add_worker", subject=self.klass.kind, amount=1)
        named = self._named(0, self.klass.amounts[0].named)
        yield [*self.forced, new, *named, *self._gone("")]

    def _gone(self, worker: str | None) -> Iterator[Part]:
        """Those ahead, as far as this worker could run them, must be gone; None: nobody must."""
        if worker is not None:
            yield Part(action="ahead", subject=worker, amount=self.ahead(worker).number)

    def ahead(self, worker: str = "") -> Ahead:
        """Who comes before the task, of those that this worker could run."""
        with self.world() as world:
            return world.clear(worker)

    def world(self) -> World:
        """The world in which the task stands in the queue."""
        return World(self.case, self.case.due, self.forced)

    def _nearest(self) -> list[Plan]:
        """The workers that lack least, and of these the one that is expected to free first."""
        plans: list[Plan] = []
        with self.world() as world:
            refresh(world.klass, world.state)
            for variant in self.variants:
                plans += self._lacking(world, variant)
        return nsmallest(_PLANS, plans, key=lambda plan: (plan.cost, plan.worker))

    def _lacking(self, world: World, variant: int) -> Iterator[Plan]:
        """What each worker lacks for one variant."""
        state, klass = world.state, world.klass
        soonest = reserve(klass, variant, self.task, state, self.case.due)
        self.soonest = self.soonest or soonest
        favourite = soonest.worker.name if soonest is not None else ""
        wait = list(self.bounded_wait(variant))
        for worker in state.workers.values():
            if worker.native and not worker.incarnation:
                continue  # only the journal knows it: nobody can say what it has
            facts = self.facts[worker.name, variant]
            if worker.name in world.own:
                facts = list(verdicts(klass, variant, worker, state.ledger))
            unmet = (fact for fact in facts if not fact.met)
            parts = wait + [part for fact in unmet for part in self._cures(fact, worker, variant)]
            cost = float(sum(_COST[part.action] for part in parts))
            if worker.name != favourite:
                cost += min(0.9, 0.1 + 0.001 * sum(part.amount for part in parts))
            yield Plan(cost, worker.name, parts)

    def _parents(self) -> Iterator[Part]:
        for parent in self.case.parents:
            yield Part(action="finish", subject=parent.id)

    def _back_off(self) -> Iterator[Part]:
        seconds = self.case.due - self.now
        if seconds > 0:
            amount = round(seconds, 3) + _TICK
            yield Part(action="wait", subject=self.task.id, need="back_off", amount=amount)

    def bounded_wait(self, variant: int) -> Iterator[Part]:
        """The wait after which the task may do without a GPU, unless it expires before."""
        task, bound = self.task, self.case.bound
        limited = task.queue_limit is not None and task.started is None
        expires = task.opened + (task.queue_limit or 0.0) if limited else bound + 1.0
        seconds = bound - self.case.due
        without = self.klass.wants_gpu and not self.klass.needs[variant].gpus
        if without and seconds > 0 and bound + _TICK < expires:
            amount = round(seconds, 3) + _TICK
            yield Part(
                action="wait", subject=task.id, need="gpus", amount=amount, variant=variant
            )  # fmt: skip

    def _cures(self, fact: Fact, worker: Worker, variant: int) -> Iterator[Part]:
        """What would have to change for one unmet need of one worker."""
        amount, name, need = self.klass.amounts[variant], worker.name, fact.need
        if need in _SWITCH:
            yield Part(action=_SWITCH[need], subject=name, need=need, variant=variant)
        elif need == "gpus":
            there = len(large_enough(worker, amount))
            yield from _room(name, need, variant, amount.gpus, there, int(fact.has), 1)
        elif need in ROOM:
            of, used, unit = ROOM[need]
            wanted, there = getattr(amount, of, 1), getattr(worker, of)
            free = there - getattr(worker, used)
            yield from _room(name, need, variant, wanted, there, free, unit)
        elif need.startswith("label."):
            yield Part(action="label", subject=name, need=need, variant=variant)
        else:
            yield from self._named(variant, {need.removeprefix("named."): int(fact.wanted)})

    def _named(self, variant: int, wanted: Mapping[str, int]) -> Iterator[Part]:
        for name, count in wanted.items():
            short = count - self.state.ledger.named_free(name)
            if short > 0:
                need = f"named.{name}"
                yield Part(
                    action="named", subject=name, need=need, amount=short, variant=variant
                )  # fmt: skip


def _room(
    worker: str, need: str, variant: int, wanted: int, there: int, free: int, unit: int
) -> Iterator[Part]:
    """The parts that make `wanted` fit where `free` of `there` are free, all in whole units."""
    add = max(0, wanted - there)
    short = wanted - add - free
    for action, amount in (("add", add), ("free", short)):
        if amount > 0:
            yield Part(
                action=action, subject=worker, need=need, amount=amount / unit, variant=variant
            )  # fmt: skip
