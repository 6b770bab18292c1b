"""A real small disk for a test: a tmpfs in a mount namespace of its own.

A child process makes the namespace, so a killed test leaves no mount behind, and no root is needed
where the kernel lets ordinary users make namespaces. Processes that a story starts are in a
namespace too: none outlives the story, however it ends.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def on_small_disk(story: Callable[[Path], None], megabytes: int, seconds: float = 60.0) -> None:
    """Run `story`, a function of a module, on an empty disk of that size; it fails if that does."""
    with tempfile.TemporaryDirectory() as disk:
        done = subprocess.run(
            [
                *("unshare", "--map-root-user", "--mount", "--propagation", "private"),
                *("--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", __name__),
                *(disk, str(megabytes), story.__module__, story.__name__),
            ],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=Path(__file__).parents[3],
        )
    assert done.returncode == 0, done.stderr


def mount(disk: str, options: str) -> None:
    """Mount a tmpfs on a folder, or mount it differently; for the stories alone."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)


if __name__ == "__main__":
    disk, size, module, name = sys.argv[1:]
    mount(disk, f"size={size}m")
    getattr(importlib.import_module(module), name)(Path(disk))
