"""What a terminal would obey, in what a task or an operator may write: it is shown, not sent."""

from __future__ import annotations

import os
import pty
import subprocess
import unicodedata

import pytest

from corral.messages import TaskView
from tests.integration.cli.conftest import BIN, PATIENCE, Cli

EVIL = "a\x1b[2Jb\r\nc\x9b31md"
SEEN = r"a\x1b[2Jb\r\nc\x9b31md"


def harmless(text: str) -> bool:
    """Whether a terminal does nothing but show it, line by line."""
    return not any(unicodedata.category(char) == "Cc" for char in text.replace("\n", ""))


@pytest.fixture
def failed(corral: Cli) -> str:
    """A task that carries such text wherever it can, and failed with it."""
    ended = corral(
        "task", "submit", "fail", f"message={EVIL}", "--retries", "0", "--name", EVIL,
        "--project", EVIL, "--wait", "-o", "json",
    )  # fmt: skip
    assert ended.status == 1
    assert SEEN in ended.err
    assert harmless(ended.err)
    id: str = ended.json()["id"]
    return id


@pytest.mark.parametrize("command", ["show", "list", "watch", "explain", "result", "cancel"])
def test_no_view_of_a_task_sends_it(corral: Cli, failed: str, command: str) -> None:
    ended = corral("task", command, *([] if command == "list" else [failed]))
    text = ended.out + ended.err
    assert harmless(text)
    assert SEEN in text or command in ("explain", "cancel")  # which tell nothing of it


def test_json_is_exact(corral: Cli, failed: str) -> None:
    view = corral("task", "show", failed, "-o", "json").json(TaskView)
    assert (view.name, view.project, view.params) == (EVIL, EVIL, {"message": EVIL})
    assert view.failure is not None
    assert view.failure.message == EVIL


def test_what_a_task_waits_for_is_shown(corral: Cli) -> None:
    waiting = corral("task", "submit", "echo", "--label", f"zone={EVIL}", "--name", EVIL)
    assert waiting.status == 6
    id = waiting.out.strip()
    told = corral("task", "explain", id)
    top = corral("top", "--once")
    for page in (waiting.err, told.out, top.out):
        assert SEEN in page
        assert harmless(page)
    assert corral("task", "cancel", id, "--reason", EVIL).status == 0
    ended = corral("task", "result", id)
    assert SEEN in ended.err
    assert harmless(ended.err)


def test_why_a_worker_drains_is_shown(corral: Cli) -> None:
    assert corral("worker", "drain", "w2", "--reason", EVIL).status == 0
    pages = [corral("worker", "list"), corral("worker", "status", "w2"), corral("doctor")]
    assert corral("worker", "resume", "w2").status == 0
    for page in pages:
        assert SEEN in page.out
        assert harmless(page.out)


def test_what_a_user_typed_is_shown(alone: Cli) -> None:
    for arguments in (["task", "show", f"--{EVIL}"], ["task", "submit", "echo", EVIL]):
        ended = alone(*arguments)
        assert ended.status == 2
        assert SEEN.replace("\\", "") in ended.err.replace("\\", "")  # click itself quotes some
        assert harmless(ended.err)


def test_a_text_goes_exactly_into_a_pipe_and_visibly_onto_a_terminal(corral: Cli) -> None:
    folder = corral.folder / EVIL  # `mark` returns a path in it
    folder.mkdir()
    id = corral("task", "submit", "mark", f"folder={folder}", "-o", "name").out.strip()
    exact = corral("task", "result", id, "-o", "json").json()["value"]
    assert EVIL in exact
    command = [BIN / "corral", "task", "result", id]
    piped = subprocess.run(
        command, env=corral.variables, capture_output=True, timeout=PATIENCE, check=True
    )
    assert piped.stdout == f"{exact}\n".encode()
    master, terminal = pty.openpty()
    subprocess.run(command, env=corral.variables, stdout=terminal, timeout=PATIENCE, check=True)
    os.close(terminal)
    shown = os.read(master, 1000).decode()
    os.close(master)
    first, _, second = exact.replace("\x1b", r"\x1b").replace("\x9b", r"\x9b").partition("\r\n")
    assert shown == f"{first}\\r\r\n{second}\r\n"  # its lines stay lines


def test_a_log_is_the_handler_s_own_stream(corral: Cli) -> None:
    id = corral("task", "submit", "chatter", "words=a\x1b[1mb", "--wait", "-o", "name").out.strip()
    assert "a\x1b[1mb by print\n" in corral("task", "logs", id).out
