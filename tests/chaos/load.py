"""Clients at work on a real fleet, and everything that they were promised.

`Load` submits, resends, cancels and collects without a pause while a test does something cruel, and
then tells whether all of it came true. It trusts no word of the broker that an outside witness can
give: starts are counted in the files that attempts leave, ends in the journal's own sequence.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import zmq

from corral import Client, Retry, Task, Variant, wire
from corral.client import AsyncClient, AsyncHandle
from corral.errors import TaskCancelled
from corral.messages import Accepted, Refused, Submit, Update
from corral.tasks import TERMINAL, Spec, State, request_id
from tests.chaos.fleet import PATIENCE, Fleet, Marks, until

AT_LEAST = 20  # attempts of LONG seconds that run whenever the broker is killed
LONG = 5.0  # seconds
SLOTS = 16  # of each of the two workers for long tasks
LONG_AT_ONCE = 2 * SLOTS + 8  # unfinished long tasks: more than can run
FAR = {"length": "long"}
NEAR = {"length": "short"}
HEAVY = 1 << 20  # bytes of params


class Load:
    """Clients at work, and what they were told."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self.fleet = fleet
        self.chance = chance
        self.long = Marks(fleet.folder / "long")
        self.short = Marks(fleet.folder / "short")
        self.results: dict[str, Any] = {}  #: of acknowledged tasks, as they came first
        self.acknowledged: dict[str, State] = {}  #: and how each must end
        self.parents: dict[str, str] = {}  #: child -> parent
        self.ends: dict[str, set[int]] = defaultdict(set)  #: task -> where the journal ends it
        self.folded: set[str] = set()  #: tasks that had ended before a snapshot was taken
        self.resent = 0
        self.stopping = False
        self.storm = asyncio.Event()
        self._heavy: list[tuple[AsyncHandle, Any]] = []

    async def run(self, chaos: Callable[[], Awaitable[None]]) -> None:
        """Keep everybody busy until `chaos` is over, then let them come to their end."""
        self.clients = [AsyncClient(self.fleet.endpoint, timeout=PATIENCE) for _ in range(4)]
        patient, brisk, fickle, watcher = self.clients
        busy = [
            *(self._long_tasks(patient) for _ in range(LONG_AT_ONCE)),
            *(self._chains(brisk) for _ in range(3)),
            *(self._bursts(brisk) for _ in range(2)),
            self._storms(brisk),
            self._cancels(fickle),
            self._resends(),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(watcher))
                workers = [group.create_task(one) for one in busy]
                await chaos()
                self.stopping = True
                self.storm.set()
                await asyncio.wait_for(asyncio.gather(*workers), 2 * PATIENCE)
                await self._heavy_results(patient)
                await self._saw_all_ends()
                watch.cancel()
        finally:
            for client in self.clients:
                await client.close()

    # --- clients ------------------------------------------------------------------------

    async def _collect(self, client: AsyncClient, handle: AsyncHandle) -> Any:
        outcome = await client.outcome(handle, 2 * PATIENCE)
        assert outcome.state is self.acknowledged[handle.id], outcome.failure
        assert handle.id not in self.results, "told twice"
        self.results[handle.id] = outcome.value
        return outcome.value

    def _acknowledge(self, handle: AsyncHandle, end: State = State.SUCCEEDED) -> None:
        assert handle.id not in self.acknowledged, f"two tasks have the id {handle.id}"
        self.acknowledged[handle.id] = end

    def _marking(self, seconds: float, far: bool = False, **more: Any) -> Task:
        labels, marks = (FAR, self.long) if far else (NEAR, self.short)
        params = {"folder": str(marks.folder), "seconds": seconds}
        # Whatever happens to brokers and workers is no error of the task.
        blameless = Retry(limit=0)
        return Task("mark", params, needs=(Variant(labels=labels),), retry=blameless, **more)

    async def _long_tasks(self, client: AsyncClient) -> None:
        while not self.stopping:
            handle = await client.submit_task(self._marking(LONG, far=True))
            self._acknowledge(handle)
            await self._collect(client, handle)

    async def _chains(self, client: AsyncClient) -> None:
        """Three tasks, one after the other, in one message; then one more after the last."""
        while not self.stopping:
            first = self._marking(self.chance.uniform(0.0, 0.3))
            second = self._marking(0.0, after={"before": "#0"})
            third = self._marking(0.0, after={"before": "#1"})
            chain = await client.submit_many([first, second, third], batch=None)
            late = self._marking(0.0, after={"before": chain[2].id})
            chain.append(await client.submit_task(late))
            for index, handle in enumerate(chain):
                self._acknowledge(handle)
                if index:
                    self.parents[handle.id] = chain[index - 1].id
            for handle in chain:
                await self._collect(client, handle)

    async def _bursts(self, client: AsyncClient) -> None:
        """A few tiny tasks now and then, in several messages."""
        while not self.stopping:
            await self._echoes(client, 30, batch=7)
            await asyncio.sleep(0.2)

    async def _storms(self, client: AsyncClient) -> None:
        """When it is wished, so many messages that the broker is busy for a while."""
        while not self.stopping:
            await self.storm.wait()
            self.storm.clear()
            await self._echoes(client, 1_000, batch=1)

    async def _echoes(self, client: AsyncClient, count: int, batch: int) -> None:
        params = [{"number": number, "noise": os.urandom(99)} for number in range(count)]
        handles = await client.submit_many([Task("echo", p) for p in params], batch)
        for handle in handles:
            self._acknowledge(handle)
        for handle, sent in zip(handles, params, strict=True):
            assert await self._collect(client, handle) == sent

    async def _heavy_results(self, client: AsyncClient) -> None:
        for handle, sent in self._heavy:
            self._acknowledge(handle)
            assert await self._collect(client, handle) == sent

    async def _cancels(self, client: AsyncClient) -> None:
        """Tasks that would take long, cancelled while they wait or run."""
        while not self.stopping:
            handle = await client.submit_task(self._marking(60 * LONG))
            await asyncio.sleep(self.chance.uniform(0.0, 1.0))
            done = await client.cancel([handle.id], "changed my mind")
            # What had been cancelled before the broker died is so already when it is asked again.
            told = done.unchanged.get(handle.id, "it is cancelled already")
            assert told == "it is cancelled already", told
            self._acknowledge(handle, State.CANCELLED)
            await self._collect(client, handle)
            with pytest.raises(TaskCancelled, match="changed my mind"):
                await handle.result(PATIENCE)

    async def _resends(self) -> None:
        """One who resends every request several times, on new connections, also much later."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        earlier: list[Submit] = []
        try:
            while not self.stopping:
                spec = Spec("echo", msgspec.Raw(msgspec.msgpack.encode({"n": len(earlier)})))
                fresh = Submit(os.urandom(12), [spec, spec])
                await self._send(context, fresh, again=False)
                for submit in (self.chance.choice([fresh, *earlier[-200:]]), fresh):
                    await self._send(context, submit, again=True)
                for index in range(2):
                    id = request_id(fresh.request, index)
                    self.acknowledged[id] = State.SUCCEEDED
                    self.results[id] = {"n": len(earlier)}
                earlier.append(fresh)
                await asyncio.sleep(0.1)
        finally:
            context.destroy(0)

    async def _send(
        self, context: zmq.Context[zmq.Socket[bytes]], submit: Submit, again: bool
    ) -> None:
        """Send a submission on a new connection, and again until it is acknowledged."""
        began = time.monotonic()
        while True:
            with context.socket(zmq.DEALER) as dealer:
                dealer.setsockopt(zmq.LINGER, 0)
                dealer.connect(self.fleet.endpoint)
                dealer.send_multipart(wire.call(msgspec.structs.replace(submit, resend=again)))
                self.resent += again
                again = True
                until = time.monotonic() + self.chance.choice([0.02, 1.0])
                while time.monotonic() < until:
                    await asyncio.sleep(0.005)
                    while dealer.poll(0):
                        for answer in wire.heard_by_client(dealer.recv_multipart()):
                            assert not isinstance(answer, Refused), answer
                            if isinstance(answer, Accepted):
                                return
            assert time.monotonic() < began + 2 * PATIENCE, "never acknowledged"

    async def _watch(self, client: AsyncClient) -> None:
        async for update in client.watch(since=0):
            self._saw(update)

    def _saw(self, update: Update) -> None:
        if update.state in TERMINAL and update.cause == "snapshot":
            self.folded.add(update.id)
        elif update.state in TERMINAL:
            self.ends[update.id].add(update.seq)

    async def _saw_all_ends(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while missing := self.acknowledged.keys() - self.ends.keys() - self.folded:
            assert time.monotonic() < deadline, f"the watch did not tell the end of {missing}"
            await asyncio.sleep(0.05)

    # --- moments to be killed at ----------------------------------------------------------

    async def rest(self) -> None:
        """Some moment or other."""
        await asyncio.sleep(self.chance.uniform(0.0, 0.1))

    async def busy(self) -> None:
        """The broker has a lot to do."""
        self.storm.set()
        await asyncio.sleep(self.chance.uniform(0.0, 0.3))

    async def heavy(self) -> None:
        """A submission was acknowledged this instant, one that takes long to write."""
        params = [{"number": number, "noise": os.urandom(HEAVY)} for number in range(16)]
        handles = await self.clients[0].submit_many([Task("echo", p) for p in params], batch=16)
        self._heavy += zip(handles, params, strict=True)

    # --- what must hold -------------------------------------------------------------------

    def running(self) -> int:
        """How many attempts of LONG seconds run now, whatever the broker knows."""
        return self.long.younger(LONG)

    async def enough(self) -> None:
        """Wait until so many long attempts run as are promised."""
        deadline = time.monotonic() + PATIENCE
        while self.running() < AT_LEAST:
            assert time.monotonic() < deadline, f"only {self.running()} attempts run"
            await asyncio.sleep(0.05)

    async def audit(self, once: bool) -> None:
        """Everything that was promised, told from outside; `once`: nothing had to be repeated."""
        starts: dict[str, dict[str, float]] = defaultdict(dict)  # task -> path of a mark -> time
        for mark in (*self.long, *self.short):
            starts[mark.task][mark.path] = mark.at
        assert not once or not [task for task, marks in starts.items() if len(marks) > 1]
        assert {id: len(ends) for id, ends in self.ends.items()} == dict.fromkeys(self.ends, 1)
        assert self.results.keys() == self.acknowledged.keys()
        paths = {id: result for id, result in self.results.items() if isinstance(result, str)}
        assert len(paths) >= AT_LEAST
        assert all(path in starts[id] for id, path in paths.items())
        for child, parent in self.parents.items():
            good = starts[parent][paths[parent]]
            assert good < min(starts[child].values()), f"{child} began before {parent} was done"
        await self._nothing_changed()

    async def _nothing_changed(self) -> None:
        """A client that was never there hears what the others heard."""
        async with AsyncClient(self.fleet.endpoint, timeout=PATIENCE) as stranger:
            async for handle, outcome in stranger.results(list(self.acknowledged), 2 * PATIENCE):
                assert outcome.state is self.acknowledged[handle.id]
                assert outcome.value == self.results[handle.id]
            assert not await stranger.tasks(["waiting", "queued", "running", "retrying"])


def staffed(fleet: Fleet) -> Fleet:
    """A broker, and workers that serve what the load asks for."""
    fleet.start_broker()
    for name in ("far-1", "far-2"):
        fleet.worker(name, SLOTS, "--kinds", "mark", "--label", "length=long")
    kinds = "mark,echo,chatter,slow_checkpoint"
    fleet.worker("near", 8, "--kinds", kinds, "--label", "length=short")
    with Client(fleet.endpoint, timeout=PATIENCE) as client:
        until("three workers are there", lambda: len(client.workers()) == 3)
    return fleet


def put_to_rest(fleet: Fleet, load: Load, once: bool = True) -> None:
    """Nothing is left behind: what was promised held, all is free, and the store is whole."""
    asyncio.run(load.audit(once))
    with Client(fleet.endpoint, timeout=PATIENCE) as client:
        until("all is free", lambda: not any(worker.slots_used for worker in client.workers()))
    assert fleet.broker.stop() == 0
    for worker in fleet.workers.values():
        assert worker.stop() == 0
    fleet.audit()
