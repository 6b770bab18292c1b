"""Throughput with a deep queue behind against a shallow one: a task must not cost more in a crowd.

Two brokers, each with two real workers of one slot, hold 1,000 and 1,000,000 tasks of low priority.
A burst of higher priority is submitted while the workers are drained; the time runs from the moment
they are resumed until the last result has come. Bursts alternate between the two brokers.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import zmq

from bench.daemons import broker, worker
from bench.native import Caller
from bench.processes import await_true, cpu_seconds, free_port
from corral import messages

SHALLOW, DEEP = 1_000, 1_000_000
BURST = 60_000
BURSTS = 5
WORKERS = ("w1", "w2")
IDLE_SECONDS = 0.5  # without work, so that a burst pays for nothing that was put off before it
REST_SECONDS = 300.0  # in which the journal of a million tasks has become rows


class Fleet:
    """A broker with two drained workers and some queued tasks."""

    def __init__(
        self, stack: ExitStack, context: zmq.Context[zmq.Socket[bytes]], folder: Path
    ) -> None:
        folder.mkdir()
        port = free_port()
        self._broker = stack.enter_context(broker(folder, port)).pid
        self.caller = stack.enter_context(Caller(context, port))
        for name in WORKERS:
            stack.enter_context(worker(folder, port, name))
        self._await(available=len(WORKERS))
        self.rest()

    def rest(self) -> None:
        """Drains both workers and waits until they hold nothing."""
        for name in WORKERS:
            self.caller.call(messages.Drain, messages.Done, name, "between two bursts of the bench")
        self._await(drained=len(WORKERS))

    def fill(self, depth: int) -> None:
        """Queues low-priority tasks up to that depth; a few ran before the last drain."""
        self.caller.submit(depth - self.caller.status().tasks.get("queued", 0))
        await_true(self._idle, "the broker rests", REST_SECONDS)

    def _idle(self) -> bool:
        before = cpu_seconds((self._broker,))
        time.sleep(IDLE_SECONDS)
        return cpu_seconds((self._broker,)) - before < 0.05 * IDLE_SECONDS

    def burst(self, tasks: int) -> float:
        """Returns tasks per second of one burst that is ahead of everything queued."""
        self.caller.submit(tasks, priority=10, collect=True)
        started = time.monotonic()
        for name in WORKERS:
            self.caller.call(messages.Resume, messages.Done, name)
        seconds = self.caller.collect(tasks) - started
        self.rest()
        return tasks / seconds

    def _await(self, **wanted: int) -> None:
        await_true(
            lambda: wanted.items() <= self.caller.status().workers.items(), f"workers are {wanted}"
        )


def measure(folder: Path, share: float) -> dict[str, float]:
    """Returns the median rate of both depths and the median ratio of neighbouring bursts."""
    depths = {"shallow": SHALLOW, "deep": max(SHALLOW, int(DEEP * share))}
    rates: dict[str, list[float]] = {name: [] for name in depths}
    with zmq.Context() as context, ExitStack() as stack:
        fleets = {name: Fleet(stack, context, folder / name) for name in depths}
        for fleet in fleets.values():
            fleet.burst(BURST // 3)  # warm
        for _ in range(BURSTS):
            for name, fleet in fleets.items():
                fleet.fill(depths[name])
                rates[name].append(fleet.burst(BURST))
    ratios = [deep / shallow for deep, shallow in zip(rates["deep"], rates["shallow"], strict=True)]
    return {
        "shallow_tasks_per_s": median(rates["shallow"]),
        "deep_tasks_per_s": median(rates["deep"]),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "deep": depths["deep"],
    }
