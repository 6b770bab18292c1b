"""inventory/lab-demo.sh, which `make lab-demo` plays: it shows a whole life, and the start is soon.

A long run plays it. Else only its own judgement is looked at, with commands that do nothing.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.evidence import Evidence
from tests.fleet.site import ROOT, Site

SCRIPT = ROOT / "inventory" / "lab-demo.sh"
FIRST_FLEET_SECONDS = 6 * 60
CHAPTER = re.compile(r"^===== (.+?) +\[(\d+):(\d\d)\]$", re.MULTILINE)


def _played(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_a_whole_life_is_shown(bare: Site, evidence: Evidence) -> None:
    played = _played(ROOT, **bare.environment)
    assert played.returncode == 0, played.stdout + played.stderr
    began = {name: 60 * int(m) + int(s) for name, m, s in CHAPTER.findall(played.stdout)}
    first_fleet, whole = began["eight workers"], began["the end"]
    assert first_fleet <= FIRST_FLEET_SECONDS
    evidence.record("make lab-demo", first_fleet_seconds=first_fleet, whole_seconds=whole)


@pytest.mark.parametrize(
    ("workers", "seconds", "word"),
    [
        (2, 0, "lab-demo: 3 were expected"),
        (3, FIRST_FLEET_SECONDS + 1, "lab-demo: at most 6 minutes were expected"),
        (3, 0, "lab-demo: 8 were expected"),  # in the chapter after that
    ],
)
def test_what_was_promised_is_judged(workers: int, seconds: int, word: str, tmp_path: Path) -> None:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    live = 'echo \'{"health": "live"}\''
    for name, does in {
        "ansible-playbook": "true",
        "make": "true",
        "corral": f"for _ in $(seq {workers}); do {live}; done",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "lab.sh").touch()
    played = _played(tmp_path, PATH="/usr/bin:/bin", SECONDS=str(seconds))
    assert played.returncode == 1
    assert played.stderr.splitlines()[-1] == f"{word}. The lab is left as it is."
