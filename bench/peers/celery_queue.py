"""Celery on Redis: https://docs.celeryq.dev"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from celery import Celery

from bench import BIN
from bench.peers import Session
from bench.private_redis import private_redis, url
from bench.processes import process, says

app = Celery(__name__, broker=url(), backend=url())
app.conf.update(
    task_acks_late=True,  # else a task that was taken is lost with its worker
    worker_send_task_events=False,
)


@app.task(name="echo")
def echo(data: bytes) -> bytes:
    """The task."""
    return data


@contextmanager
def start(folder: Path) -> Iterator[Session]:
    """Runs Redis and a worker with two processes."""
    worker = (
        BIN / "celery", "-A", __name__, "worker", "--pool", "prefork", "--concurrency", "2",
        "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO",
    )  # fmt: skip
    log = folder / "celery.log"
    with (
        private_redis(folder) as redis,
        process(*worker, log=log, ready=says(log, " ready.")),
    ):

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            for position, result in enumerate([echo.delay(payload) for payload in payloads]):
                yield position, result.get(timeout=60)

        def trip(payload: bytes) -> bytes:
            return next(collect([payload]))[1]

        yield Session(collect, trip, (redis,))
