"""The tester tested: known bugs, kept as patches, and each is caught by the checker alone.

A patch is applied to a copy of the packages and simulated with the broker's own checks switched
off (`python -O`); an exception of the broker only kills it, as it would in life. Above the diff
stand what the bug is and which promises it may break first. A change of the core changes the
worlds, so no patch says which of them shows it: they are searched from the first on, and the one
that shows it must be sound without it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.evidence import Evidence, Scale

ROOT = Path(__file__).parents[2]
PATCHES = sorted((Path(__file__).parent / "bugs").glob("*.patch"))
ALWAYS = {"acknowledged-before-commit", "wrong-token-accepted", "freed-at-cancel"}
PROMISES = {f"P{number}" for number in range(1, 13)}
SEEDS = range(1, 101)  # worlds within which each bug must show; most do in the first
SIMULATE = [sys.executable, "-O", "-m", "tests.sim", "--tolerant", "--hours", "0.3", "--every", "6"]


class Hunted(NamedTuple):
    """What became of one bug: the world that showed it, and what it said; or seed 0, and why."""

    name: str
    seed: int
    said: str


def copied(to: Path) -> Path:
    """The packages that the simulation is made of, free to be broken."""
    kept = shutil.ignore_patterns("__pycache__", "data", "bugs")
    for package in ("broker", "corral", "tests/sim"):
        shutil.copytree(ROOT / package, to / package, ignore=kept)
    shutil.copy(ROOT / "tests/__init__.py", to / "tests")
    return to


def first_broken(copy: Path, seed: int) -> str:
    """The promise that the world of that seed finds broken, as the first line tells; or nothing."""
    found = subprocess.run(
        [*SIMULATE, "--seed", str(seed)],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode in (0, 1), found.stderr
    assert not found.stderr, found.stderr
    return found.stdout.partition("\n")[0] if found.returncode else ""


def promises_of(patch: Path) -> list[str]:
    """Which promises the bug may break first, as its patch says."""
    said = re.search(r"^Breaks: (.+)$", patch.read_text(encoding="utf-8"), re.MULTILINE)
    return said[1].split() if said else []


def hunted_in(scale: Scale) -> list[Path]:
    """All of them in a long run; else one for each promise, and those of `ALWAYS`."""
    if scale.name == "long":
        return PATCHES
    one_each = {promises_of(patch)[0]: patch for patch in reversed(PATCHES)}
    return [one for one in PATCHES if one in one_each.values() or one.stem in ALWAYS]


def hunt(patch: Path, to: Path) -> Hunted:
    """Look for a world that shows the bug."""
    copy = copied(to)
    subprocess.run(["git", "apply", str(patch)], cwd=copy, check=True, timeout=30)
    for seed in SEEDS:
        said = first_broken(copy, seed)
        if said:
            may = promises_of(patch)
            return Hunted(patch.stem, seed if said.partition(":")[0] in may else 0, said)
    return Hunted(patch.stem, 0, f"{len(SEEDS)} worlds did not show it")


def test_bugs_of_every_promise_are_kept() -> None:
    assert {patch.stem for patch in PATCHES} >= ALWAYS
    for patch in PATCHES:
        assert promises_of(patch), f"{patch.name}: say which promises it breaks"
        assert PROMISES.issuperset(promises_of(patch)), patch.name
    assert set().union(*map(promises_of, PATCHES)) == PROMISES


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_bug_can_be_planted(patch: Path) -> None:
    """Also one that is hunted in long runs alone."""
    check = ["git", "apply", "--check", str(patch)]
    applied = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert applied.returncode == 0, f"write it anew: {applied.stderr}"


@pytest.mark.timeout(1800)
def test_the_checker_catches_each_bug(tmp_path: Path, scale: Scale, evidence: Evidence) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hunted = list(pool.map(lambda patch: hunt(patch, tmp_path / patch.stem), hunted_in(scale)))
        missed = [f"{bug.name}: {bug.said}" for bug in hunted if not bug.seed]
        assert not missed, "\n".join(missed)
        sound = copied(tmp_path / "sound")
        seeds = sorted({bug.seed for bug in hunted})
        without = list(pool.map(lambda seed: first_broken(sound, seed), seeds))
    assert not any(without), f"broken without a bug: {dict(zip(seeds, without, strict=True))}"
    most = max(hunted, key=lambda bug: bug.seed)
    evidence.record(
        "planted bugs",
        caught=len(hunted),
        in_the_first_world=sum(bug.seed == 1 for bug in hunted),
        most_worlds_needed=most.seed,
        promises_broken_first=len({bug.said.partition(":")[0] for bug in hunted}),
    )
