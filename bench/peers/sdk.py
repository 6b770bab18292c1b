"""Corral through its SDK, as a user would: real broker, real workers, every answer after its fsync."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers import Session
from bench.processes import BIN, free_port, process
from corral import Client, Task


@contextmanager
def start(folder: Path, batch: int) -> Iterator[Session]:
    """Runs a broker and two workers of one slot; `batch` is the number of tasks in one message."""
    port = free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    broker_command = (BIN / "corral-broker", "--data", folder / "broker", "--bind", endpoint)
    with ExitStack() as stack:
        broker = stack.enter_context(process(*broker_command, log=folder / "broker.log", wait=port))
        client = stack.enter_context(Client(endpoint))

        def registered(count: int) -> bool:
            return len(client.workers()) == count

        for count, name in enumerate(("w1", "w2"), start=1):
            worker = (
                BIN / "corral", "worker", "start", "--broker", endpoint, "--name", name,
                "--slots", "1", "--data", folder / name,
            )  # fmt: skip
            log = folder / f"{name}.log"
            stack.enter_context(
                process(*worker, log=log, wait=lambda count=count: registered(count))
            )

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            tasks = (Task("echo", {"data": payload}) for payload in payloads)
            handles = client.submit_many(tasks, batch=batch)
            position = {handle.id: index for index, handle in enumerate(handles)}
            for handle, outcome in client.results(handles):
                yield position[handle.id], outcome.value["data"]

        def trip(payload: bytes) -> bytes:
            returned: bytes = client.submit("echo", data=payload).result(timeout=60)["data"]
            return returned

        yield Session(collect, trip, (broker.pid,))
