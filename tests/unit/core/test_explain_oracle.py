"""Explained cures against an oracle that shares no code with the broker, and against the broker.

A story of random workers and tasks is told to the machine; then tasks that do not run are
explained. The whole cure must start the task, and all but one part of it must not: by the oracle,
and by the machine itself, to which the parts happen as events wherever there is one for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from broker.core.explain import explain
from broker.core.state import BrokerState, TaskRecord
from corral.messages import Gpu, Part
from corral.settings import BrokerSettings
from corral.tasks import Retry, Spec, State, Variant
from tests.unit.core import oracle
from tests.unit.core.peers import Native, gpu, kind, spec
from tests.unit.core.story import Story

KINDS = {
    "a": kind("a"),
    "b": kind("b", strategy="least_loaded"),
    "c": kind("c", strategy="round_robin"),
}

# --- random stories -------------------------------------------------------------------------

SIZES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 4.0])
CARDS = st.lists(st.sampled_from([gpu("A", 8.0), gpu("B", 24.0), gpu("C", 24.0, 4.0)]), max_size=2)
VARIANTS = st.builds(
    Variant,
    cpus=SIZES,
    memory_gb=SIZES,
    gpus=st.sampled_from([0, 0, 0, 1, 2]),
    gpu_memory_gb=st.sampled_from([0.0, 12.0, 22.0]),
    named=st.sampled_from([{}, {}, {}, {"gate": 1}, {"gate": 3}]),
    labels=st.sampled_from([{}, {}, {"zone": "x"}, {"zone": "y"}]),
)
NEEDS = st.one_of(
    st.tuples(VARIANTS),
    st.tuples(VARIANTS, VARIANTS),
    st.just((Variant(cpus=1.0, gpus=1), Variant(cpus=1.0))),
)
WORKERS = st.fixed_dictionaries(
    {
        "slots": st.integers(0, 3),
        "cpus": st.sampled_from([1.0, 2.0, 4.0]),
        "memory_gb": st.sampled_from([0.0, 2.0, 4.0]),
        "gpus": CARDS,
        "kinds": st.lists(st.sampled_from(list(KINDS.values())), min_size=1, unique=True),
        "labels": st.sampled_from([{}, {"zone": "x"}, {"zone": "y"}]),
    }
)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """A story that stands somewhere in its middle."""
    story = Story(BrokerSettings(named={"gate": 2}, weights={"q": 2.0}))
    story.announces(*KINDS.values())
    with story.together():
        workers = [story.worker(f"w{n}", **draw(WORKERS)) for n in range(draw(st.integers(0, 3)))]
    client = story.client()
    pool = draw(st.lists(NEEDS, min_size=1, max_size=3))
    for _ in range(draw(st.integers(1, 4))):
        specs: list[Spec] = []
        for index in range(draw(st.integers(1, 5))):
            parents = draw(st.sets(st.integers(0, index - 1), max_size=2)) if index else set()
            specs.append(
                spec(
                    draw(st.sampled_from("abc")),
                    needs=draw(st.sampled_from(pool)),
                    priority=draw(st.sampled_from([0, 0, 1])),
                    project=draw(st.sampled_from(["p", "p", "q"])),
                    after={f"n{parent}": f"#{parent}" for parent in parents},
                    retry=Retry(delay=8.0),
                )
            )
        client.submits(*specs)
        story.later(draw(st.sampled_from([0.0, 1.0, 7.0])))
        for worker in workers:
            happen(draw, story, worker)
    return story


def happen(draw: st.DrawFn, story: Story, worker: Native) -> None:
    """Something that may happen to one worker."""
    worker.inbox.clear()
    client = story.client("operator")
    what = draw(st.sampled_from(["", "", "", "fail", "drain", "silence", "vanish", "end"]))
    running = [a for a in story.state.attempts.values() if a.booking.worker.name == worker.name]
    heard = worker.connected and worker.record.health != "unavailable"
    if what in ("fail", "end") and running and heard:
        worker.tokens[running[0].task.id] = running[0].token
        # A run time that cannot be is not learned: the oracle knows no estimates.
        outcome = "ok" if what == "end" else "error"
        worker.ends(running[0].task.id, outcome=outcome, seconds=-1.0)
    elif what == "drain":
        client.drains(worker.name)
    elif what == "silence":
        worker.silent = True
    elif what == "vanish" and worker.connected:
        worker.vanishes()
    worker.inbox.clear()
    client.inbox.clear()


# --- what the oracle is told --------------------------------------------------------------------


def told(state: BrokerState, now: float) -> oracle.World:
    """The state as plain data."""
    tasks = {
        task.id: a_task(state, task)
        for task in state.tasks.values()
        if task.live and task.attempt is None
    }
    return oracle.World(
        now=now,
        gpu_wait=state.settings.prefer_gpu_wait,
        machines={name: a_machine(state, name) for name in state.workers},
        taken=set(state.ledger.gpu_holder),
        named=dict(state.ledger.named),
        named_used=dict(state.ledger.named_used),
        lanes=[
            oracle.Lane(
                lane.klass.key,
                lane.priority,
                lane.project.name,
                [tasks[task.id] for task in lane.tasks if task.lane is lane],
            )
            for lane in state.queue.lanes()
        ],
        times={project.name: project.time for project in state.queue.projects.values()}
        | {
            name: state.queue.projects[name].time if name in state.queue.projects else 0.0
            for name in ("p", "q")
        },
        weights={"q": 2.0},
        strategies={name: entry.kind.strategy for name, entry in state.catalog.entries.items()},
        holds={
            klass.key: klass.reserved
            for klass in state.queue.classes.values()
            if klass.reserved is not None
        },
        tasks=tasks,
        children={
            task.id: [child.id for child in task.children if child.id in tasks]
            for task in state.tasks.values()
            if task.children
        },
        booking=state.booking,
    )


def a_task(state: BrokerState, task: TaskRecord) -> oracle.Task:
    needs = task.klass.needs if task.state is State.QUEUED else state.needs_of(task)
    return oracle.Task(
        id=task.id,
        kind=task.spec.kind,
        needs=[
            oracle.Need(
                round(need.cpus * 1000),
                round(need.memory_gb * 1024),
                need.gpus,
                round(need.gpu_memory_gb * 1024),
                need.named,
                need.labels,
            )
            for need in needs
        ],
        priority=task.spec.priority,
        project=task.spec.project,
        order=task.order,
        since=task.since,
        key=state._class_of(task).key,
        state=task.state.value,
        due=task.retry_at or 0.0,
        parents=[id for id in task.spec.after.values() if state.tasks[id].live],
    )


def a_machine(state: BrokerState, name: str) -> oracle.Machine:
    worker = state.workers[name]
    of: dict[int, list[str]] = {}
    for attempt in state.attempts.values():
        # A revoked attempt may go on whatever becomes of its task.
        of.setdefault(attempt.booking.number, []).append("" if attempt.revoked else attempt.task.id)
    return oracle.Machine(
        name=name,
        kinds=set(worker.kinds),
        health=worker.health.value,
        admission=worker.admission.value,
        slots=worker.slots,
        slots_used=worker.slots_used,
        cpus=worker.cpus,
        cpus_used=worker.cpus_used,
        memory=worker.memory,
        memory_used=worker.memory_used,
        cards={
            card.uuid: oracle.Card(round(card.memory_gb * 1024), round(card.foreign_gb * 1024))
            for card in worker.gpus.values()
        },
        labels=dict(worker.labels),
        caches=worker.caches,
        last_used=worker.last_used,
        held=[
            oracle.Held(
                one.number,
                one.amount.cpus,
                one.amount.memory,
                list(one.gpus),
                dict(one.amount.named),
                list(of[one.number]),
            )
            for one in worker.bookings.values()
        ],
    )


# --- the same, done to the machine ---------------------------------------------------------------


class Doing:
    """Parts of a cure happen to a copy of the story."""

    def __init__(self, story: Story, id: str, parts: Sequence[Part], gone: list[str]) -> None:
        self.story = deepcopy(story)
        self.task = self.story.task(id)
        self.parts = parts
        self.gone = gone
        # What `free` lets go belongs to no attempt, so the books need not balance.
        self.story.broker.check = lambda: None  # type: ignore[method-assign]  # on purpose
        self.natives = {
            peer.name: peer for peer in self.story.peers.values() if isinstance(peer, Native)
        }

    def starts(self) -> bool:
        """Whether the task starts in the turn in which all of it happens."""
        story = self.story
        # Nothing else happens meanwhile: no timers but the task's own.
        story.broker.timers = [one for one in story.broker.timers if one[3] == self.task.id]
        with story.together():
            for part in sorted(self.parts, key=_first_things_first):
                getattr(self, part.action)(part)
        return self.task.attempt is not None

    def wait(self, part: Part) -> None:
        self.story.now += part.amount
        for worker in self.story.state.workers.values():
            worker.seen += part.amount
        if part.need == "back_off":
            self.story.broker._retry_due(self.task.id, self.story.now)

    def ahead(self, part: Part) -> None:
        self.story.client("queue").cancels(*self.gone)

    def finish(self, part: Part) -> None:
        parent = self.story.task(part.subject)
        attempt = parent.attempt
        if attempt is not None:
            worker = self.natives[attempt.booking.worker.name]
            if worker.connected and worker.record.health == "live":  # its word is a sign of life
                worker.tokens[parent.id] = attempt.token
                worker.ends(parent.id, seconds=-1.0)
                return
        self.succeed(parent)

    def succeed(self, parent: TaskRecord) -> None:
        """No event makes a task succeed that does not run with a worker that is there."""
        state = self.story.state
        if parent.lane is not None:
            state.queue.remove(parent)
        attempt, parent.attempt = parent.attempt, None
        state.counts[parent.state] -= 1
        parent.state = State.SUCCEEDED
        parent.retry_at = None
        state.counts[parent.state] += 1
        state._over(parent, self.story.now)
        if attempt is not None:
            del state.attempts[attempt.token]
            state._free(attempt, self.story.now)
        self.story.broker.settle(parent, self.story.now)

    def resume(self, part: Part) -> None:
        self.story.client("operator").resumes(part.subject)

    def revive(self, part: Part) -> None:
        self.register(part.subject)

    def install(self, part: Part) -> None:
        serves = KINDS[self.task.spec.kind]
        self.change(part.subject, lambda has: {"kinds": [*has["kinds"], serves]})

    def label(self, part: Part) -> None:
        name = part.need.removeprefix("label.")
        value = self.need(part).labels[name]
        self.change(part.subject, lambda has: {"labels": {**has.get("labels", {}), name: value}})

    def add(self, part: Part) -> None:
        if part.need == "gpus":
            new = [
                Gpu(f"{part.subject}/new-{n}", self.need(part).gpu_memory_gb)
                for n in range(round(part.amount))
            ]
            self.change(part.subject, lambda has: {"gpus": [*has["gpus"], *new]})
        else:
            amount = round(part.amount) if part.need == "slots" else part.amount
            self.change(part.subject, lambda has: {part.need: has[part.need] + amount})

    def add_worker(self, part: Part) -> None:
        need = self.need(part)
        cards = [Gpu(f"(new)/new-{n}", need.gpu_memory_gb) for n in range(need.gpus)]
        self.story.worker(
            "(new)", slots=1, cpus=need.cpus, memory_gb=need.memory_gb, gpus=cards,
            labels=need.labels, kinds=[KINDS[self.task.spec.kind]],
        )  # fmt: skip

    def free(self, part: Part) -> None:
        """Somebody else's share is let go, without any task that ends."""
        state, worker = self.story.state, self.story.state.workers[part.subject]
        if part.need == "slots":
            worker.slots_used -= round(part.amount)
        elif part.need == "cpus":
            worker.cpus_used -= round(part.amount * 1000)
        elif part.need == "memory_gb":
            worker.memory_used -= round(part.amount * 1024)
        else:
            self.free_cards(part)
        state.queue.touch((worker.name,))

    def free_cards(self, part: Part) -> None:
        state, worker = self.story.state, self.story.state.workers[part.subject]
        wanted = self.need(part).gpu_memory_gb
        held = sorted(
            (card.memory_gb, uuid)
            for uuid, card in worker.gpus.items()
            if card.memory_gb >= wanted
            and (uuid in state.ledger.gpu_holder or card.memory_gb - card.foreign_gb < wanted)
        )
        for _, uuid in held[: round(part.amount)]:
            state.ledger.gpu_holder.pop(uuid, None)
            worker.gpus[uuid] = structs.replace(worker.gpus[uuid], foreign_gb=0.0)
            state.queue.touch(state.ledger.gpu_seen_by[uuid])

    def named(self, part: Part) -> None:
        state = self.story.state
        state.ledger.named[part.subject] += round(part.amount)
        for klass in state.queue.classes.values():
            klass.stale = None
        state.queue.changed = True

    def need(self, part: Part) -> Variant:
        return self.story.state.needs_of(self.task)[part.variant]

    def change(self, name: str, how: Any) -> None:
        """The machine becomes another; it says so by registering, unless it is not there."""
        worker = self.natives[name]
        worker.fields |= how(worker.fields)
        revived = any(part.action == "revive" and part.subject == name for part in self.parts)
        if revived or self.story.state.workers[name].health == "live":
            self.register(name)

    def register(self, name: str) -> None:
        """READY with all that it runs."""
        worker = self.natives[name]
        record = self.story.state.workers[name]
        tokens = [a.token for a in self.story.state.attempts.values() if a.booking.worker is record]
        used = (record.slots_used, record.cpus_used, record.memory_used, dict(record.gpus))
        held = dict(self.story.state.ledger.gpu_holder)
        worker.inbox.clear()
        worker.returns(*tokens)
        # What `free` has let go stays so, whatever comes first.
        record.slots_used, record.cpus_used, record.memory_used = used[:3]
        for uuid, card in used[3].items():
            if uuid in record.gpus:
                record.gpus[uuid] = card
        self.story.state.ledger.gpu_holder = held


