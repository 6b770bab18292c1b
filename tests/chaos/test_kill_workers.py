"""Workers die, freeze and come back under load: tasks move on, and no GPU is ever used twice.

Four workers share four cards, each card seen by two of them. Handlers take a lock per card without
waiting, and a lock that is held is a loud failure. The first test lets chance do its worst; those
after it tell one story each.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest
import zmq

from corral import Client, Retry, Task, Variant, wire
from corral.client import AsyncClient
from corral.client.handles import Handle
from corral.errors import NotFound
from corral.messages import Document, Kind, TaskView, WorkerView
from corral.tasks import TERMINAL, State
from tests.chaos.fleet import (
    LEASE,
    PATIENCE,
    Fleet,
    Marks,
    Worker,
    seeded,
    short_leases,
    until,
)
from tests.chaos.load import Load, put_to_rest, staffed
from tests.evidence import Evidence, Scale

CARDS = {"w1": "AB", "w2": "BC", "w3": "CD", "w4": "DA"}
PATIENT = Retry(lost_limit=1_000, poison_limit=1_000, delay=0.1, max_delay=0.1)
AT_ONCE = 14  # unfinished tasks


def gpus(cards: Iterable[str]) -> list[str]:
    """Options of a worker that has these cards."""
    return [f"--gpu=GPU-{card}=24GB" for card in cards]


def forced(number: int = 1) -> tuple[Variant, ...]:
    return (Variant(gpus=number),)


class Torment:
    """What chance does to one worker, again and again. Each method is one fault and its end."""

    def __init__(self, worker: Worker, chance: random.Random) -> None:
        self.worker = worker
        self.chance = chance

    async def once(self) -> str:
        """Do something cruel; returns what."""
        fault = self.chance.choice(
            [self.kill, self.kill_all, self.freeze, self.freeze_all, self.orphan]
        )
        await fault()
        return fault.__name__

    async def kill(self) -> None:
        """The agent alone; its children are left to themselves."""
        self.worker.kill()
        await self._come_back()

    async def kill_all(self) -> None:
        """The agent, its guard and its children."""
        family = self.worker.descendants()
        self.worker.kill()
        send(family, signal.SIGKILL)
        await self._come_back()

    async def orphan(self) -> None:
        """Agent and guard die while the children are frozen, and so outlive them."""
        family = self.worker.descendants()
        children = self.worker.children()
        send(children, signal.SIGSTOP)
        self.worker.kill()
        send([one for one in family if one not in children], signal.SIGKILL)
        await self._come_back()

    async def freeze(self) -> None:
        """The agent stands still for longer than its lease; its children go on."""
        self.worker.signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE + self.chance.uniform(0.5, 2.0))
        self.worker.signal(signal.SIGCONT)

    async def freeze_all(self) -> None:
        """All of it stands still, and goes on in one order or the other."""
        family = self.worker.descendants()
        self.worker.signal(signal.SIGSTOP)
        send(family, signal.SIGSTOP)
        await asyncio.sleep(LEASE + self.chance.uniform(0.5, 2.0))
        if agent_first := self.chance.random() < 0.5:
            self.worker.signal(signal.SIGCONT)
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))
        send(family, signal.SIGCONT)
        if not agent_first:
            self.worker.signal(signal.SIGCONT)

    async def _come_back(self) -> None:
        """Before its lease is over, or after."""
        await asyncio.sleep(self.chance.uniform(0.0, 1.6 * LEASE))
        self.worker.start()


def send(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


class GpuLoad:
    """Clients that want cards, and what they got."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self.fleet = fleet
        self.chance = chance
        self.marks = Marks(fleet.folder / "marks")
        self.results: dict[str, list[str]] = {}
        self.ends: Counter[str] = Counter()
        self.stopping = False

    async def run(self, client: AsyncClient) -> None:
        """Submit and collect, one task after the other."""
        while not self.stopping:
            wanted = 2 if self.chance.random() < 0.15 else 1
            seconds = self.chance.choice([0.0, 0.3, 1.0]) + self.chance.uniform(0.0, 0.2)
            params = {"folder": str(self.marks.folder), "seconds": seconds}
            handle = await client.submit_task(
                Task("gpu_lock", params, needs=forced(wanted), retry=PATIENT)
            )
            outcome = await client.outcome(handle, 4 * PATIENCE)
            assert outcome.state is State.SUCCEEDED, outcome.failure
            self.results[handle.id] = outcome.value
            assert len(set(outcome.value)) == wanted

    async def watch(self, client: AsyncClient) -> None:
        """Count the ends that the journal tells."""
        async for update in client.watch(since=0):
            assert update.cause != "snapshot"
            self.ends[update.id] += update.state in TERMINAL


