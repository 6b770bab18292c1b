"""How a peer is measured: throughput, round trips, CPU of its broker, and that no byte is wrong.

Every payload is random and every returned byte is compared with it, inside the measured time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from statistics import quantiles

import psutil

from bench.peers import Session
from bench.processes import BenchError, cpu_seconds

PAYLOAD_BYTES = 256


def payloads(count: int) -> list[bytes]:
    """Returns that many random payloads."""
    noise = os.urandom(count * PAYLOAD_BYTES)
    return [noise[start : start + PAYLOAD_BYTES] for start in range(0, len(noise), PAYLOAD_BYTES)]


def collect_all(session: Session, sent: Sequence[bytes]) -> None:
    """Sends every payload and takes every result.

    Raises:
        BenchError: a result is missing, came twice, or differs from what was sent.
    """
    missing = set(range(len(sent)))
    for position, returned in session.collect(sent):
        if returned != sent[position]:
            raise BenchError(f"task {position} returned other bytes than it was given")
        if position not in missing:
            raise BenchError(f"task {position} returned twice")
        missing.discard(position)
    if missing:
        raise BenchError(f"{len(missing)} of {len(sent)} results are missing")


def throughput(session: Session, tasks: int) -> dict[str, float]:
    """Returns tasks per second, and microseconds of CPU per task of broker, client and workers."""
    sent = payloads(tasks)
    started_here = {child.pid for child in psutil.Process().children(recursive=True)}
    roles = {
        "broker": session.broker,
        "client": (os.getpid(),),
        "workers": tuple(started_here - set(session.broker)),
    }
    before = {role: cpu_seconds(pids) for role, pids in roles.items()}
    started = time.perf_counter()
    collect_all(session, sent)
    seconds = time.perf_counter() - started
    spent = {role: cpu_seconds(pids) - before[role] for role, pids in roles.items()}
    return {"tasks_per_s": tasks / seconds} | {
        f"{role}_cpu_us": cpu / tasks * 1e6 for role, cpu in spent.items()
    }


def round_trips(session: Session, trips: int) -> dict[str, float]:
    """Returns the median and the 99th percentile of one task at a time, in microseconds."""
    taken = []
    for payload in payloads(trips):
        started = time.perf_counter()
        returned = session.trip(payload)
        taken.append((time.perf_counter() - started) * 1e6)
        if returned != payload:
            raise BenchError("a round trip returned other bytes than it was given")
    cuts = quantiles(taken, n=100, method="inclusive")
    return {"p50_us": cuts[49], "p99_us": cuts[98]}
