"""Dramatiq on Redis: https://dramatiq.io"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import PickleEncoder
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench import BIN
from bench.peers import Session
from bench.private_redis import private_redis, url
from bench.processes import process, says

dramatiq.set_encoder(PickleEncoder())
broker = RedisBroker(url=url())
broker.add_middleware(Results(backend=RedisBackend(url=url(), encoder=PickleEncoder())))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def echo(data: bytes) -> bytes:
    """The task."""
    return data


@contextmanager
def start(folder: Path) -> Iterator[Session]:
    """Runs Redis and two worker processes of eight threads."""
    log = folder / "dramatiq.log"
    workers = (
        BIN / "dramatiq",
        __name__,
        "--processes",
        "2",
        "--threads",
        "8",
        "--worker-shutdown-timeout",
        "2000",
    )
    with (
        private_redis(folder) as redis,
        process(*workers, log=log, ready=says(log, "Worker process is ready", times=2)),
    ):

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            for position, message in enumerate([echo.send(payload) for payload in payloads]):
                yield position, message.get_result(block=True, timeout=60_000)

        def trip(payload: bytes) -> bytes:
            return next(collect([payload]))[1]

        yield Session(collect, trip, (redis,))
