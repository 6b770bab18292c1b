"""Every command that the documents show can be typed like that."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

import click
import pytest

from broker.__main__ import cli as broker
from corral import errors
from corral.cli import root
from worker.__main__ import cli as worker

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
SHOWN = list(
    dict.fromkeys(
        line
        for page in PAGES
        for line in re.findall(
            r"^\s*\$ (?:\S*/)?corral (.*?)\s*(?:(?:#| [|>] ).*)?$", page.read_text(), re.M
        )
    )
)
#: `corral ...` in the texts that errors say
CURES = sorted(
    {
        command
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.CorralError)
        for command in re.findall(r"`corral ([^`]+)`", error.__doc__ or "")
    }
)
FILLED = {"noun": "task", "needed": "client", "id": "abc", "path": "data", "name": "w1"}


def parse(line: str) -> None:
    """Let click read a command without running it."""
    words = shlex.split(line)
    command: click.Command | None = root.corral
    while isinstance(command, click.Group):
        word = words.pop(0)
        command = command.get_command(click.Context(command), word)
        assert command is not None, word
        if (word, words[:1]) == ("worker", ["start"]):
            command = worker
            words.pop(0)
        elif word == "broker" and words[0] in broker.commands:
            command = broker
    assert command is not None
    with command.make_context("corral", words):
        pass


def test_the_readme_shows_commands() -> None:
    assert len(SHOWN) >= 9


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_can_be_typed(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tasks.jsonl").touch()  # what the page made before
    parse(line)


@pytest.mark.parametrize("line", CURES)
def test_a_cure_can_be_typed(line: str) -> None:
    with contextlib.suppress(click.MissingParameter):  # a sentence may leave out what is obvious
        parse(line.format_map(FILLED))


@pytest.mark.parametrize("line", ["task dance", "task list --dance", "worker start --dance x"])
def test_what_cannot_be_typed_is_found_out(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parse(line)
