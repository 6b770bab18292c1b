"""Help: quick, whole, and without anything heavy."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from corral.cli import root

CORRAL = str(Path(sys.executable).with_name("corral"))
HEAVY = {"torch", "pandas", "numpy", "sklearn", "lightgbm", "zmq", "rich", "yaml", "apsw"}
LIMIT = 0.2  # seconds that `corral --help` may take


def every_command() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for name in root.COMMANDS:
        command = root.corral.get_command(click.Context(root.corral), name)
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, inner) for inner in command.commands]
    return found


#: commands that pass everything on to a daemon, its --help too
DAEMONS = {("worker", "start"), ("broker", "start"), ("broker", "fsck"), ("gateway", "start")}
OURS = [command for command in every_command() if command not in DAEMONS]


def test_help_comes_within_200_ms() -> None:
    taken = []
    for _ in range(10):  # the quickest of them: a busy machine is not the command's fault
        began = time.perf_counter()
        subprocess.run([CORRAL, "--help"], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    assert min(taken) < LIMIT, taken


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_help_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from corral.cli.root import run\n"
        f"status = run([*{command!r}, '--help'])\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" ".join(("Usage: corral", *command)))
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert not loaded & HEAVY


@pytest.mark.parametrize("noun", sorted({one[0] for one in OURS if len(one) > 1}))
def test_the_help_of_a_noun_cuts_no_line_off(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert root.run([noun, "--help"]) == 0
    commands = capsys.readouterr().out.partition("\nCommands:\n")[2]
    assert commands
    assert "..." not in commands


def test_the_table_of_commands_says_what_the_commands_are() -> None:
    context = click.Context(root.corral)
    for name in root.COMMANDS:
        command = root.corral.get_command(context, name)
        assert command is not None
        assert command.name == name


def test_the_nouns_and_verbs_of_the_contract_are_there() -> None:
    verbs = {noun: {inner for one, *rest in OURS_AND_DAEMONS if one == noun for inner in rest}
             for noun in root.COMMANDS}  # fmt: skip
    assert verbs["task"] >= {
        "submit", "list", "show", "status", "explain", "watch", "logs", "result", "cancel", "retry",
    }  # fmt: skip
    assert verbs["worker"] >= {"start", "stop", "status", "list", "drain", "resume"}
    assert verbs["broker"] >= {"start", "status", "backup", "fsck"}
    assert verbs["pipeline"] >= {"run", "submit", "show"}
    assert verbs["gateway"] >= {"start", "token"}
    assert verbs["keys"] >= {"new", "add", "list", "revoke"}
    assert {"up", "top", "doctor", "config", "completion"} <= set(root.COMMANDS)


OURS_AND_DAEMONS = [command for command in every_command() if command]
