"""Corral through its SDK, as a user would: a real broker, real workers, the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.daemons import broker, endpoint, worker
from bench.peers import Session
from bench.processes import await_true, free_port
from corral import Client, Task

WORKERS = ("w1", "w2")


@contextmanager
def start(folder: Path, batch: int) -> Iterator[Session]:
    """Runs a broker and two workers of one slot; `batch` is the number of tasks in one message."""
    port = free_port()
    with ExitStack() as stack:
        served = stack.enter_context(broker(folder, port))
        for name in WORKERS:
            stack.enter_context(worker(folder, port, name))
        client = stack.enter_context(Client(endpoint(port)))
        await_true(lambda: len(client.workers()) == len(WORKERS), "both workers are registered")

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            tasks = (Task("echo", {"data": payload}) for payload in payloads)
            handles = client.submit_many(tasks, batch=batch)
            position = {handle.id: index for index, handle in enumerate(handles)}
            for handle, outcome in client.results(handles):
                yield position[handle.id], outcome.value["data"]

        def trip(payload: bytes) -> bytes:
            returned: bytes = client.submit("echo", data=payload).result(timeout=60)["data"]
            return returned

        yield Session(collect, trip, (served.pid,))
