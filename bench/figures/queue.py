"""100,000 queued tasks: the memory of each, and how soon the broker is back after kill -9."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import zmq

from bench.daemons import broker
from bench.native import Caller, announce
from bench.processes import BenchError, free_port, resident_bytes

TASKS = 100_000
KILLS = 3


def measure(folder: Path, share: float) -> dict[str, float]:
    """Returns resident bytes per queued task, and how long recovery takes (median of three kills).

    Recovery runs from the start of the process: to its first answer, and to all tasks queued.
    """
    tasks, port = int(TASKS * share), free_port()
    with zmq.Context() as context:
        with broker(folder, port) as child, Caller(context, port) as caller:
            announce(context, port)
            caller.status()
            before = resident_bytes(child.pid)
            caller.submit(tasks)
            expect_queued(caller, tasks)
            grown = resident_bytes(child.pid) - before
            child.kill()
        recoveries = [recover(context, folder, port, tasks) for _ in range(KILLS)]
    answered, queued = zip(*recoveries, strict=True)
    return {
        "tasks": tasks,
        "bytes_per_task": grown / tasks,
        "first_answer_s": median(answered),
        "recovery_s": median(queued),
    }


def recover(
    context: zmq.Context[zmq.Socket[bytes]], folder: Path, port: int, tasks: int
) -> tuple[float, float]:
    """Starts a broker on what a killed one left and returns both times. Kills it, too."""
    started = time.monotonic()
    with broker(folder, port) as child, Caller(context, port) as caller:
        view = caller.status()
        answered = time.monotonic() - started
        while view.tasks.get("queued", 0) < tasks:
            view = caller.status()
        queued = time.monotonic() - started
        expect_queued(caller, tasks)
        child.kill()
    return answered, queued


def expect_queued(caller: Caller, tasks: int) -> None:
    """Fails the figure unless exactly so many tasks are queued."""
    found = caller.status().tasks.get("queued", 0)
    if found != tasks:
        raise BenchError(f"{found} tasks are queued, {tasks} were accepted")