def _first_things_first(part: Part) -> int:
    """A wait for a GPU begins when the task is queued."""
    return (
        ["finish", "back_off", "gpus"].index(part.need or "finish")
        if part.action == "wait"
        else 0
        if part.action == "finish"
        else 3
    )


# --- the property -----------------------------------------------------------------------


@given(story=stories(), data=st.data())
def test_the_whole_cure_starts_a_task_and_all_but_one_part_does_not(
    story: Story, data: st.DataObject
) -> None:
    waiting = [t.id for t in story.state.tasks.values() if t.live and t.attempt is None]
    for id in waiting[: data.draw(st.integers(1, 4))]:
        cure = explain(story.state, id, story.now).cure
        world = told(story.state, story.now)
        gone = deepcopy(world).apply(id, cure)
        assert gone is not None, f"{cure} does not bring {id} into the queue"
        for part in cure:
            if part.action == "ahead":
                assert part.amount == len(gone) > 0
        assert world.starts(id, cure), f"the oracle does not start {id} with {cure}"
        assert Doing(story, id, cure, gone).starts(), f"the broker does not start {id} by {cure}"
        for part in cure:
            less = [other for other in cure if other is not part]
            assert not world.starts(id, less), f"{id} starts without {part} of {cure}"
            assert not Doing(story, id, less, gone).starts(), f"{id} runs without {part} of {cure}"
