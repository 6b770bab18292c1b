"""1,000 idle workers that only heartbeat: what they cost the broker.

The workers are simulated in this process, each with a socket of its own, and beat as often as the
broker asks.
"""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack
from pathlib import Path

import zmq

from bench.daemons import broker, endpoint
from bench.native import Caller, welcomed
from bench.processes import BenchError, cpu_seconds, free_port
from corral import wire

WORKERS = 1_000
SECONDS = 20.0


def measure(folder: Path, share: float) -> dict[str, float]:
    """Returns the broker's CPU time as percent of one core."""
    workers, port = int(WORKERS * share), free_port()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # inherited by the broker
    with zmq.Context() as context, ExitStack() as stack:
        context.set(zmq.MAX_SOCKETS, 2 * WORKERS)
        child = stack.enter_context(broker(folder, port))
        sockets = []
        for number in range(workers):
            socket = stack.enter_context(context.socket(zmq.DEALER))
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(endpoint(port))
            interval = welcomed(socket, f"idle-{number:04}").heartbeat
            sockets.append(socket)
        beat(sockets, interval, interval)  # all of them once, unmeasured
        before, started = cpu_seconds((child.pid,)), time.monotonic()
        beat(sockets, interval, SECONDS)
        share_of_core = (cpu_seconds((child.pid,)) - before) / (time.monotonic() - started)
        alive = stack.enter_context(Caller(context, port)).status().workers
    if alive.get("available") != workers:
        raise BenchError(f"{workers} workers were beating, the broker says {alive}")
    return {"percent_of_core": share_of_core * 100, "workers": workers, "interval_s": interval}


def beat(sockets: list[zmq.Socket[bytes]], interval: float, seconds: float) -> None:
    """Lets every worker beat once per interval, evenly spread, and hear what the broker says."""
    started = time.monotonic()
    number = 0
    while (due := number * interval / len(sockets)) < seconds:
        time.sleep(max(0.0, started + due - time.monotonic()))
        socket = sockets[number % len(sockets)]
        while socket.poll(0):
            socket.recv_multipart()
        socket.send_multipart(wire.heartbeat())
        number += 1
