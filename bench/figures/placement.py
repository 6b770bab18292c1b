"""What it costs to place a task in a large fleet with a long queue, on the core alone.

1,000 workers of equal size, 100,000 queued tasks in 20 request classes, of mixed priority and
project. First all workers are free at once; then one task ends at a time and something takes its
place. Tasks take a second each, so that no slot is given work in advance.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.native import document
from bench.processes import BenchError
from bench.profiles import sampled
from broker.core.effects import AssignTask
from broker.core.events import Event, Heard, Turn
from broker.core.machine import Broker
from corral.messages import Ended, Finished, Raw, Submit
from corral.settings import BrokerSettings
from corral.tasks import Needs, Spec, needs
from corral.wire import Called, Dialect, Extended, Parted, Readied

WORKERS = 1_000
TASKS = 100_000
PER_MESSAGE = 500
ENDS = 2_000
CPUS = (1.0, 2.0, 4.0, 8.0)
MEMORY_GB = (0.5, 2.0, 8.0, 16.0, 32.0)
CLASSES: list[Needs] = [
    needs(cpus=cpus, memory_gb=memory) for cpus, memory in itertools.product(CPUS, MEMORY_GB)
]
WORKER = {"slots": 8, "cpus": 8.0, "memory_gb": 32.0}
PARAMS = Raw(msgspec.msgpack.encode({"data": os.urandom(256)}))
TURN_SECONDS = 0.0005  # of the machine's clock; short, so that nobody misses a heartbeat


class Core:
    """The machine, its clock, and what it placed."""

    def __init__(self) -> None:
        self._broker = Broker(BrokerSettings(), seed=b"bench")
        self._now = 1_000_000.0
        self.placed: list[AssignTask] = []
        self.seconds = 0.0

    def turn(self, *events: Event) -> None:
        """Lets the machine handle events and see to what is due, and takes the time."""
        self._now += TURN_SECONDS
        started = time.perf_counter()
        effects = [
            effect
            for event in (*events, Turn())
            for effect in self._broker.handle(event, self._now)
        ]
        self.seconds += time.perf_counter() - started
        self.placed += [effect for effect in effects if isinstance(effect, AssignTask)]

    def phase(self) -> float:
        """Ends a phase: returns milliseconds per task that was placed in it.

        Raises:
            BenchError: nothing was placed.
        """
        if not self.placed:
            raise BenchError("the core placed nothing")
        cost = self.seconds / len(self.placed) * 1000
        self.placed, self.seconds = [], 0.0
        return cost


def measure(folder: Path, share: float) -> dict[str, float]:
    """Returns milliseconds of the core per placed task, in both phases and the larger of them."""
    workers, tasks = int(WORKERS * share), int(TASKS * share)
    core = Core()
    core.turn(ready("passing"))
    core.turn(Heard(b"passing", Parted(Dialect.MDP02)))
    for submission in submissions(tasks):
        core.turn(submission)
    if core.placed:
        raise BenchError("tasks were placed before there were workers")
    core.seconds = 0.0
    with sampled(os.getpid()):
        core.turn(*(ready(f"w{number:04}") for number in range(workers)))
        running = list(core.placed)
        filling = core.phase()
        for seq in range(1, ENDS + 1):
            ended = running[seq % len(running)]
            running[seq % len(running)] = running[-1]
            running.pop()
            before = len(core.placed)
            core.turn(finished(ended, seq))
            running += core.placed[before:]
        placed = len(core.placed)
        replacing = core.phase()
    return {
        "workers": workers,
        "tasks": tasks,
        "classes": len(CLASSES),
        "placed": placed,
        "filling_ms_per_task": filling,
        "replacing_ms_per_task": replacing,
        "ms_per_task": max(filling, replacing),
    }


def ready(name: str) -> Heard:
    """Returns the registration of a worker."""
    capabilities = msgspec.structs.replace(document(name), **WORKER)
    return Heard(name.encode(), Readied(Dialect.MDP02, "echo", capabilities))


def submissions(tasks: int) -> Iterator[Heard]:
    """Yields the submission of all tasks, many in a message."""
    chance = random.Random(1)
    for first in range(0, tasks, PER_MESSAGE):
        specs = [
            Spec(
                "echo",
                PARAMS,
                needs=chance.choice(CLASSES),
                priority=chance.randrange(3),
                project=f"project-{chance.randrange(5)}",
            )
            for _ in range(min(PER_MESSAGE, tasks - first))
        ]
        yield Heard(b"client", Called(Submit(b"submit-%d" % first, specs)))


def finished(attempt: AssignTask, seq: int) -> Heard:
    """Returns the result of an attempt that took a second."""
    ended = Ended(attempt.token, "ok", seconds=1.0)
    return Heard(attempt.peer, Extended(Finished(seq, [ended])))
