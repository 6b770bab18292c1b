"""The real Prometheus and Alertmanager, which `make prometheus` has unpacked, and their tools.

They run with the configuration that the docs show and the role `monitoring` writes. Only times are
shortened, so that a test need not wait as long as a person would.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import httpx
import jinja2

from tests.chaos.fleet import PATIENCE, free_port, until

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "templates" / "prometheus"
UNPACKED = ROOT / ".prometheus" / "usr"
SHARE = UNPACKED / "share" if UNPACKED.exists() else Path("/usr/share")


def program(name: str) -> str:
    """Where a program is: unpacked here, or installed."""
    found = shutil.which(name, path=str(UNPACKED / "bin")) or shutil.which(name)
    assert found, f"there is no {name}; type: make prometheus"
    return found


def rendered(name: str, **variables: object) -> str:
    """A template as the role `monitoring` writes it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"to_json": json.dumps, "to_nice_json": json.dumps}
    return environment.get_template(f"{name}.j2").render(ansible_managed="by a test", **variables)


def run(*command: str | Path, stdin: str = "") -> str:
    """A tool's output; it must be content."""
    done = subprocess.run(
        [program(str(command[0])), *map(str, command[1:])],
        input=stdin, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- a watch of their own -------------------------------------------------------------------


class Phone:
    """Takes what Alertmanager sends by its webhook."""

    def __init__(self) -> None:
        self.rang: list[tuple[str, str]] = []  #: alert, firing or resolved
        phone = self

        class Bell(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["content-length"])))
                phone.rang += [
                    (alert["labels"]["alertname"], alert["status"]) for alert in told["alerts"]
                ]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Bell)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Phone:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Watch(NamedTuple):
    """A Prometheus that runs."""

    url: str

    def firing(self) -> dict[str, list[Mapping[str, str]]]:
        """What fires now: alert -> the labels of each."""
        answer = httpx.get(f"{self.url}/api/v1/alerts", timeout=PATIENCE).json()["data"]["alerts"]
        found: dict[str, list[Mapping[str, str]]] = {}
        for alert in answer:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def fires(self, alert: str, **labels: str) -> None:
        """Wait until an alert fires, with these labels."""
        until(
            f"{alert} fires for {labels}",
            lambda: any(labels.items() <= one.items() for one in self.firing().get(alert, ())),
        )

    def answers(self, query: str) -> list[float]:
        """The values of a query now."""
        parameters = {"query": query}
        found = httpx.get(f"{self.url}/api/v1/query", params=parameters, timeout=PATIENCE).json()
        assert found["status"] == "success", f"{query}: {found}"
        return [float(one["value"][1]) for one in found["data"]["result"]]


@contextmanager
def ringing(folder: Path, phone: Phone) -> Iterator[int]:
    """Alertmanager, which rings a phone; the port where it hears of alerts."""
    folder.mkdir()
    port = free_port()
    config = rendered("alertmanager.yml", monitoring_alarm_url=phone.url)
    (folder / "alertmanager.yml").write_text(re.sub(r"(group_\w+): \d\w+", r"\1: 100ms", config))
    # Debian's has the path of its own template built in, which is not there for an unpacked one.
    bind = 'mount --bind "$0" /usr/share; exec "$@"'
    with _served(
        folder,
        *("unshare", "--map-root-user", "--mount", "sh", "-ec", bind, str(SHARE)),
        *(program("prometheus-alertmanager"), f"--web.listen-address=127.0.0.1:{port}"),
        *("--cluster.listen-address=", f"--storage.path={folder / 'data'}"),
        f"--config.file={folder / 'alertmanager.yml'}",
        ready=f"http://127.0.0.1:{port}/-/ready",
    ):
        yield port


@contextmanager
def watching(folder: Path, gateway: str, token: str = "", ringer: int = 9093) -> Iterator[Watch]:
    """Prometheus over one gateway."""
    folder.mkdir()
    port = free_port()
    config = shown_config().replace("15s", "300ms").replace(":9093", f":{ringer}")
    if not token:
        config = re.sub(r".*authorization.*\n", "", config)
    rules = rendered("corral-rules.yml")
    files = {
        "corral.token": f"{token}\n",
        "corral-targets.json": rendered("corral-targets.json", monitoring_gateways=[gateway]),
        "corral-rules.yml": re.sub(r"for: \d\w+", "for: 1s", rules),
        "prometheus.yml": config,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    run("promtool", "check", "config", folder / "prometheus.yml")
    with _served(
        folder,
        *(program("prometheus"), f"--web.listen-address=127.0.0.1:{port}"),
        *(f"--storage.tsdb.path={folder / 'data'}", f"--config.file={folder / 'prometheus.yml'}"),
        ready=f"http://127.0.0.1:{port}/-/ready",
    ):
        yield Watch(f"http://127.0.0.1:{port}")


def shown_config() -> str:
    """The configuration that the docs show."""
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^ *```yaml\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    return textwrap.dedent(shown)


@contextmanager
def _served(folder: Path, *command: str, ready: str) -> Iterator[None]:
    """A server that runs and is ready."""
    file = folder / "log"
    with file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(ready):
            assert process.poll() is None, file.read_text()
            assert time.monotonic() < deadline, file.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
