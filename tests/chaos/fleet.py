"""A fleet of real processes to be cruel to: one broker, workers, and the marks that attempts leave.

Processes are started, killed, stopped and started again one by one. Whatever happens, all that a
fleet started is gone when it is closed, however it had hidden, and the ends of the logs are printed
when a test fails. What is done to a fleet, and what must hold then, is in the tests.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from tests.support import daemon
from tests.support.kinds import environment

BIN = Path(sys.executable).parent
PATIENCE = 60.0  # seconds for what takes one on an idle machine
LOG_TAIL = 6_000  # bytes of each log that a failed test shows
LEASE = 2.5  # seconds, with short leases
_MARK = "FLEET_UNDER_TEST"


def short_leases(gone: float = 300.0, lease: float = LEASE) -> str:
    """Settings of a broker that gives its workers a short lease, in seconds."""
    return f"""\
broker:
  heartbeat: 400ms
  suspect_after: 1200ms
  unavailable_after: {lease}s
  gone_after: {gone}s
"""


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; fail, saying what did not come, when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)


class Ended(NamedTuple):
    """How a command ended that was not to stay."""

    status: int
    output: str
    talk: str


class Daemon:
    """One process that can be started again and again with the same command."""

    def __init__(self, name: str, folder: Path, *command: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._folder = folder
        self._command = [str(BIN / command[0]), *command[1:]]
        self._process: subprocess.Popen[bytes] | None = None
        self.variables: dict[str, str] = {}  #: of the environment, from the next start on

    def start(self) -> None:
        """Start it; says nothing about what it does then."""
        assert not self.alive, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment(daemon.environment() | marked(self._folder) | self.variables),
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM, and wait for the end; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the end; returns the exit status."""
        assert self._process is not None
        return self._process.wait(seconds)

    def said(self) -> str:
        """Everything in its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Worker(Daemon):
    """An agent, and the processes that it starts."""

    def descendants(self) -> list[psutil.Process]:
        """Its guard, its children, and what they started. To be asked before the agent dies."""
        return psutil.Process(self.pid).children(recursive=True)

    def children(self) -> list[psutil.Process]:
        """The processes that run attempts."""
        return [one for one in self.descendants() if "worker.runner" in _command_of(one)]


class Fleet:
    """One broker and its workers, in a folder of their own. Use it with `with`."""

    def __init__(self, folder: Path, data: Path | None = None, settings: str = "") -> None:
        """`settings` is a YAML document for the broker; `data` is where it keeps its store."""
        self.folder = folder
        self.data = data or folder / "broker"
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.workers: dict[str, Worker] = {}
        self._daemons: list[Daemon] = []
        command = ["start", "--data", str(self.data), "--bind", self.endpoint]
        if settings:
            file = folder / "corral.yaml"
            file.write_text(settings)
            command += ["--config", str(file)]
        self.broker = self.daemon("broker", "corral-broker", *command)

    def daemon(self, name: str, *command: str) -> Daemon:
        """Another process, not started yet."""
        made = Daemon(name, self.folder, *command)
        self._daemons.append(made)
        return made

    def worker(self, name: str, slots: int, *options: str) -> Worker:
        """Start a worker."""
        worker = self.workers[name] = Worker(
            name, self.folder, "corral-worker", "--broker", self.endpoint, "--name", name,
            "--slots", str(slots), "--data", str(self.folder / name), *options,
        )  # fmt: skip
        self._daemons.append(worker)
        worker.start()
        return worker

    def start_broker(self) -> None:
        """Start the broker, and wait until it listens."""
        self.broker.start()
        until("the broker listens", lambda: self.listening() or not self.broker.alive)
        assert self.broker.alive, f"the broker ended at once: {self.broker.said()[-LOG_TAIL:]}"

    def listening(self) -> bool:
        """Whether somebody answers at the broker's address."""
        host, _, port = self.endpoint.removeprefix("tcp://").partition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), 1.0):
            return True
        return False

    def command(self, *command: str, seconds: float = PATIENCE) -> Ended:
        """Run a command of ours to its end."""
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.folder,
            env=environment(daemon.environment() | marked(self.folder)),
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def audit(self) -> None:
        """The store of the broker, which does not run, is whole and its journal leads to its rows.

        Raises:
            AssertionError: with what `corral-broker fsck` says.
        """
        done = self.command("corral-broker", "fsck", "--data", str(self.data), seconds=300.0)
        assert done.status == 0, f"{done.output}{done.talk}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all that was started, and print the ends of the logs: pytest shows it on failure."""
        everything = f"{_MARK}={self.folder}".encode()
        deadline = time.monotonic() + PATIENCE
        while left := list(_carrying(everything)):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"processes {left} do not die"
            time.sleep(0.01)
        for one in self._daemons:
            if one.log.exists():
                one.wait()
                print(f"--- {one.log.name}\n{one.said()[-LOG_TAIL:]}")


class Mark(NamedTuple):
    """The start of one attempt, as its handler wrote it down."""

    task: str
    attempt: int
    at: float  #: seconds, monotonic clock of this machine
    path: str


class Marks:
    """The folder in which handlers leave a file for each start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __iter__(self) -> Iterator[Mark]:
        for name in os.listdir(self.folder):
            if name.endswith(".json"):
                task, attempt, nanoseconds, _ = name.split(".", 3)
                path = str(self.folder / name)
                yield Mark(task, int(attempt), int(nanoseconds) / 1e9, path)

    def younger(self, seconds: float) -> int:
        """How many attempts began less than so many seconds ago."""
        since = time.monotonic() - seconds
        return sum(mark.at > since for mark in self)

    def starts(self) -> Counter[str]:
        """Task -> how often it was started."""
        return Counter(mark.task for mark in self)


def marked(folder: Path) -> dict[str, str]:
    """What the environment of every process of a fleet carries, so that none can hide."""
    return {_MARK: str(folder)}


def _carrying(mark: bytes) -> Iterator[int]:
    """The living processes whose environment carries `mark`. Those that ended show none."""
    for pid in psutil.pids():
        with suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                yield pid


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def seeded(name: str) -> random.Random:
    """Chance that a log line can bring back: the seed is printed, and may be given by hand."""
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"{name}: CHAOS_SEED={seed}")
    return random.Random(seed)
