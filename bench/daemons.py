"""Corral's own processes, as a user starts them: told where to keep data, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from bench import BIN
from bench.processes import accepts, process, says
from bench.profiles import sampled


def endpoint(port: int) -> str:
    """Returns the address of a port of loopback."""
    return f"tcp://127.0.0.1:{port}"


@contextmanager
def broker(folder: Path, port: int) -> Iterator[Popen[bytes]]:
    """Runs a broker on what is in `folder`, from the moment when it listens."""
    command = (
        BIN / "corral-broker",
        "start",
        "--data",
        folder / "broker",
        "--bind",
        endpoint(port),
    )
    log = folder / "broker.log"
    with process(*command, log=log, ready=accepts(port)) as child, sampled(child.pid):
        yield child


@contextmanager
def worker(folder: Path, port: int, name: str) -> Iterator[Popen[bytes]]:
    """Runs a worker of one slot. That it is there is for the broker to say."""
    command = (
        BIN / "corral-worker", "--broker", endpoint(port), "--name", name, "--slots", "1",
        "--data", folder / name,
    )  # fmt: skip
    with process(*command, log=folder / f"{name}.log") as child:
        yield child


@contextmanager
def gateway(folder: Path, broker_port: int, port: int) -> Iterator[Popen[bytes]]:
    """Runs a gateway without tokens at a port of loopback, from the moment when it serves."""
    command = (
        BIN / "corral-gateway", "start", "--broker", endpoint(broker_port),
        "--bind", f"127.0.0.1:{port}",
    )  # fmt: skip
    log = folder / "gateway.log"
    with process(*command, log=log, ready=says(log, "serving http")) as child:
        yield child
