"""A real gateway process on a free port of loopback, and what it streams."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.support.daemon import environment

CORRAL = str(Path(sys.executable).with_name("corral"))
PATIENCE = 60.0  # seconds for what takes one on an idle machine
QUICK = "gateway: {rate: 100000}\n"  # a test is no single caller


def token(folder: Path, name: str, role: str) -> str:
    """Make a token, noted in the table `tokens.json` of a folder."""
    command = [CORRAL, "gateway", "token", "new", name, "--role", role]
    done = subprocess.run(
        [*command, "--tokens", folder / "tokens.json"],
        check=True, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    return done.stdout.strip()


class Gateway:
    """`corral-gateway start`; it can be stopped and started again on the same port."""

    def __init__(
        self, folder: Path, broker: str, *options: object, config: str = QUICK, bind: str = ""
    ) -> None:
        settings = folder / "gateway.yaml"
        settings.write_text(config)
        self._command = [
            str(Path(sys.executable).with_name("corral-gateway")), "start", "--broker", broker,
            "--config", str(settings), *map(str, options),
        ]  # fmt: skip
        self._log = folder / f"gateway-{time.monotonic_ns()}.log"
        self.bind = bind or "127.0.0.1:0"
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it serves."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, "--bind", self.bind], stdout=log, stderr=log, env=environment()
            )
        before = len(self.log)
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(r"serving http://(\S+) for", self.log[before:])) is None:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        self.bind = found[1]
        self.url = f"http://{self.bind}/api/v1"

    def stop(self) -> float:
        """SIGTERM; the seconds until it has ended, in order."""
        assert self.process is not None
        began = time.monotonic()
        self.process.terminate()
        status = self.process.wait(PATIENCE)
        seconds = time.monotonic() - began
        assert status == 0, self.log
        assert "Traceback" not in self.log, self.log
        return seconds

    def client(self, token: str = "", **options: Any) -> httpx.Client:
        """A client of its paths."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, **options)


class Event(NamedTuple):
    """One event of a stream."""

    kind: str
    id: str
    data: Any


@contextmanager
def events(client: httpx.Client, last: str = "") -> Iterator[Iterator[Event]]:
    """An open stream."""
    headers = {"last-event-id": last} if last else {}
    with client.stream("GET", "/stream", headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _events(response)


def _events(response: httpx.Response) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}
