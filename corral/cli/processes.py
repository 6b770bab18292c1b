"""Broker, workers and gateway on this machine, as child processes: for `up` and `--local`.

Only processes live here: starting, waiting until they serve, stopping, and saying what a dead one
said last. The daemons are executed by their console scripts; nothing of them is imported.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from corral.cli.output import talk
from corral.cli.scripts import script
from corral.client import Client
from corral.errors import BrokerUnreachable, CorralError

START_SECONDS = 60.0  # until everything has registered; cold imports on a slow disk take a while
STOP_SECONDS = 40.0  # a worker's grace for what it runs, and some
LAST_LINES = 20  # of a daemon that died
LOOK = 0.05  # seconds between looks at a start
KEYLESS = ("--key", "")  # this broker has no keys, whichever one is configured for another

# What a child executes first: it asks the kernel for SIGTERM when its parent dies, so that not even
# a parent that is killed leaves a process behind. (A preexec_fn would do the same, but is not safe
# beside threads.)
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[2], sys.argv[2:])
"""


class DaemonDied(CorralError):
    """{name} ended with status {status}; its last words stand above.

    Correct what it names and start again; `corral doctor` checks this machine.
    """

    code = "daemon_died"


def free_endpoint() -> str:
    """A loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class Daemon:
    """One child process; its output goes line by line to `say`, or is kept for its end."""

    def __init__(
        self, name: str, command: Sequence[str], say: Callable[[str, str], None] | None
    ) -> None:
        self.name = name
        self.words: deque[str] = deque(maxlen=LAST_LINES)
        self._say = say
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", _TIED, str(os.getpid()), *command],
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,  # Ctrl-C is for us; we stop them in order
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.words.append(line.rstrip("\n"))
            if self._say is not None:
                self._say(self.name, line.rstrip("\n"))

    def said(self, pattern: str) -> re.Match[str] | None:
        """What it has said lately that fits `pattern`."""
        return next(filter(None, (re.search(pattern, line) for line in self.words.copy())), None)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def died(self) -> DaemonDied:
        """What to tell about its end, below what it said."""
        self._reader.join(2.0)
        if self._say is None:
            talk(*self.words)
        return DaemonDied(name=self.name, status=self.process.returncode)

    def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL when that is not enough."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._reader.join(2.0)


class LocalFleet:
    """A broker and its workers; a context manager that leaves no process behind."""

    def __init__(
        self,
        data: Path,
        endpoint: str,
        workers: int = 2,
        slots: int = 1,
        say: Callable[[str, str], None] | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        """`stopping`, once set, ends the wait for workers: it is to be left at once."""
        self.data = data
        self.endpoint = endpoint
        self.names = [f"w{number}" for number in range(1, workers + 1)]
        self._slots = slots
        self._say = say
        self._stopping = stopping or threading.Event()
        self.daemons: list[Daemon] = []
        self.gateway = ""  #: its address, once it serves
        self._guest: Daemon | None = None  #: a gateway that the rest can do without

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until all workers have registered.

        Raises:
            DaemonDied: one of them ended; says what it said.
            BrokerUnreachable: they did not come up in time.
        """
        broker = [script("corral-broker"), "start", "--data", str(self.data / "broker")]
        self._launch("broker", [*broker, "--bind", self.endpoint])
        if not self._until(self._serves):  # or its workers might join another's broker
            return
        for name in self.names:
            folder = str(self.data / name)
            worker = [script("corral-worker"), "--broker", self.endpoint, *KEYLESS, "--name", name]
            self._launch(name, [*worker, "--slots", str(self._slots), "--data", folder])
        with Client(self.endpoint, key="", timeout=1.0) as client:
            self._until(lambda: self._registered(client))

    def start_gateway(self, address: str, needed: bool) -> None:
        """Start a gateway. One that is not `needed` may fail, and ends alone.

        Raises:
            DaemonDied: it is needed, and ended; says what it said.
        """
        command = [script("corral-gateway"), "start", "--broker", self.endpoint, *KEYLESS]
        command += ["--bind", address, "--history", str(self.data / "history.db")]
        gateway = Daemon("gateway", command, self._say)
        if needed:
            self.daemons.append(gateway)
        else:
            self._guest = gateway

        def serves() -> bool:
            found = gateway.said(r"serving (\S+) for")
            self.gateway = found[1] if found is not None else ""
            return found is not None or (self._guest is None and not needed)

        self._until(serves)

    def _launch(self, name: str, command: Sequence[str]) -> None:
        self.daemons.append(Daemon(name, command, self._say))

    def check(self) -> None:
        """Raise `DaemonDied` when one has ended that is needed; tell when the guest has."""
        for daemon in self.daemons:
            if not daemon.alive:
                raise daemon.died()
        if self._guest is not None and not self._guest.alive:
            told = self._guest.died()
            self._guest = None
            talk(f"{told.message} The rest goes on without it.")

    def _until(self, ready: Callable[[], bool]) -> bool:
        """Wait until all is `ready`; False when it is to be left instead."""
        until = time.monotonic() + START_SECONDS
        while not self._stopping.is_set():
            self.check()
            if ready():
                return True
            if time.monotonic() > until:
                raise BrokerUnreachable(endpoint=self.endpoint, seconds=START_SECONDS)
            time.sleep(LOOK)
        return False

    def _serves(self) -> bool:
        """Whether our own broker has its address; it may have been asked to choose the port."""
        found = self.daemons[0].said(r"serving (\S+) from")
        if found is not None:
            self.endpoint = found[1]
        return found is not None

    def _registered(self, client: Client) -> bool:
        try:
            views = client.workers()
        except BrokerUnreachable:
            return False
        there = {view.name for view in views if view.status in ("available", "busy")}
        return there.issuperset(self.names)

    def stop(self) -> None:
        """Stop the workers and the gateway, all at once, then the broker."""
        broker, workers = self.daemons[:1], self.daemons[1:]
        if self._guest is not None:
            workers.append(self._guest)
            self._guest = None
        for daemon in workers:
            if daemon.alive:
                daemon.process.send_signal(signal.SIGTERM)
        for daemon in [*workers, *broker]:
            daemon.stop(STOP_SECONDS)
        self.daemons.clear()
