"""A real `corral-worker` and a broker that a test scripts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from corral.messages import Ended
from tests.support.kinds import environment
from tests.support.scripted_broker import ScriptedBroker
from worker.processes import agent_mark, marked

COMMAND = str(Path(sys.executable).with_name("corral-worker"))


class Worker:
    """A process of `corral-worker`, its folder, and what it wrote to its log."""

    def __init__(self, folder: Path, endpoint: str, *options: str, **variables: str) -> None:
        self.folder = folder
        self._log = folder.with_name(f"{folder.name}.{time.monotonic_ns()}.log")
        command = [COMMAND, "--broker", endpoint, "--name", "w1", "--data", str(folder), *options]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment() | variables, stderr=log, stdin=subprocess.DEVNULL
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[psutil.Process]:
        """The processes that run handlers."""
        agent = psutil.Process(self.process.pid)
        return [child for child in agent.children() if "worker.runner" in child.cmdline()]

    def descendants(self) -> set[int]:
        """Everything alive that the agents of this folder started."""
        return marked(agent_mark(self.folder), whole=False)

    def wait(self, broker: ScriptedBroker, patience: float = 20.0) -> int:
        """The exit status; meanwhile the broker listens."""
        until = time.monotonic() + patience
        while self.process.poll() is None:
            assert time.monotonic() < until, f"the worker does not end:\n{self.log}"
            broker.listen(0.02)
        return self.process.returncode

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        eventually(lambda: not self.descendants(), "processes are left behind", 10.0)


def eventually(true: Callable[[], Any], otherwise: str, patience: float = 20.0) -> None:
    """Wait until something holds."""
    until = time.monotonic() + patience
    while not true():
        assert time.monotonic() < until, otherwise
        time.sleep(0.01)


def value(ended: Ended) -> Any:
    """What a handler returned."""
    assert ended.outcome == "ok", ended
    return msgspec.msgpack.decode(ended.value)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(0)


@pytest.fixture
def broker(context: zmq.Context[Any]) -> Iterator[ScriptedBroker]:
    made = ScriptedBroker(context)
    yield made
    made.close()


Starter = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path, broker: ScriptedBroker) -> Iterator[Starter]:
    """Start a worker with these options. Each test ends by proving that nothing is left behind."""
    workers: list[Worker] = []

    def starter(*options: str, to: str = "", data: str = "w1", **variables: str) -> Worker:
        workers.append(Worker(tmp_path / data, to or broker.endpoint, *options, **variables))
        return workers[-1]

    yield starter
    for one in workers:
        one.end()


@pytest.fixture
def worker(start: Starter, broker: ScriptedBroker) -> Worker:
    """A welcomed worker of two slots."""
    made = start("--slots", "2", "--gpu", "GPU-1=24GB", "--label", "rack=a", "--cache", "prices")
    broker.welcome()
    return made
