"""The wheel that users install, built and used away from the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel holds."""
    built = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def sources(*folders: str) -> set[str]:
    """The files of these folders that git tracks, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def test_it_holds_the_three_packages_with_their_data_and_nothing_else(installed: Path) -> None:
    held = {
        str(path.relative_to(installed))
        for path in installed.rglob("*")
        if path.is_file() and ".dist-info" not in str(path)
    }
    assert held == sources("corral", "broker", "worker")
    assert "corral/research/data/wiki-prices.csv.gz" in held


def test_it_runs_where_there_is_no_source_tree(installed: Path, tmp_path: Path) -> None:
    # PYTHONPATH comes before the source tree, which the environment knows as an editable install
    program = (
        "import broker.core, corral.handlers, worker\n"
        "assert corral.handlers.load('echo').kind == 'echo'\n"
        "for package in (broker, corral, worker): print(package.__file__)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(ran.stdout.splitlines()) == 3
    for line in ran.stdout.splitlines():
        assert Path(line).is_relative_to(installed)