def clashes(marks: Marks) -> list[str]:
    """Every time a handler found its card in use."""
    return [path.read_text() for path in marks.folder.glob("*.clash")]


@pytest.mark.timeout(300)
def test_no_card_is_used_twice_whatever_happens_to_its_workers(
    fleet: Callable[..., Fleet], scale: Scale, evidence: Evidence
) -> None:
    here = fleet(settings=short_leases())
    chance = seeded("kill_workers")
    here.start_broker()
    for name, cards in CARDS.items():
        here.worker(name, 3, "--kinds", "gpu_lock", *gpus(cards))
    with Client(here.endpoint, timeout=PATIENCE) as client:
        until("all workers are there", lambda: len(client.workers()) == len(CARDS))
    load = GpuLoad(here, chance)
    faults: Counter[str] = Counter()
    took = 0.0

    async def torment(worker: Worker) -> None:
        nonlocal took
        began = time.monotonic()
        victim = Torment(worker, chance)
        while faults.total() < scale.kills:
            await asyncio.sleep(chance.uniform(0.5, 4.0))
            assert not clashes(load.marks)
            faults[await victim.once()] += 1
        took = time.monotonic() - began

    async def story() -> None:
        async with AsyncClient(here.endpoint, timeout=PATIENCE) as client:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(load.watch(client))
                busy = [group.create_task(load.run(client)) for _ in range(AT_ONCE)]
                torments = [group.create_task(torment(w)) for w in here.workers.values()]
                await asyncio.gather(*torments)
                load.stopping = True
                await asyncio.wait_for(asyncio.gather(*busy), 2 * PATIENCE)
                await soon(lambda: load.results.keys() <= set(+load.ends))
                watch.cancel()
            async for handle, outcome in client.results(list(load.results), PATIENCE):
                assert outcome.value == load.results[handle.id], "a result has changed"

    asyncio.run(story())
    assert not clashes(load.marks)
    assert set(load.ends.values()) == {1}, "ended twice"
    starts = load.marks.starts()
    with Client(here.endpoint, timeout=PATIENCE) as client:
        late = client.status().refused.get("late result", 0)
        for view in client.show([id for id, count in starts.items() if count > 1]):
            check_story(view, load.results[view.id])
        until(
            "all are there", lambda: all(status_of(name, client) == "available" for name in CARDS)
        )
        until("all is free", lambda: all(map(is_free, client.workers())))
    assert here.broker.stop() == 0
    here.audit()
    evidence.record(
        "kill -9 and SIGSTOP of workers under load",
        faults=faults.total(),
        **faults,
        seconds=took,
        tasks=len(load.results),
        started_again=sum(count > 1 for count in starts.values()),
        late_results=late,
        cards_used_twice=0,
    )
    assert sum(count > 1 for count in starts.values()) > 0
    assert late > 0


async def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def check_story(view: TaskView, result: list[str]) -> None:
    """One attempt alone gave the result: the one that had the cards which the result names."""
    good = [attempt for attempt in view.attempts if attempt.outcome == "ok" and attempt.number]
    assert view.state is State.SUCCEEDED
    assert sorted(result) in [sorted(attempt.gpus) for attempt in good]


def status_of(worker: str, client: Client) -> str:
    found = {view.name: view.status for view in client.workers()}
    return found.get(worker, "not in the registry")


def is_free(worker: WorkerView) -> bool:
    return not worker.slots_used and not any(gpu.holder for gpu in worker.gpus)


# --- one story each ---------------------------------------------------------------------


