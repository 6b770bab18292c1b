"""The module `files` on real files, run as on a machine: by a Python that has no packages."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.collection.operator import Answer, Operator, without_lab


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with nothing installed, as a machine of the fleet has."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    return folder / "bin/python"


class Writer:
    """Writes files as the user who runs the tests."""

    def __init__(self, operator: Operator, python: Path) -> None:
        self._operator = operator
        self._python = python

    def __call__(self, files: dict[str, Any], *flags: str, **options: Any) -> Answer:
        own = {"owner": str(os.getuid()), "group": str(os.getgid())}
        python = ("-e", f"ansible_python_interpreter={self._python}")
        given = {"files": files} | own | options
        return self._operator.module(
            "files", given, *python, *flags, environment={"PYTHONPATH": None}
        )


@pytest.fixture
def write(tmp_path: Path, bare: Path) -> Writer:
    return Writer(without_lab(tmp_path / "operator"), bare)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_files_are_written_shown_and_left_alone(write: Writer, tmp_path: Path) -> None:
    new, old = tmp_path / "folders/that/lack/new.conf", tmp_path / "old.conf"
    old.write_text("before\n")
    old.chmod(0o600)
    wanted = {str(new): "one \u2713\ntwo", str(old): "after\n"}

    planned = write(wanted, "--check", "--diff")
    assert planned["written"] == list(wanted)
    assert "-before" in planned.shown
    assert "+after" in planned.shown
    assert "+one \u2713" in planned.shown
    assert old.read_text() == "before\n"
    assert not new.parent.exists()

    assert write(wanted)["written"] == list(wanted)
    assert {str(path): path.read_text() for path in (new, old)} == wanted
    assert (mode(new), mode(old), mode(new.parent)) == (0o644, 0o644, 0o755)

    again = write(wanted)
    assert not again.changed
    assert again["written"] == []
    assert not write(wanted, mode=0o644).changed  # as YAML reads 0644 without quotes
    assert list(tmp_path.glob("**/.ansible_tmp*")) == []


def test_what_was_done_by_hand_is_found(write: Writer, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("kept", "opened", "edited", "ended", "linked")]
    kept, opened, edited, ended, linked = paths
    wanted = {str(path): "text\n" for path in paths}
    write(wanted)
    opened.chmod(0o666)
    edited.write_text("other\n")
    ended.write_bytes(b"text\r\n")
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")

    found = write(wanted, "--check", "--diff")
    assert str(kept) not in found["written"]
    assert found["written"] == [str(path) for path in (opened, edited, ended, linked)]
    assert '"mode": "0666"' in found.shown
    assert write(wanted)["written"] == found["written"]
    assert [path.read_bytes() for path in paths] == [b"text\n"] * len(paths)
    assert mode(opened) == 0o644
    assert not linked.is_symlink()
    assert (tmp_path / "elsewhere").exists()
    assert not write(wanted).changed


def test_what_cannot_be_is_refused_and_leaves_what_was_there(write: Writer, tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("good\n")
    refused = write({str(file): "bad\n"}, validate="grep good %s")
    assert f"{file} is refused by grep good %s" in refused.message
    assert file.read_text() == "good\n"
    assert write({str(file): "still good\n"}, validate="grep good %s").changed
    new = tmp_path / "new"
    assert f"{tmp_path} is there and no file" in write({str(new): "", str(tmp_path): ""}).message
    assert not new.exists()  # or its handler would never hear of it
    assert "There can be no folder" in write({str(file / "below"): "text\n"}).message
    assert "is ['a'], which is no text; quote it" in write({str(file): ["a"]}).message


def test_it_needs_nothing_on_the_machine(bare: Path) -> None:
    """Else the tests above would prove less than they say."""
    asked = subprocess.run([bare, "-c", "import yaml"], capture_output=True, text=True, check=False)
    assert "No module named 'yaml'" in asked.stderr
    assert Path(sys.executable) != bare
