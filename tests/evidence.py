"""How much a long-running test does, and where it writes down what it measured.

`Scale` is the profile of a run (`make test` or `make test-long`); `Evidence` takes the figures of
one test, and a `Page` keeps those of every promise over many runs. The fixtures that hand them out,
and pytest's hooks, are in conftest.py.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import apsw
import psutil
import zmq

ROOT = Path(__file__).parents[1]
PROPERTY = "evidence"  #: of a test's report: (promise, figures)


@dataclass(frozen=True)
class Scale:
    """How often, and for how long, the tests that gain from repetition repeat."""

    name: str
    kills: int  # kill -9 of the broker under load
    sim_hours: int  # hours of simulated cluster time


SHORT = Scale("short", kills=20, sim_hours=10)
LONG = Scale("long", kills=200, sim_hours=1_000)


@dataclass(frozen=True)
class Evidence:
    """Takes what one test measured; it counts when the test passes."""

    tell: Callable[[str, object], None]  #: pytest's `record_property`

    def record(self, promise: str, **figures: object) -> None:
        """Write down the figures of a promise: `record("kill -9", kills=20, lost=0)`."""
        told = ", ".join(f"{name.replace('_', ' ')} {_plain(of)}" for name, of in figures.items())
        assert "|" not in promise + told, "a page is a table"
        self.tell(PROPERTY, (promise, told))


class Run(NamedTuple):
    """Where and when something was measured."""

    scale: str
    day: str
    commit: str  #: with a + when the working tree differed from it
    machine: str


class Page:
    """What each promise showed when its test last passed: a page in Markdown."""

    def __init__(self, text: str = "") -> None:
        """Read a page that an earlier run wrote, or begin one."""
        self._rows: dict[str, tuple[str, Run]] = {}
        machine = ""
        for line in text.splitlines():
            if line.startswith("## "):
                machine = line[3:]
            elif line.startswith("| ") and machine:
                promise, figures, scale, day, commit = line[2:-2].split(" | ")
                if day[:1].isdigit():  # neither of the two lines that head a table
                    self._rows[promise] = figures, Run(scale, day, commit, machine)

    def add(self, measured: Iterable[tuple[str, str]], run: Run) -> None:
        """Put these promises and figures in the place of what is known of the same promises."""
        self._rows.update((promise, (figures, run)) for promise, figures in measured)

    def __str__(self) -> str:
        """The page; each machine has a table of its own."""
        rows = sorted(self._rows.items(), key=lambda row: row[1][1].machine)
        parts = [_HEAD]
        for machine, group in groupby(rows, key=lambda row: row[1][1].machine):
            parts.append(f"\n## {machine}\n\n{_TABLE}")
            parts += (
                f"| {promise} | {figures} | {run.scale} | {run.day} | {run.commit} |\n"
                for promise, (figures, run) in group
            )
        return "".join(parts)


_HEAD = """\
# Evidence

What each promise showed when its test last passed. `make test-long` writes the long figures, each
`pytest --evidence FILE` those of the tests that it runs; the other rows stay. Do not edit.
"""
_TABLE = """\
| promise | figures | run | day | commit |
| --- | --- | --- | --- | --- |
"""


def this_run(scale: Scale, page: Path) -> Run:
    """A run that begins now, and writes to `page`."""
    return Run(scale.name, f"{datetime.now(UTC):%Y-%m-%d}", _commit(page), _machine())


def _commit(page: Path) -> str:
    """The short name of what is checked out; `page` itself may have changed since."""
    if not (ROOT / ".git").exists():
        return f"v{version('corral')}"
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git(
        "status", "--porcelain", "--", ".", f":(exclude,top){os.path.relpath(page, ROOT)}"
    )
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str:
    found = subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return (
        f"Corral {version('corral')} on Linux {platform.release()}, {os.cpu_count()} cores"
        f" ({models[0] if models else platform.machine()}), "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB; Python {platform.python_version()}, "
        f"SQLite {apsw.sqlite_lib_version()}, libzmq {zmq.zmq_version()}"
    )
