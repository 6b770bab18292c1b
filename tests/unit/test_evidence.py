"""The page of evidence: what a run adds to it, replaces and leaves alone. Not what is measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.evidence import Page, Run

ROOT = Path(__file__).parents[2]
MARCH = Run("long", "2026-03-01", "1234567", "a large machine")
APRIL = Run("short", "2026-04-01", "89abcde+", "a small machine")
SUITE = """\
import pytest

def test_sound(evidence):
    evidence.record("kill -9", kills=2_000, seconds=1.5)

def test_unsound(evidence):
    evidence.record("fold", folds=1)
    assert False

@pytest.fixture
def untidy():
    yield
    raise OSError("left something behind")

def test_untidy(evidence, untidy):
    evidence.record("disk", writes=1)
"""


def rows(page: object) -> list[str]:
    """What stands below the heads of the tables."""
    heads = ("| promise ", "| --- ")
    lines = [line for line in str(page).splitlines() if line.startswith(("## ", "| "))]
    return [line for line in lines if not line.startswith(heads)]


def test_a_page_keeps_what_was_not_measured_again() -> None:
    old = Page()
    old.add([("kill -9", "kills 200"), ("fold", "folds 7")], MARCH)
    page = Page(str(old))
    assert str(page) == str(old)
    page.add([("kill -9", "kills 201"), ("disk", "writes 3")], MARCH._replace(commit="7654321"))
    assert rows(page) == [
        "## a large machine",
        "| kill -9 | kills 201 | long | 2026-03-01 | 7654321 |",
        "| fold | folds 7 | long | 2026-03-01 | 1234567 |",
        "| disk | writes 3 | long | 2026-03-01 | 7654321 |",
    ]


def test_each_machine_has_its_own_table() -> None:
    page = Page()
    page.add([("kill -9", "kills 200"), ("fold", "folds 7")], MARCH)
    page.add([("kill -9", "kills 20")], APRIL)
    text = str(Page(str(page)))
    assert text == str(page)
    large, small = text.index("## a large machine"), text.index("## a small machine")
    assert large < text.index("| fold | folds 7 | long | 2026-03-01 | 1234567 |") < small
    assert small < text.index("| kill -9 | kills 20 | short | 2026-04-01 | 89abcde+ |")
    assert text.count("kill -9") == 1


def test_a_run_writes_what_its_sound_tests_measured(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE, encoding="utf-8")
    file = tmp_path / "pages" / "evidence.md"
    file.parent.mkdir()
    old = Page()
    old.add([("kill -9", "kills 1"), ("fold", "folds 7"), ("disk", "writes 3")], MARCH)
    file.write_text(str(old), encoding="utf-8")
    here = [f"--rootdir={tmp_path}", "-p", "no:cacheprovider", str(tmp_path)]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", f"--evidence={file}", *here],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1, found.stdout + found.stderr
    assert "fold: folds 1" in found.stdout  # who looks for the fault sees it
    new = [row for row in rows(file.read_text(encoding="utf-8")) if row not in rows(old)]
    machine, measured = new
    assert machine.startswith("## Corral ")
    assert re.fullmatch(
        r"\| kill -9 \| kills 2,000, seconds 1\.5 \| short \| \d{4}-\d\d-\d\d \| \w+\+? \|",
        measured,
    )
