"""`doctor`, `top`, `config`, `completion`: what a person asks of the machine and the fleet."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from corral.cli.config import Setting
from corral.cli.doctor import Finding
from tests.integration.cli.conftest import BIN, Cli, Fleet, free_endpoint

# --- doctor -----------------------------------------------------------------------------


def test_doctor_of_a_healthy_fleet(corral: Cli) -> None:
    ended = corral("doctor", "-o", "json")
    found = {one.check: one for one in ended.json(list[Finding])}
    assert {"corral", "disk", "fsync", "broker", "workers", "clock"} <= found.keys()
    assert "fail" not in {one.verdict for one in found.values()}
    assert ended.status == 0
    page = corral("doctor").out
    assert all(check in page for check in found)


def test_doctor_without_a_broker(alone: Cli) -> None:
    ended = alone("doctor", CORRAL_BROKER=free_endpoint(), CORRAL_TIMEOUT="300ms")
    assert ended.status == 5
    assert "fail" in ended.out
    assert "corral up" in ended.out


def test_doctor_names_what_is_wrong_and_the_cure(corral: Cli) -> None:
    assert corral("worker", "drain", "w1", "--reason", "a test", "--wait").status == 0
    try:
        ended = corral("doctor", "-o", "json")
    finally:
        assert corral("worker", "resume", "w1").status == 0
    found = {one.check: one for one in ended.json(list[Finding])}
    assert found["worker w1"].verdict == "warn"
    assert found["worker w1"].cure == "corral worker resume w1"


def test_doctor_of_a_folder_that_cannot_be_written(alone: Cli) -> None:
    ended = alone("doctor", "--data", "/proc/self", "-o", "jsonl", CORRAL_TIMEOUT="200ms",
                  CORRAL_BROKER=free_endpoint())  # fmt: skip
    found = [msgspec.json.decode(line, type=Finding) for line in ended.out.splitlines()]
    assert "fail" in {one.verdict for one in found if one.check in ("fsync", "disk")}


def test_doctor_of_a_key_that_cannot_be_read(alone: Cli) -> None:
    ended = alone("doctor", "--key", "nowhere.key", "-o", "json")
    found = {one.check: one for one in ended.json(list[Finding])}
    assert found["key"].verdict == "fail"
    assert "nowhere.key" in found["key"].found
    assert ended.status == 1


# --- top --------------------------------------------------------------------------------


def test_top_once_is_one_picture(corral: Cli, fleet: Fleet) -> None:
    assert corral("task", "submit", "sleep", "seconds=0.2", "--wait").status == 0
    id = corral("task", "submit", "sleep", "seconds=60").out.strip()
    ended = corral("top", "--once")
    assert corral("task", "cancel", id).status == 0
    assert ended.status == 0
    for word in (fleet.endpoint, "w1", "w2", id, "USUAL RUN", "GiB free"):
        assert word in ended.out
    assert corral("top").status == 0  # off a terminal the same


@pytest.mark.parametrize("end", [b"q", b"\x03"])
def test_top_on_a_terminal_ends_with_q_or_ctrl_c(corral: Cli, end: bytes) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [BIN / "corral", "top", "--every", "0.2"],
        cwd=corral.folder,
        env={**corral.variables, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    try:
        seen = _read_until(ours, b"w2")
        assert b"w1" in seen
        os.write(ours, end)
        _read_until(ours, b"")  # the screen is put back
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(ours)


def _own_terminal() -> None:
    """Make stdin the controlling terminal, so that Ctrl-C reaches it as a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_until(terminal: int, words: bytes) -> bytes:
    """What the terminal shows until `words` came, or until the other side is gone when empty."""
    seen = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if not ready:
            continue
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # EIO: nobody is there any more
            return seen
        if words and words in seen:
            return seen
    raise AssertionError(seen)


# --- config -----------------------------------------------------------------------------


def test_config_tells_each_value_and_its_origin(alone: Cli) -> None:
    (alone.folder / "corral.toml").write_text("timeout = '3s'\n[worker]\nslots = 4\n")
    ended = alone("config", "-o", "json", CORRAL_WORKER_SLOTS="8")
    found = {one.key: one for one in ended.json(list[Setting])}
    assert (found["timeout"].value, Path(found["timeout"].origin).name) == (3.0, "corral.toml")
    assert (found["worker.slots"].value, found["worker.slots"].origin) == (8, "CORRAL_WORKER_SLOTS")
    assert found["endpoints"].origin == "default"
    page = alone("config").out
    assert all(key in page for key in found)


# --- completion -------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(alone: Cli, shell: str) -> None:
    ended = alone("completion", shell)
    assert ended.status == 0
    assert "_CORRAL_COMPLETE" in ended.out


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_what_completion_says_keeps_it_for_one_who_never_did(alone: Cli, shell: str) -> None:
    ended = alone("completion", shell)
    command = ended.err.removeprefix("To keep it: ").strip()
    path = f"{BIN}:{os.environ['PATH']}"
    home = alone.folder / "home"
    subprocess.run(["bash", "-c", command], env={"HOME": str(home), "PATH": path}, check=True)
    (kept,) = (file for file in home.rglob("*") if file.is_file())
    assert kept.read_text() == ended.out


def test_the_bash_script_is_sound(alone: Cli) -> None:
    script = alone("completion", "bash").out
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def complete(corral: Cli, *words: str) -> list[str]:
    """What bash would offer after these words, the last of which is begun."""
    ended = corral(
        _CORRAL_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(["corral", *words]),
        COMP_CWORD=str(len(words)),
    )
    return [line.partition(",")[2] for line in ended.out.splitlines()]


def test_completion_knows_commands_and_live_names(corral: Cli) -> None:
    assert corral("task", "submit", "echo", "--id", "complete-me").status == 0
    assert complete(corral, "task", "sub") == ["submit"]
    assert complete(corral, "task", "show", "compl") == ["complete-me"]
    assert complete(corral, "worker", "drain", "w") == ["w1", "w2"]
    assert complete(corral, "pipeline", "run", "d") == ["demo"]
    assert "echo" in complete(corral, "task", "submit", "ec")


def test_completion_without_a_broker_is_quiet(alone: Cli) -> None:
    began = time.monotonic()
    ended = alone(
        _CORRAL_COMPLETE="bash_complete",
        COMP_WORDS="corral task show x",
        COMP_CWORD="3",
        CORRAL_BROKER=free_endpoint(),
    )
    assert (ended.out.strip(), ended.err) == ("", "")
    assert time.monotonic() - began < 5
