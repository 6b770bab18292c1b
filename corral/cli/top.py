"""`corral top`: workers, kinds and tasks, live."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from corral.cli.options import broker_options, connect, span
from corral.cli.output import console, line, table
from corral.errors import BrokerUnreachable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from corral.client import Client

SHOWN = 20  # tasks of each list
ACTIVE = ("running", "retrying", "queued", "waiting")
OVER = ("succeeded", "failed")
LATELY = 200  # ended tasks that usual times are told of


@click.command()
@click.option(
    "--every", type=click.FloatRange(0.2), default=1.0, show_default=True, help="Seconds."
)
@click.option("--once", is_flag=True, help="Print one picture and end.")
@broker_options
def top(every: float, once: bool, broker: str | None, key: str | None) -> None:
    """Watch workers and tasks, live, until q or Ctrl-C; off a terminal it prints one picture."""
    with connect(broker, key) as client:
        if once or not sys.stdout.isatty():
            console().print(_picture(client))
            return
        _live(client, every)


def _live(client: Client, every: float) -> None:
    from rich.console import Group
    from rich.live import Live

    last = _picture(client)
    heard = time.monotonic()
    with (
        contextlib.suppress(KeyboardInterrupt),
        _single_keys(),
        Live(last, console=console(), screen=True, auto_refresh=False) as live,
    ):
        live.refresh()
        while not _asked_to_end(every):
            try:
                last = _picture(client)
                heard = time.monotonic()
                live.update(last, refresh=True)
            except BrokerUnreachable:
                stale = line((f"no answer for {span(time.monotonic() - heard)}", "red"))
                live.update(Group(stale, last), refresh=True)


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Let a key count without Enter."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _asked_to_end(seconds: float) -> bool:
    """Wait, and tell whether q was pressed meanwhile."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    pressed, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(pressed) and os.read(sys.stdin.fileno(), 64).lower().startswith(b"q")


def _picture(client: Client) -> RenderableType:
    """Header, workers, kinds, and the tasks that are not over, those that run first."""
    from rich.console import Group

    from corral.cli.figures import KIND_COLUMNS, fleet_text, kind_figures
    from corral.cli.views import counts_text, task_columns, worker_columns

    broker, workers = client.status(), client.workers()
    kinds = kind_figures(broker.kinds, client.tasks(OVER, limit=LATELY))
    tasks = [
        task
        for state in ACTIVE
        for task in sorted(
            client.tasks([state], limit=SHOWN), key=lambda task: (-task.priority, task.submitted)
        )
    ]
    now = time.time()
    head = line(
        (f"corral {broker.version}  ", "bold"),
        f"{broker.endpoint}  up {span(now - broker.started)}  ",
        ("store full  ", "red") if broker.store_full else "",
        f"tasks: {counts_text(broker.tasks) or 'none'}",
    )
    parts: list[RenderableType] = [head, line(fleet_text(broker, workers)), line()]
    parts.append(table(workers, worker_columns(now)) if workers else line(("no workers", "red")))
    if kinds:
        parts += [line(), table(kinds, KIND_COLUMNS)]
    parts.append(line())
    parts.append(
        table(tasks[:SHOWN], task_columns(now)) if tasks else line(("nothing to do", "dim"))
    )
    return Group(*parts)
