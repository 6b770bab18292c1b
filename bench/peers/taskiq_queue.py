"""Taskiq on a Redis stream: https://taskiq-python.github.io"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from taskiq import AsyncTaskiqTask
from taskiq.serializers import PickleSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench import BIN
from bench.peers import Session
from bench.private_redis import private_redis, url
from bench.processes import process, says

IN_FLIGHT = 64
POLL_SECONDS = 0.0005

broker = (
    RedisStreamBroker(url(), max_connection_pool_size=IN_FLIGHT)
    .with_result_backend(RedisAsyncResultBackend(url(), max_connection_pool_size=IN_FLIGHT))
    .with_serializer(PickleSerializer())
)


@broker.task
async def echo(data: str) -> str:
    """The task. Messages are JSON inside, which has no bytes: Latin-1 is the cheapest way in."""
    return data


async def echo_all(payloads: Sequence[bytes]) -> list[bytes]:
    """Submits every payload, a bounded number at a time, and returns the results in that order."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def submit(payload: bytes) -> AsyncTaskiqTask[str]:
        async with gate:
            return await echo.kiq(payload.decode("latin-1"))

    tasks = await asyncio.gather(*map(submit, payloads))
    return [await returned(task) for task in tasks]


async def returned(task: AsyncTaskiqTask[str]) -> bytes:
    """Waits for one result."""
    return (await task.wait_result(check_interval=POLL_SECONDS, timeout=60)).return_value.encode(
        "latin-1"
    )


@contextmanager
def start(folder: Path) -> Iterator[Session]:
    """Runs Redis and two worker processes."""
    log = folder / "taskiq.log"
    workers = (BIN / "taskiq", "worker", f"{__name__}:broker", "--workers", "2", "--no-parse")

    with (
        private_redis(folder) as redis,
        process(*workers, log=log, ready=says(log, "Listening started", times=2)),
        asyncio.Runner() as runner,
    ):
        runner.run(broker.startup())

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            yield from enumerate(runner.run(echo_all(payloads)))

        def trip(payload: bytes) -> bytes:
            return runner.run(echo_all([payload]))[0]

        yield Session(collect, trip, (redis,))
        runner.run(broker.shutdown())
