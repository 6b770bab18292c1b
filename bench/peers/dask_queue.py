"""Dask distributed, which keeps its tasks in memory: https://distributed.dask.org"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client, as_completed

from bench import BIN
from bench.peers import Session
from bench.processes import accepts, free_port, process


def echo(data: bytes) -> bytes:
    """The task."""
    return data


@contextmanager
def start(folder: Path) -> Iterator[Session]:
    """Runs a scheduler and two workers of one thread."""
    os.environ["DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION"] = "inf"
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = (
        BIN / "dask",
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-dashboard",
    )
    worker = (
        BIN / "dask", "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
        "--local-directory", folder,
    )  # fmt: skip
    with ExitStack() as stack:
        broker = stack.enter_context(
            process(*scheduler, log=folder / "scheduler.log", ready=accepts(port))
        )
        for name in ("w1", "w2"):
            stack.enter_context(process(*worker, "--name", name, log=folder / f"{name}.log"))
        client = stack.enter_context(Client(address))
        client.wait_for_workers(2, timeout=60)

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            futures = client.map(echo, payloads, pure=False)
            position = {future.key: index for index, future in enumerate(futures)}
            for batch in as_completed(futures, with_results=True).batches():
                for future, data in batch:
                    yield position[future.key], data

        def trip(payload: bytes) -> bytes:
            return client.submit(echo, payload, pure=False).result(timeout=60)

        yield Session(collect, trip, (broker.pid,))
