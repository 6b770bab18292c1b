"""The tester tested: known bugs, kept as patches, and each is caught by the checker alone.

A patch is applied to a copy of the packages and simulated with the broker's own checks switched
off (`python -O`); an exception of the broker only kills it, as it would in life. Above the diff
stand what the bug is and which promises it may break first.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUGS = sorted((Path(__file__).parent / "bugs").glob("*.patch"))
SEEDS = 40  # worlds within which each bug must show
SIMULATE = [sys.executable, "-O", "-m", "tests.sim", "--tolerant", "--hours", "0.3", "--every", "6"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages that the simulation is made of, free to be broken."""
    kept = shutil.ignore_patterns("__pycache__", "data", "bugs")
    for package in ("broker", "corral", "tests/sim"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=kept)
    shutil.copy(ROOT / "tests/__init__.py", tmp_path / "tests")
    return tmp_path


def first_broken(copy: Path, seed: int) -> str:
    """The promise that the world of that seed finds broken, as the first line tells; or nothing."""
    found = subprocess.run(
        [*SIMULATE, "--seed", str(seed)],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode in (0, 1), found.stderr
    assert not found.stderr, found.stderr
    return found.stdout.partition("\n")[0] if found.returncode else ""


def test_there_are_ten_bugs_and_more() -> None:
    assert len(BUGS) >= 10


def test_the_copy_without_a_bug_is_sound(copy: Path) -> None:
    assert first_broken(copy, 1) == ""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("bug", BUGS, ids=lambda path: path.stem)
def test_the_checker_catches_the_bug(bug: Path, copy: Path) -> None:
    applied = subprocess.run(
        ["git", "apply", str(bug)], cwd=copy, capture_output=True, text=True, timeout=30
    )
    assert applied.returncode == 0, f"write it anew: {applied.stderr}"
    promises = re.search(r"^Breaks: (.+)$", bug.read_text(encoding="utf-8"), re.MULTILINE)
    assert promises, "say which promises it breaks"
    for seed in range(1, SEEDS + 1):
        broken = first_broken(copy, seed)
        if broken:
            assert broken.partition(":")[0] in promises[1].split(), broken
            return
    pytest.fail(f"{SEEDS} worlds did not show it")
