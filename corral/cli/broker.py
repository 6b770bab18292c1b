"""`corral broker`: start, status, backup, fsck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from corral.cli.options import broker_options, connect, connected, printed
from corral.cli.output import Output
from corral.cli.root import Noun
from corral.cli.scripts import PASSED_ON, execute, output_of

if TYPE_CHECKING:
    from corral.client import Client


@click.group(cls=Noun)
def broker() -> None:
    """Start a broker, see how it does, copy and check its store."""


@broker.command()
@connected
def status(client: Client, out: Output) -> None:
    """Tell the broker's own figures: tasks by state, workers, kinds, memory, refusals."""
    from corral.cli.views import broker_page

    out.one(client.status(), broker_page, lambda view: view.endpoint)


@broker.command()
@broker_options
@printed
@click.option(
    "--to", metavar="DIR", help="A new or empty folder. Default: one in the broker's data folder."
)
@click.option("--data", metavar="DIR", help="Copy the store in DIR, whose broker is stopped.")
def backup(
    out: Output, broker: str | None, key: str | None, to: str | None, data: str | None
) -> None:
    """Copy the store of the running broker, on its machine; it works on all the while.

    The copy holds every task that was acknowledged before, and is durable when the command ends.
    A copy on the same disk shares the files of large results, so it takes little room; one on
    another disk (--to) outlives the disk. To use a copy: corral broker start --data COPY.
    """
    from corral.cli.views import backup_page
    from corral.messages import BackupView

    if data is not None:
        import msgspec

        made = output_of("corral-broker", "backup", "--data", data, *([to] if to else []))
        view = msgspec.json.decode(made, type=BackupView)
    else:
        with connect(broker, key) as client:
            view = client.backup(to)
    out.one(view, backup_page, lambda view: view.path)


def _passed_on(name: str, help: str) -> None:
    @broker.command(name, help=help, context_settings=PASSED_ON)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: Sequence[str]) -> None:
        execute("corral-broker", name, *arguments)


_passed_on("start", "Serve until SIGTERM: --data DIR --bind tcp://127.0.0.1:5555 [--keys DIR].")
_passed_on("fsck", "Check the store of a stopped broker: --data DIR.")
