"""`corral up`: a broker, workers and a gateway on this machine, in one terminal."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from corral.cli.options import loaded
from corral.cli.output import coloured, counted, talk

if TYPE_CHECKING:
    from corral.cli.processes import LocalFleet

STYLES = ("cyan", "green", "magenta", "yellow", "blue")
DEFAULT = "tcp://127.0.0.1:5555"  # where every command looks for a broker
GATEWAY = "127.0.0.1:8000"
LOOK = 0.2  # seconds between looks at the processes


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path(".corral"), show_default=True,
    help="Folder of the store and of each worker.",
)  # fmt: skip
@click.option("--bind", default=DEFAULT, show_default=True, help="Address.")
@click.option("--workers", type=click.IntRange(0, 100), default=2, show_default=True)
@click.option(
    "--slots", type=click.IntRange(1), default=1, show_default=True, help="Of each worker."
)
@click.option("--gateway", metavar="HOST:PORT", help=f"Address of the gateway. Default: {GATEWAY}.")
@click.option("--no-gateway", is_flag=True, help="Start none.")
def up(
    data: Path, bind: str, workers: int, slots: int, gateway: str | None, no_gateway: bool
) -> int | None:
    """Run a broker, workers and a gateway on this machine, until Ctrl-C.

    Everything is stopped in order: workers first, then the broker; tasks that were accepted are
    there again at the next start with the same --data. Ends by itself, with status 1, when one of
    its processes dies. Where no --gateway was named, one that cannot start is told, and the rest
    goes on without it.
    """
    from corral.cli.processes import LocalFleet

    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopping.is_set():
            talk("", "stopping: workers first, then the broker ...")
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    if gateway and no_gateway:
        raise click.UsageError("--gateway and --no-gateway exclude each other.")
    fleet = LocalFleet(data, bind, workers, slots, _Prefixer(), stopping)
    began = time.monotonic()
    with fleet:
        if not no_gateway:
            fleet.start_gateway(gateway or GATEWAY, needed=gateway is not None)
        if not stopping.is_set():
            talk(*_next_steps(fleet, workers, slots, time.monotonic() - began))
        while not stopping.wait(LOOK):
            fleet.check()
    talk("stopped")
    return None


class _Prefixer:
    """Says whose line it is, each name in its own colour."""

    def __init__(self) -> None:
        self._styles: dict[str, str] = {}

    def __call__(self, name: str, line: str) -> None:
        style = self._styles.setdefault(name, STYLES[len(self._styles) % len(STYLES)])
        talk(line, before=f"{coloured(f'{name:>7}', style)} | ")


def _next_steps(fleet: LocalFleet, workers: int, slots: int, seconds: float) -> list[str]:
    endpoint = fleet.endpoint
    keyless = ' --key ""' if loaded().settings.key else ""  # a key is for another broker
    return [
        "",
        f"Up after {seconds:.1f} s: a broker at {endpoint}, {counted(workers, 'worker')} "
        f"with {counted(slots, 'slot')} each.",
        *(
            [
                f"Dashboard: {fleet.gateway}/",
                f"REST: {fleet.gateway}/api/v1/openapi.json tells what it does.",
            ]
            if fleet.gateway
            else []
        ),
        "In another terminal:",
        *([] if endpoint == DEFAULT else [f"  export CORRAL_BROKER={endpoint}"]),
        f"  corral task submit echo text=hello --wait{keyless}",
        f"  corral top{keyless}",
        "Ctrl-C stops everything.",
        "",
    ]
