"""Huey on Redis: https://huey.readthedocs.io"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huey import RedisHuey

from bench import BIN
from bench.peers import Session
from bench.private_redis import private_redis, url
from bench.processes import process, says

POLL_SECONDS = 0.0005

queue = RedisHuey("bench", url=url())


@queue.task()
def echo(data: bytes) -> bytes:
    """The task."""
    return data


@contextmanager
def start(folder: Path) -> Iterator[Session]:
    """Runs Redis and a consumer with two worker processes."""
    consumer = (
        BIN / "huey_consumer",
        f"{__name__}.queue",
        "-w",
        "2",
        "-k",
        "process",
        "-n",
        "-C",
        "-g",
        "TERM",
    )
    log = folder / "huey.log"
    with (
        private_redis(folder) as redis,
        process(*consumer, log=log, ready=says(log, "consumer started")),
    ):

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            for position, result in enumerate([echo(payload) for payload in payloads]):
                yield (
                    position,
                    result.get(blocking=True, timeout=60, backoff=1, max_delay=POLL_SECONDS),
                )

        def trip(payload: bytes) -> bytes:
            return next(collect([payload]))[1]

        yield Session(collect, trip, (redis,))
