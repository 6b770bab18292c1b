"""Who is expected: read from a file that people and playbooks write, and read again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from corral.errors import Usage
from corral.gateway.expected import MOST, Difference, Expected, difference
from corral.messages import WorkerView


def worker(name: str, health: str = "live") -> WorkerView:
    return WorkerView(name=name, status="available", health=health, admission="open", seen=1.0)


def test_names_stand_one_on_a_line_beside_what_people_write(tmp_path: Path) -> None:
    file = tmp_path / "expected"
    file.write_text("# the fleet\nw2\n\n  w1  # in the cellar\nw2\n")
    assert Expected(file).names() == ["w1", "w2"]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "expected"
    file.write_text("w1\n")
    expected = Expected(file)
    fresh = tmp_path / "fresh"  # as Ansible writes: a new file takes the place of the old one
    fresh.write_text("w1\nw2\n")
    fresh.replace(file)
    assert expected.names() == ["w1", "w2"]


def test_a_file_that_is_gone_changes_nothing_is_said_once_and_heeded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "expected"
    file.write_text("w1\n")
    expected = Expected(file)
    file.unlink()
    with caplog.at_level(logging.ERROR):
        assert [expected.names() for _ in range(3)] == [["w1"]] * 3
    assert len(caplog.records) == 1
    file.write_text("w3\n")
    assert expected.names() == ["w3"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"w" * (MOST + 1)])
def test_a_gateway_is_not_started_on_a_file_that_is_none(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "expected"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Usage, match=f"cannot be read from {os.fspath(file)}"):
        Expected(file)


def test_the_difference_names_who_is_silent_and_whom_nobody_expects() -> None:
    there = [worker("w1"), worker("w2", "suspect"), worker("w3", "unavailable"), worker("x1")]
    assert difference(["w1", "w2", "w3", "w4"], there) == Difference(
        expected=["w1", "w2", "w3", "w4"], silent=["w3", "w4"], unknown=["x1"]
    )


def test_where_nobody_says_whom_to_expect_nobody_is_missed_or_unknown() -> None:
    nothing = Difference(expected=None, silent=[], unknown=[])
    assert difference(None, [worker("w1")]) == nothing
