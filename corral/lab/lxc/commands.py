"""Running a program of the machine, with its last words as the error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from corral.lab.runtime import RuntimeFailed


def run(*argv: str | Path, cwd: Path | None = None, accept: frozenset[int] = frozenset({0})) -> str:
    """What it wrote to stdout and stderr.

    Raises:
        RuntimeFailed: its exit status is not one to accept; the text is its last line.
    """
    done = subprocess.run(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode not in accept:
        said = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeFailed(f"{Path(argv[0]).name}: {said[-1]}")
    return done.stdout
