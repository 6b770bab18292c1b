"""`corral up`: a broker and workers on this machine, in one terminal."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType

import click

from corral.cli.output import coloured, talk

STYLES = ("cyan", "green", "magenta", "yellow", "blue")
DEFAULT = "tcp://127.0.0.1:5555"  # where every command looks for a broker
LOOK = 0.2  # seconds between looks at the processes


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path(".corral"), show_default=True,
    help="Folder of the store and of each worker.",
)  # fmt: skip
@click.option("--bind", default=DEFAULT, show_default=True, help="Address.")
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True)
@click.option(
    "--slots", type=click.IntRange(1), default=1, show_default=True, help="Of each worker."
)
def up(data: Path, bind: str, workers: int, slots: int) -> int | None:
    """Run a broker and workers on this machine, until Ctrl-C.

    Everything is stopped in order: workers first, then the broker; tasks that were accepted are
    there again at the next start with the same --data. Ends by itself, with status 1, when one of
    its processes dies.
    """
    from corral.cli.processes import LocalFleet

    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopping.is_set():
            talk("", "stopping: workers first, then the broker ...")
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    fleet = LocalFleet(data, bind, workers, slots, _Prefixer(), stopping)
    began = time.monotonic()
    with fleet:
        if not stopping.is_set():
            talk(*_next_steps(fleet.endpoint, workers, slots, time.monotonic() - began))
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
        talk(line, before=f"{coloured(f'{name:>6}', style)} | ")


def _next_steps(endpoint: str, workers: int, slots: int, seconds: float) -> list[str]:
    return [
        "",
        f"Up after {seconds:.1f} s: a broker at {endpoint}, {workers} workers of {slots} slots.",
        "In another terminal:",
        *([] if endpoint == DEFAULT else [f"  export CORRAL_BROKER={endpoint}"]),
        "  corral task submit echo text=hello --wait",
        "  corral top",
        "Ctrl-C stops everything.",
        "",
    ]
