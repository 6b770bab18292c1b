"""`corral broker`: start, status, fsck, backup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from corral.cli.options import connected
from corral.cli.output import Output
from corral.cli.scripts import PASSED_ON, execute

if TYPE_CHECKING:
    from corral.client import Client


@click.group()
def broker() -> None:
    """Start a broker, see how it does, check its store."""


@broker.command()
@connected
def status(client: Client, out: Output) -> None:
    """Tell the broker's own figures: tasks by state, workers, kinds, memory, refusals."""
    from corral.cli.views import broker_page

    out.one(client.status(), broker_page, lambda view: view.endpoint)


def _passed_on(name: str, help: str) -> None:
    @broker.command(name, help=help, context_settings=PASSED_ON)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: Sequence[str]) -> None:
        execute("corral-broker", name, *arguments)


_passed_on("start", "Serve until SIGTERM: --data DIR --bind tcp://127.0.0.1:5555 [--keys DIR].")
_passed_on("fsck", "Check the store of a stopped broker: --data DIR.")
_passed_on("backup", "Copy the store of a stopped broker: --data DIR TARGET.")
