"""What the commands of all daemons have in common: where they log, whom they are, how they fail.

What each of them does is its own `__main__`'s matter.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType

import click

from corral.errors import CorralError, Intruder


def run(command: click.Command, name: str, home: Path, *packages: ModuleType) -> None:
    """Run a daemon's command until it ends the process; `packages` must be those in `home`."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        check_origin(home, *packages)
        command(prog_name=name)
    except CorralError as error:
        click.echo(f"{error.message}\n{error.cure}", err=True)
        sys.exit(error.exit_status)


def check_origin(home: Path, *packages: ModuleType) -> None:
    """Refuse to run when a user's own `worker.py`, say, shadows this distribution's.

    Raises:
        Intruder: names the file.
    """
    for package in packages:
        found = Path(package.__file__ or "").resolve()
        if found.parent.parent != home:
            raise Intruder(module=package.__name__, found=found, expected=home)
