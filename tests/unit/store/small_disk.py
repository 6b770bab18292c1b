"""A real small disk for a test: a tmpfs in a mount namespace of its own.

A child process makes the namespace, so a killed test leaves no mount behind, and no root is needed
where the kernel lets ordinary users make namespaces. A story that takes too long is interrupted, so
that it can end the processes that it started.
"""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

LAST_WORDS = 30  # seconds for an interrupted story to clean up


def on_small_disk(story: Callable[[Path], None], megabytes: int, seconds: int = 60) -> None:
    """Run `story`, a function of a module, on an empty disk of that size; it fails if that does."""
    with tempfile.TemporaryDirectory() as disk:
        done = subprocess.run(
            [
                *("unshare", "--map-root-user", "--mount", "--propagation", "private"),
                *(sys.executable, "-m", __name__),
                *(disk, str(megabytes), str(seconds), story.__module__, story.__name__),
            ],
            capture_output=True,
            text=True,
            timeout=seconds + LAST_WORDS,
            cwd=Path(__file__).parents[3],
        )
    assert done.returncode == 0, done.stderr


def mount(disk: str, options: str) -> None:
    """Mount a tmpfs on a folder, or mount it differently; for the stories alone."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the story took too long")


if __name__ == "__main__":
    disk, size, limit, module, name = sys.argv[1:]
    signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(int(limit))
    mount(disk, f"size={size}m")
    getattr(importlib.import_module(module), name)(Path(disk))
