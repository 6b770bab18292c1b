"""The command as a user has it: a process with arguments and environment, and what it prints.

One fleet serves a whole module: `corral up` with two workers that have the test's own kinds too.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.kinds import environment
from tests.support.told import told

BIN = Path(sys.executable).parent
PATIENCE = 60.0  # seconds for what takes one on an idle machine


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self, type: Any = Any) -> Any:
        """What it printed, decoded as `type`."""
        return told(self.out, type)


class Cli:
    """Runs `corral` in a folder, with an environment that holds nothing of the user's own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not _personal(name)}
        self.folder = folder
        self.variables = environment({**clean, "HOME": str(folder), **variables})

    def __call__(
        self, *arguments: object, input: str | None = None, script: str = "corral", **variables: str
    ) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [BIN / script, *map(str, arguments)],
            cwd=self.folder,
            env={**self.variables, **variables},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object, **variables: str) -> Started:
        """Start a command that stays."""
        return Started([str(BIN / "corral"), *map(str, arguments)], self, variables)


class Started:
    """A command that runs; its two streams go to files that can be read all the while."""

    def __init__(self, command: list[str], cli: Cli, variables: dict[str, str]) -> None:
        self._out = cli.folder / f"started-{time.monotonic_ns()}.out"
        self._err = self._out.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=cli.folder,
                env={**cli.variables, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until it has come so far."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"it ended: {self.out}{self.err}"
            assert time.monotonic() < deadline, f"it did not come so far: {self.out}{self.err}"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGINT) -> Ended:
        """Send it a signal, as Ctrl-C does, and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> Ended:
        """Wait for its end."""
        status = self.process.wait(PATIENCE)
        return Ended(status, self.out, self.err)


def _personal(name: str) -> bool:
    return name.startswith(("CORRAL_", "XDG_")) or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")


def free_endpoint() -> str:
    """An address of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class Fleet(NamedTuple):
    """A running `corral up`."""

    endpoint: str
    data: Path
    up: Started


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A broker and two workers, w1 and w2, of two slots each, for the tests of a module."""
    folder = tmp_path_factory.mktemp("fleet")
    endpoint = free_endpoint()
    options = ("--data", "data", "--bind", endpoint, "--slots", "2", "--no-gateway")
    up = Cli(folder).start("up", *options)
    try:
        up.until(lambda: "corral task submit" in up.err)
        yield Fleet(endpoint, folder / "data", up)
    finally:
        ended = up.end()
    assert ended.status == 0, ended


@pytest.fixture
def corral(fleet: Fleet, tmp_path: Path) -> Cli:
    """The command, with the fleet's broker as its own."""
    return Cli(tmp_path, CORRAL_BROKER=fleet.endpoint)


@pytest.fixture
def alone(tmp_path: Path) -> Cli:
    """The command on a machine where nothing runs."""
    return Cli(tmp_path)


@pytest.fixture
def started() -> Iterator[Callable[[Started], Started]]:
    """Ends, after the test, what it is given."""
    with ExitStack() as ends:

        def keep(one: Started) -> Started:
            ends.callback(one.end, signal.SIGTERM)
            return one

        yield keep
