"""The peers: who is measured, how each is tuned, how many tasks it gets.

How a peer is started and used is in its own module, which offers `start(folder, **options)`: a
context in which the peer is up with two workers of one slot, and which yields a `Session`. Its
processes are ended by id when the context ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

FSYNC = "fsync before the answer"
MEMORY = "in memory"


@dataclass(frozen=True)
class Session:
    """A peer that is up."""

    # submits every payload at once and yields (position, returned bytes) as results come in
    collect: Callable[[Sequence[bytes]], Iterator[tuple[int, bytes]]]
    # submits one task and waits for what it returns
    trip: Callable[[bytes], bytes]
    # the processes whose CPU time is the broker's
    broker: tuple[int, ...]


@dataclass(frozen=True)
class Peer:
    """One row of the table."""

    title: str
    module: str
    keeps: str
    # how it was tuned, printed beside its figures
    tuning: str
    # tasks in one round of throughput, enough for some seconds on two cores
    tasks: int
    # round trips in one round; 0: not measured
    trips: int
    options: Mapping[str, int] = field(default_factory=dict)
    # Corral itself
    ours: bool = False


PEERS = {
    "plain": Peer(
        "pyzmq ROUTER broker without logic", "bench.peers.plain", MEMORY,
        "each worker runs one task and has the next in hand; pipelined client", 100_000, 2_000,
    ),
    "corral-1": Peer(
        "Corral, batch=1", "bench.peers.sdk", FSYNC,
        "one message per task, pipelined", 100_000, 1_000, {"batch": 1}, True,
    ),
    "corral-100": Peer(
        "Corral, batch=100", "bench.peers.sdk", FSYNC,
        "100 tasks per message, pipelined", 200_000, 0, {"batch": 100}, True,
    ),
    "huey": Peer(
        "Huey + Redis", "bench.peers.huey_queue", FSYNC,
        "2 worker processes, blocking pop; client polls every 0.5 ms", 3_000, 500,
    ),
    "dramatiq": Peer(
        "Dramatiq + Redis", "bench.peers.dramatiq_queue", FSYNC,
        "2 processes of 8 threads (its default; 1 thread is 6 times slower), pickle", 3_000, 300,
    ),
    "taskiq": Peer(
        "Taskiq + Redis stream", "bench.peers.taskiq_queue", FSYNC,
        "2 processes, 100 at a time each, no parsing, pickle; 64 submits in flight", 4_000, 300,
    ),
    "celery": Peer(
        "Celery + Redis", "bench.peers.celery_queue", FSYNC,
        "prefork, 2 processes, late acknowledgement, no gossip, mingle, heartbeat", 1_500, 300,
    ),
    "dask": Peer(
        "Dask distributed", "bench.peers.dask_queue", MEMORY,
        "2 processes of 1 thread, no nanny, worker-saturation inf", 5_000, 300,
    ),
}  # fmt: skip
