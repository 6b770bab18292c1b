"""What the integration tests share: a fleet of a real broker and real workers on loopback.

The broker is `tests.support.daemon`'s; workers are the console script with the handlers of
`tests/support/handlers` installed. All of it ends with the test, by process id.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from corral import Client
from corral.messages import WorkerView
from tests.support import daemon, kinds
from tests.support.daemon import BrokerDaemon

PATIENCE = 60.0  # seconds for what takes one on an idle machine
SETTINGS = """\
broker: {heartbeat: 0.5, suspect_after: 2.0, unavailable_after: 4.0, adoption_window: 3.0}
"""


def until(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)


class Fleet:
    """One broker and its workers."""

    def __init__(self, folder: Path, config: str = SETTINGS) -> None:
        self.folder = folder
        settings = folder / "corral.yaml"
        settings.write_text(config)
        self.broker = BrokerDaemon(folder / "broker", options=("--config", settings))
        self.broker.start()
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: list[Client] = []

    @property
    def endpoint(self) -> str:
        """Where the broker listens; the same after a restart."""
        return self.broker.endpoint

    def client(self, **options: float) -> Client:
        """A client that is closed with the fleet."""
        client = Client(self.endpoint, **{"timeout": PATIENCE, **options})
        self._clients.append(client)
        return client

    def start_worker(self, name: str = "w1", slots: int = 1, *options: str) -> None:
        """Start a worker and wait until it can be given work."""
        command = [
            str(Path(sys.executable).with_name("corral-worker")), "--broker", self.endpoint,
            "--name", name, "--slots", str(slots), "--data", str(self.folder / name), *options,
        ]  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self.workers[name] = subprocess.Popen(
                command, env=kinds.environment(daemon.environment()), stdout=log, stderr=log
            )
        with Client(self.endpoint, timeout=PATIENCE) as client:
            until(f"{name} is available", lambda: self._status(client, name) == "available")

    def _status(self, client: Client, name: str) -> str:
        assert self.workers[name].poll() is None, self.log(name)
        found: list[WorkerView] = [one for one in client.workers() if one.name == name]
        return found[0].status if found else "not there"

    def restart_broker(self) -> None:
        """kill -9, and start again on the same store and port."""
        self.broker.kill()
        self.broker.start()

    def kill(self, name: str) -> None:
        """kill -9 a worker; its guard ends what it had started."""
        worker = self.workers.pop(name)
        worker.kill()
        worker.wait(PATIENCE)

    def log(self, name: str) -> str:
        """What a worker has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """End everything."""
        for client in self._clients:
            client.close()
        for worker in self.workers.values():
            with suppress(psutil.NoSuchProcess):
                _end(psutil.Process(worker.pid))
            worker.wait(PATIENCE)
        if self.broker.alive:
            self.broker.kill()


def _end(worker: psutil.Process) -> None:
    """kill -9 an agent; then wait for its guard and children, which end by themselves."""
    others = worker.children(recursive=True)
    worker.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(others, PATIENCE)
    assert not left, f"the worker left {left} behind"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet with a broker and no worker yet."""
    fleet = Fleet(tmp_path)
    try:
        yield fleet
    finally:
        fleet.close()
