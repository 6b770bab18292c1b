"""A real broker process on a free port of loopback, for tests that speak to it by sockets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

START_LIMIT = 20.0  # seconds until the broker must serve
STOP_LIMIT = 20.0


class BrokerDaemon:
    """`corral-broker start` on one data folder; it can be killed and started again."""

    def __init__(
        self, data: Path, bind: str = "tcp://127.0.0.1:*", options: Sequence[str | Path] = ()
    ) -> None:
        self.data = data
        self.bind = bind
        self.options = options
        self.endpoint = ""
        self._log = data.with_name(f"{data.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BrokerDaemon:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.alive:
            self.stop()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it and wait until it serves. Started again, it takes the same port."""
        before = len(self.log)
        command = [
            sys.executable, "-m", "broker", "start", "--data", self.data,
            "--bind", self.endpoint or self.bind, *self.options,
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
        deadline = time.monotonic() + START_LIMIT
        while (found := re.search(r"serving (\S+)", self.log[before:])) is None:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        self.endpoint = found.group(1)

    def stop(self) -> None:
        """SIGTERM, and wait until it has stopped in order."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(STOP_LIMIT)
        assert status == 0, self.log

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_LIMIT)

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def peak_memory(self) -> int:
        """The most bytes that were ever resident."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


def environment() -> dict[str, str]:
    """This process' environment without the user's own settings of Corral."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
