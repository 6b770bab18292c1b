"""How much a long-running test does, and where it writes down what it measured.

`Scale` is the profile of a run (`make test` or `make test-long`); `Evidence` collects figures and
renders them as a page. The fixtures that hand them out, and pytest's hooks, are in conftest.py.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import apsw
import psutil
import zmq


@dataclass(frozen=True)
class Scale:
    """How often, and for how long, the tests that gain from repetition repeat."""

    kills: int  # kill -9 of the broker under load
    sim_hours: int  # hours of simulated cluster time


SHORT = Scale(kills=20, sim_hours=10)
LONG = Scale(kills=200, sim_hours=1_000)
_SCALES = {
    SHORT: "short figures of `make test` (`make test-long` runs the full ones)",
    LONG: "full figures of `make test-long`",
}


@dataclass
class Evidence:
    """The figures that tests measured, in the order in which they came."""

    rows: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def record(self, what: str, **figures: object) -> None:
        """Keep the figures of one promise, for example `record("kill -9", kills=20, lost=0)`."""
        self.rows.append((what, figures))

    def lines(self) -> Iterator[str]:
        """One line of text for each record."""
        for what, figures in self.rows:
            yield f"{what}: {_figures(figures)}"

    def page(self, tests: int, seconds: float, scale: Scale) -> str:
        """The whole page in Markdown; `tests` of them passed, in so many `seconds`."""
        rows = "\n".join(f"| {what} | {_figures(figures)} |" for what, figures in self.rows)
        return _PAGE.format(
            tests=tests,
            scale=_SCALES[scale],
            duration=f"{seconds / 60:.0f} minutes",
            day=f"{datetime.now(UTC):%Y-%m-%d}",
            machine=_machine(),
            rows=rows,
        )


_PAGE = """\
# Evidence

What the suite measured when it last passed, with the {scale}. Written by the suite; do not edit.

{tests} tests passed in {duration} on {day}. {machine}

| promise | figures |
| --- | --- |
{rows}
"""


def _figures(figures: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in figures.items())


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
        f"SQLite {apsw.sqlite_lib_version()}, libzmq {zmq.zmq_version()}."
    )
