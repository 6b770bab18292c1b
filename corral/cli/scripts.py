"""Executing the daemons: the console scripts beside this interpreter, never an import of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from corral.errors import Usage

#: settings of a command whose options are the daemon's own, --help included
PASSED_ON: dict[str, Any] = {
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


def script(name: str) -> str:
    """The console script `name` of this installation.

    Raises:
        Usage: it is not there.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Usage(what=f"{path} is not there: this installation of Corral is not whole")
    return str(path)


def execute(name: str, *arguments: str) -> NoReturn:
    """Become the daemon. PYTHONSAFEPATH keeps a user's own `worker.py` from shadowing it."""
    path = script(name)
    sys.stdout.flush()
    os.execve(path, [path, *arguments], {**os.environ, "PYTHONSAFEPATH": "1"})


def output_of(name: str, *arguments: str) -> bytes:
    """What a command of the daemon prints. One that fails has said why, and ends this one too."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command = [script(name), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout
