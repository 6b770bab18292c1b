"""What open pages cost the broker: the same work without a gateway, with one, and with 20 pages.

A real broker, two real workers of one slot, a real gateway, and 20 real readers of its live stream.
The gateway and the readers have the scheduling of any other process, as the gateway's unit has, and
share this machine's cores with the broker. A fleet's gateway has a machine of its own, so what the
pages cost the broker itself, its CPU per task, is told beside what they cost all together.

Two loads: tasks offered at 10,000 events/s, of which each task makes three (submitted, assigned,
ended), and tasks as fast as they go. The settings take turns, forth and back.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import zmq

from bench.daemons import broker, gateway, worker
from bench.native import Caller
from bench.processes import (
    BenchError,
    await_true,
    cpu_seconds,
    free_port,
    peak_bytes,
    process,
    resident_bytes,
    says,
)

PAGES = 20
EVENTS_PER_TASK = 3
OFFERED = 10_000  # events/s
SECONDS = 6.0  # of the offered load
BURST = 60_000  # tasks
ROUNDS = 3
WORKERS = ("w1", "w2")
SETTINGS = ("none", "gateway", "pages")
REST_SECONDS = 60.0
IDLE_SECONDS = 0.5
MIB = 1 << 20


class House:
    """A broker with two workers, and what is measured of it."""

    def __init__(
        self, stack: ExitStack, context: zmq.Context[zmq.Socket[bytes]], folder: Path
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.broker = stack.enter_context(broker(folder, self.port)).pid
        self.caller = stack.enter_context(Caller(context, self.port))
        for name in WORKERS:
            stack.enter_context(worker(folder, self.port, name))
        await_true(
            lambda: self.caller.status().workers == {"available": len(WORKERS)}, "workers are there"
        )

    def load(self, tasks: int, events_per_s: float | None) -> dict[str, float]:
        """Tasks per second, and what each cost the broker."""
        rate = None if events_per_s is None else events_per_s / EVENTS_PER_TASK
        before = cpu_seconds((self.broker,))
        seconds = self.caller.pour(tasks, rate)
        used = cpu_seconds((self.broker,)) - before
        return {"tasks_per_s": tasks / seconds, "broker_cpu_us": used / tasks * 1e6}

    def rest(self, *others: int) -> None:
        """Waits until the broker, and these processes, have nothing left to do."""
        pids = (self.broker, *others)

        def idle() -> bool:
            before = cpu_seconds(pids)
            time.sleep(IDLE_SECONDS)
            return cpu_seconds(pids) - before < 0.1 * IDLE_SECONDS

        await_true(idle, "broker and gateway rest", REST_SECONDS)


@contextmanager
def pages(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Keeps 20 pages open. Fails the figure when one of them ends by itself."""
    command = (sys.executable, "-m", "bench.readers", str(port), str(PAGES))
    with process(
        *command, log=folder / "pages.log", ready=says(folder / "pages.log", "open")
    ) as child:
        yield child
    report = folder / "pages.log"
    if child.returncode:
        raise BenchError(report.read_text())


def measured(house: House, setting: str, folder: Path, share: float) -> dict[str, float]:
    """Returns the figures of both loads in one setting."""
    folder.mkdir()
    told: dict[str, float] = {}
    with ExitStack() as stack:
        pid = 0
        if setting != "none":
            port = free_port()
            pid = stack.enter_context(gateway(folder, house.port, port)).pid
        if setting == "pages":
            stack.enter_context(pages(folder, port))
        loads = {"offered": (OFFERED / EVENTS_PER_TASK * SECONDS, OFFERED), "burst": (BURST, None)}
        memory = [resident_bytes(pid)] if pid else []
        for name, (tasks, rate) in loads.items():
            house.rest(*filter(None, (pid,)))
            before = cpu_seconds((pid,)) if pid else 0.0
            began = time.monotonic()
            figures = house.load(int(tasks * share), rate)
            if pid:
                figures["gateway_cpu"] = (cpu_seconds((pid,)) - before) / (time.monotonic() - began)
                memory.append(resident_bytes(pid))
            told |= {f"{name}_{figure}": value for figure, value in figures.items()}
        if pid:
            told |= {"rss_before": memory[0], "rss_after": memory[-1], "rss_peak": peak_bytes(pid)}
    return told


def measure(folder: Path, share: float) -> dict[str, float]:
    """Returns medians over the rounds, with ratios of 20 pages to no gateway within each round."""
    rounds: list[dict[str, dict[str, float]]] = []
    with zmq.Context() as context, ExitStack() as stack:
        house = House(stack, context, folder)
        house.load(int(BURST * share), None)  # warm
        for number in range(ROUNDS):
            order = SETTINGS if number % 2 == 0 else SETTINGS[::-1]
            rounds.append(
                {
                    setting: measured(house, setting, folder / f"{number}-{setting}", share)
                    for setting in order
                }
            )
    return _summary(rounds)


def _summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    def all_of(setting: str, figure: str) -> list[float]:
        return [one[setting][figure] for one in rounds]

    told: dict[str, float] = {}
    for load in ("offered", "burst"):
        rates = {setting: all_of(setting, f"{load}_tasks_per_s") for setting in SETTINGS}
        ratios = [some / none for some, none in zip(rates["pages"], rates["none"], strict=True)]
        told |= {f"{load}_ratio": median(ratios), f"{load}_ratio_min": min(ratios)}
        for setting in SETTINGS:
            told[f"{load}_{setting}_events_per_s"] = EVENTS_PER_TASK * median(rates[setting])
            cost = median(all_of(setting, f"{load}_broker_cpu_us"))
            told[f"{load}_{setting}_broker_cpu_us_per_task"] = cost
        for setting in SETTINGS[1:]:
            share = median(all_of(setting, f"{load}_gateway_cpu"))
            told[f"{load}_{setting}_gateway_percent_of_core"] = 100 * share
    for moment in ("before", "after", "peak"):
        told[f"gateway_mib_{moment}"] = max(all_of("pages", f"rss_{moment}")) / MIB
    return told
