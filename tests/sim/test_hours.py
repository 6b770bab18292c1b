"""Simulated cluster-hours: every one keeps every promise, and is as hard as it says."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.evidence import Evidence, Scale

HERE = Path(__file__).parent
EVENTS = 150_000  # in each hour, at least
FAULTS = 100
FIRST = 1  # seed of the first hour
PIECE = 10  # hours that one process simulates


def simulated(first: int, hours: float, **environment: str) -> list[dict[str, Any]]:
    """What the hours from that seed on were."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seed", str(first), "--hours", str(hours)],
        cwd=HERE.parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-60_000:] + found.stderr[-4_000:]
    return [json.loads(line) for line in found.stdout.splitlines()]


def pieces(hours: int) -> Iterator[tuple[int, int]]:
    """(first seed, hours) of each process."""
    for first in range(FIRST, FIRST + hours, PIECE):
        yield first, min(PIECE, FIRST + hours - first)


@pytest.mark.timeout(900)
def test_no_hour_breaks_a_promise(scale: Scale, evidence: Evidence) -> None:
    processes = (os.cpu_count() or 1) if scale.sim_hours > PIECE else 1
    with ThreadPoolExecutor(processes) as pool:
        reports = [
            report
            for found in pool.map(lambda piece: simulated(*piece), pieces(scale.sim_hours))
            for report in found
        ]
    assert len(reports) == scale.sim_hours
    for report in reports:
        assert report["events"] >= EVENTS, report
        assert report["faults"] >= FAULTS, report
        assert min(report[name] for name in ("broker_deaths", "folds", "attempts")) > 0, report
        assert not report["exceptions"], report
    names = ("events", "faults", "tasks", "attempts", "broker_deaths", "folds")
    evidence.record(
        "simulated cluster",
        hours=len(reports),
        **{name: sum(report[name] for report in reports) for name in names},
        fewest_events_in_an_hour=min(report["events"] for report in reports),
        fewest_faults_in_an_hour=min(report["faults"] for report in reports),
        cpu_seconds_per_hour=sum(report["cpu"] for report in reports) / len(reports),
    )


def test_a_seed_makes_one_history() -> None:
    runs = [simulated(5, 0.3, PYTHONHASHSEED=hashes)[0] for hashes in ("1", "2")]
    for run in runs:
        del run["cpu"]
    assert runs[0] == runs[1]
    assert simulated(6, 0.3)[0]["digest"] != runs[0]["digest"]


JUDGES = ("books", "outside", "checker")


@pytest.mark.parametrize("name", JUDGES)
def test_the_checker_shares_no_code_with_the_broker(name: str) -> None:
    text = (HERE / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 500
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for imported in names:
            head = imported.partition(".")[0]
            judge = imported.removeprefix("tests.sim.") in JUDGES
            assert head in sys.stdlib_module_names or judge, imported
