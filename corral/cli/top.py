"""`corral top`: workers and tasks, live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from corral.cli.options import broker_options, connect, span
from corral.cli.output import console, table
from corral.errors import BrokerUnreachable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from corral.client import Client

SHOWN = 20  # tasks of each list
ACTIVE = ("running", "retrying", "queued", "waiting")


@click.command()
@click.option(
    "--every", type=click.FloatRange(0.2), default=1.0, show_default=True, help="Seconds."
)
@click.option("--once", is_flag=True, help="Print one picture and end.")
@broker_options
def top(every: float, once: bool, broker: str | None, key: str | None) -> None:
    """Watch workers and tasks, live; off a terminal it prints one picture."""
    with connect(broker, key) as client:
        if once or not sys.stdout.isatty():
            console().print(_picture(client))
            return
        _live(client, every)


def _live(client: Client, every: float) -> None:
    from rich.live import Live
    from rich.text import Text

    out = console()
    last: RenderableType = _picture(client)
    heard = time.monotonic()
    try:
        with Live(last, console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                try:
                    last = _picture(client)
                    heard = time.monotonic()
                    live.update(last, refresh=True)
                except BrokerUnreachable:
                    from rich.console import Group

                    stale = Text(f"no answer for {span(time.monotonic() - heard)}", "red")
                    live.update(Group(stale, last), refresh=True)
    except KeyboardInterrupt:
        return


def _picture(client: Client) -> RenderableType:
    """Header, workers, and the tasks that are not over, those that run first."""
    from rich.console import Group
    from rich.text import Text

    from corral.cli.views import counts_text, task_columns, worker_columns

    broker, workers = client.status(), client.workers()
    tasks = [task for state in ACTIVE for task in client.tasks([state], limit=SHOWN)]
    now = time.time()
    head = Text.assemble(
        (f"corral {broker.version}  ", "bold"),
        f"{broker.endpoint}  up {span(now - broker.started)}  ",
        ("store full  ", "red") if broker.store_full else "",
        f"tasks: {counts_text(broker.tasks) or 'none'}",
    )
    parts: list[RenderableType] = [head, Text()]
    parts.append(table(workers, worker_columns(now)) if workers else Text("no workers", "red"))
    parts.append(Text())
    parts.append(table(tasks[:SHOWN], task_columns(now)) if tasks else Text("nothing to do", "dim"))
    return Group(*parts)