class Pair:
    """Two workers that see the same card, and a task that has it on the first one."""

    def __init__(self, here: Fleet, client: Client, seconds: float) -> None:
        self.here, self.client = here, client
        self.marks = Marks(here.folder / "marks")
        self.first = here.worker("first", 2, "--kinds", "gpu_lock", *gpus("A"))
        until("the kind is known", lambda: client.workers())
        self.task = self.submit(seconds)
        until("it runs", lambda: len(list(self.marks)) == 1)
        self.second = here.worker("second", 2, "--kinds", "gpu_lock", *gpus("A"))
        until("the second worker is there", lambda: len(client.workers()) == 2)

    def submit(self, seconds: float) -> Handle:
        params = {"folder": str(self.marks.folder), "seconds": seconds}
        return self.client.submit_task(Task("gpu_lock", params, needs=forced(), retry=PATIENT))

    def status(self) -> str:
        return status_of("first", self.client)

    def holder(self) -> str:
        """The task that has the card, as the worker that did nothing sees it."""
        [view] = [view for view in self.client.workers() if view.name == "second"]
        return view.gpus[0].holder

    def is_gone_and_held_its_card(self) -> bool:
        """Whether the first worker has left the registry; while it is there, it has the card.

        One answer of the broker tells both, so a slow machine cannot come between them.
        """
        views = {view.name: view for view in self.client.workers()}
        if "first" not in views:
            return True
        assert views["second"].gpus[0].holder == self.task.id
        return False

    def stays(self, seconds: float, condition: Callable[[], bool]) -> None:
        """It is so, and stays so for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert condition()
            time.sleep(0.05)


@pytest.fixture
def pair(fleet: Callable[..., Fleet]) -> Iterator[Callable[..., Pair]]:
    """Makes a pair, given the settings and how long its task takes."""
    with ExitStack() as clients:

        def make(gone: float, seconds: float) -> Pair:
            here = fleet(settings=short_leases(gone))
            here.start_broker()
            client = clients.enter_context(Client(here.endpoint, timeout=PATIENCE))
            return Pair(here, client, seconds)

        yield make


def test_a_card_stays_booked_while_a_frozen_agent_may_still_use_it(
    pair: Callable[..., Pair],
) -> None:
    two = pair(gone=120, seconds=LEASE + 2)
    two.first.signal(signal.SIGSTOP)
    until("its lease is over", lambda: two.status() == "unavailable")
    other = two.submit(0.0)
    # Its child goes on and ends; as long as nobody knows that, the card is nobody else's.
    [began] = two.marks
    until("the child is done", lambda: time.monotonic() > began.at + LEASE + 2.5)
    two.stays(1.0, lambda: len(list(two.marks)) == 1 and two.holder() == two.task.id)
    assert two.task.show().state is State.QUEUED
    two.first.signal(signal.SIGCONT)
    assert two.task.result(PATIENCE) == other.result(PATIENCE) == ["GPU-A"]
    # What the first attempt had made by then was too late.
    assert two.marks.starts() == {two.task.id: 2, other.id: 1}
    assert two.client.status().refused["late result"] >= 1
    assert [one.outcome for one in two.task.show().attempts] == ["ok", "ok"]
    until("it is there again", lambda: two.status() == "available")
    until("all is free", lambda: all(map(is_free, two.client.workers())))
    assert not clashes(two.marks)


def test_what_a_worker_runs_without_a_lease_is_stopped_when_it_returns(
    pair: Callable[..., Pair],
) -> None:
    two = pair(gone=120, seconds=LEASE + 4)
    [child] = two.first.children()
    family = two.first.descendants()
    two.first.signal(signal.SIGSTOP)
    send(family, signal.SIGSTOP)
    until("its lease is over", lambda: two.status() == "unavailable")
    assert two.task.show().state is State.QUEUED
    send(family, signal.SIGCONT)
    two.first.signal(signal.SIGCONT)
    until("the old attempt is stopped", lambda: not child.is_running())
    assert two.task.result(PATIENCE) == ["GPU-A"]
    assert two.marks.starts() == {two.task.id: 2}
    assert [one.outcome for one in two.task.show().attempts] == ["cancelled", "ok"]
    until("it is there again", lambda: two.status() == "available")
    assert not clashes(two.marks)


def test_a_worker_that_never_returns_gives_its_cards_back_when_it_is_gone(
    pair: Callable[..., Pair],
) -> None:
    two = pair(gone=LEASE + 2, seconds=1.5)
    two.first.kill()
    until("it is gone, its card held until then", two.is_gone_and_held_its_card)
    assert two.task.result(PATIENCE) == ["GPU-A"]
    assert [one.outcome for one in two.task.show().attempts] == ["gone", "ok"]
    assert not clashes(two.marks)


def test_a_worker_that_was_only_slow_is_told_to_register_again(
    fleet: Callable[..., Fleet],
) -> None:
    """Its connection held all the while, so it has no other way to know that its lease is over."""
    here = fleet(settings=short_leases())
    here.start_broker()
    document = Document(name="slow", incarnation="one", kinds=[Kind("echo")])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, Client(here.endpoint, timeout=PATIENCE) as client:
        for _ in range(2):
            with context.socket(zmq.DEALER) as slow:
                slow.setsockopt(zmq.LINGER, 0)
                slow.connect(here.endpoint)
                slow.send_multipart(wire.ready("echo", document))
                for status in ("available", "unavailable"):
                    # mypy infers no lambda with a default; without it the loop's last would count
                    # The default binds this turn's status; mypy has no type for such a lambda.
                    until(status, lambda status=status: status_of("slow", client) == status)  # type: ignore[misc]
                slow.send_multipart(wire.heartbeat())
                heard = wire.heard_by_worker(slow.recv_multipart())
                while not isinstance(heard, wire.Parted):
                    assert slow.poll(int(PATIENCE * 1000)), "it was not told"
                    heard = wire.heard_by_worker(slow.recv_multipart())


async def log_of(client: AsyncClient, id: str) -> bytes:
    """What a task has written; nothing while it has no attempt."""
    try:
        return b"".join([piece async for piece in client.logs(id)])
    except NotFound:
        return b""


# --- all at once ------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_the_whole_fleet_dies_at_once_and_comes_back(
    fleet: Callable[..., Fleet], evidence: Evidence
) -> None:
    """As when the power fails, but for what the disk then does."""
    here = staffed(fleet())
    load = Load(here, seeded("all_at_once"))
    outages = 2

    async def chaos() -> None:
        for _ in range(outages):
            await load.enough()
            await load.heavy()
            families = [worker.descendants() for worker in here.workers.values()]
            here.broker.kill()
            for worker, family in zip(here.workers.values(), families, strict=True):
                worker.kill()
                send(family, signal.SIGKILL)
            for daemon in (*here.workers.values(), here.broker):
                daemon.start()

    asyncio.run(load.run(chaos))
    put_to_rest(here, load, once=False)
    evidence.record(
        "kill -9 of the whole fleet at once",
        outages=outages,
        tasks_acknowledged=len(load.acknowledged),
        tasks_failed=0,
    )


# --- in order -----------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_rolling_restart_of_all_workers_under_load_fails_nothing(
    fleet: Callable[..., Fleet], evidence: Evidence
) -> None:
    here = staffed(fleet())
    load = Load(here, seeded("rolling_restart"))
    took = 0.0

    async def chaos() -> None:
        nonlocal took
        await load.enough()
        client = load.clients[0]
        deaf = await client.submit("chatter", words="begun", seconds=4.0, ways=["descriptor"])
        counts = await client.submit("slow_checkpoint", to=30, seconds=0.1)
        began = time.monotonic()
        while not ((await counts.show()).progress and await log_of(client, deaf.id)):
            await asyncio.sleep(0.05)
        for worker in reversed(here.workers.values()):
            worker.signal(signal.SIGTERM)
            assert await asyncio.to_thread(worker.wait) == 0
            worker.start()
            await load.enough()
        took = time.monotonic() - began
        # Who does not listen is waited for; who saved where it was goes on from there.
        await deaf.result(PATIENCE)
        assert len((await deaf.show()).attempts) == 1
        counted = await counts.result(PATIENCE)
        assert counted["reached"] == 30
        assert counted["began_at"] > 0

    asyncio.run(load.run(chaos))
    put_to_rest(here, load, once=False)  # who looks whether it must stop is handed back at once
    evidence.record(
        "rolling restart of all workers under load",
        workers=len(here.workers),
        seconds=took,
        tasks_acknowledged=len(load.acknowledged),
        tasks_failed=0,
    )
