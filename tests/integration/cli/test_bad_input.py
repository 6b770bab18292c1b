"""What is wrong is named, with its cure and exit status, and costs nothing that was accepted."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from corral.messages import TaskView
from tests.integration.cli.conftest import BIN, PATIENCE, Cli, Ended, free_endpoint


def refused(ended: Ended, status: int, *words: str) -> None:
    """It printed no data, one error that holds `words`, and something to do next."""
    assert ended.status == status, ended
    assert ended.out == ""
    first, *rest = ended.err.splitlines()
    assert first.startswith("error: ")
    for word in words:
        assert word in ended.err
    assert "".join(rest).strip(), "it names no cure"
    assert "Traceback" not in ended.err


def tasks(corral: Cli) -> int:
    return len(corral("task", "list", "--all", "-o", "json").json(list[TaskView]))


def test_a_kind_that_nobody_announced(corral: Cli) -> None:
    refused(corral("task", "submit", "dance"), 2, "dance", "echo", "Start a worker")


def test_params_that_do_not_fit_name_the_path(corral: Cli) -> None:
    refused(corral("task", "submit", "sleep", "seconds=long"), 2, "sleep", "seconds", "long")
    refused(corral("task", "submit", "sleep", "minutes=1"), 2, "minutes")
    refused(corral("task", "submit", "fail", "error.name=x"), 2, "error")


def test_a_parent_that_is_not_there(corral: Cli) -> None:
    refused(corral("task", "submit", "echo", "--after", "nobody"), 3, "nobody", "corral task list")


def test_an_id_that_has_other_content(corral: Cli) -> None:
    assert corral("task", "submit", "echo", "a=1", "--id", "taken").status == 0
    ended = corral("task", "submit", "echo", "a=2", "--id", "taken")
    refused(ended, 2, "taken", "corral task show taken")
    kept = corral("task", "result", "taken").json()
    assert kept == {"a": 1}


#: lines of a file, and what the error names. What needs no broker is in tests/unit/cli.
BAD_FILES = [
    (['{"kind": "echo"}', '{"kind": "echo", "prio": 1}'], ["tasks.jsonl:2", "prio"]),
    (['{"kind": "echo", "needs": [{"cpus": -1}]}'], ["tasks.jsonl:1", "cpus"]),
    (['{"kind": "echo"}', '{"kind": "sleep", "params": {"seconds": "x"}}'],
     ["tasks.jsonl:2", "seconds"]),
    (['{"kind": "echo"}', '{"kind": "dance"}'], ["tasks.jsonl:2", "dance"]),
    (['{"kind": "echo", "after": {"a": "nobody"}}'], ["tasks.jsonl:1", "nobody"]),
    (['{"kind": "echo", "after": {"a": "#7"}}'], ["tasks.jsonl:1", "#7"]),
    (["", '{"kind": "echo", "after": {"a": "#1"}}', '{"kind": "echo", "after": {"a": "#0"}}'],
     ["circle", "line 2", "line 3"]),
    (['{"kind": "echo", "id": "x"}', '{"kind": "echo", "id": "x", "params": {"a": 1}}'],
     ["tasks.jsonl:2", "x"]),
]  # fmt: skip


def test_a_bad_file_names_the_line_and_stores_nothing(corral: Cli) -> None:
    before = tasks(corral)
    for lines, words in BAD_FILES:
        (corral.folder / "tasks.jsonl").write_text("\n".join(lines))
        refused(corral("task", "submit", "--file", "tasks.jsonl"), 2, *words)
    assert tasks(corral) == before


def test_a_payload_that_is_too_large(corral: Cli) -> None:
    big = json.dumps({"kind": "echo", "params": {"data": "x" * (17 << 20)}})
    refused(corral("task", "submit", "--file", "-", input=big), 2, "bytes", "limit")
    assert corral("task", "submit", "echo", "after=it", "--wait").status == 0


@pytest.mark.parametrize(
    "bad", ["localhost", "tcp://", "http://127.0.0.1:5555", "tcp://host:99999"]
)
def test_an_endpoint_that_is_none(alone: Cli, bad: str) -> None:
    refused(alone("task", "list", "--broker", bad), 2, bad, "tcp://HOST:PORT")
    refused(alone("task", "list", CORRAL_BROKER=bad), 2, bad, "CORRAL_BROKER")


def test_nobody_at_the_endpoint_is_waited_for_at_rest(alone: Cli) -> None:
    endpoint = free_endpoint()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = alone("task", "list", CORRAL_BROKER=endpoint, CORRAL_TIMEOUT="3s")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    refused(ended, 5, endpoint, "corral up")
    assert after.ru_utime - before.ru_utime < 1.5  # s of CPU, of which the start takes 0.2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("corral.yaml", "timeout: 3s\nslots: 2\n", ["corral.yaml:2", "slots"]),
        ("corral.yaml", "worker:\n  slots: many\n", ["corral.yaml:2", "worker.slots"]),
        ("corral.yaml", "broker: [1, 2\n", ["corral.yaml:"]),
        ("corral.yaml", f"broker: {'[' * 3000}\n", ["corral.yaml", "nested"]),
        ("corral.toml", "[worker]\n\nslots = 'many'\n", ["corral.toml:3", "worker.slots"]),
    ],
)
def test_a_bad_configuration_names_line_and_key(
    alone: Cli, name: str, text: str, words: list[str]
) -> None:
    (alone.folder / name).write_text(text)
    refused(alone("config"), 2, *words)


def test_no_command_works_with_a_bad_configuration(alone: Cli) -> None:
    (alone.folder / "corral.yaml").write_text("slots: 2\n")
    for command in (["task", "list"], ["pipeline", "submit", "demo"], ["doctor"]):
        refused(alone(*command), 2, "corral.yaml:1", "slots")
    for command in (["worker", "start"], ["broker", "start", "--data", "x"]):
        ended = alone(*command)
        assert ended.status == 2
        assert "corral.yaml:1" in ended.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: mine\nsymbols: [AAPL, TSLA]\n", ["bad.yaml, line 2", "symbols", "TSLA"]),
        ("name: mine\nsymbol: [AAPL]\n", ["bad.yaml, line 2", "symbol"]),
        ("name: [\n", ["bad.yaml, line "]),
    ],
)
def test_a_bad_pipeline_names_line_and_key(alone: Cli, text: str, words: list[str]) -> None:
    (alone.folder / "bad.yaml").write_text(text)
    for command in (["show"], ["run", "--local"]):
        refused(alone("pipeline", command[0], "bad.yaml", *command[1:]), 2, *words)
    assert not (alone.folder / ".corral").exists()


def test_a_pipeline_that_is_not_there(alone: Cli) -> None:
    refused(alone("pipeline", "show", "nothing.yaml"), 3, "nothing.yaml", "demo")


def test_a_kind_whose_extra_is_missing_names_the_command(corral: Cli) -> None:
    ended = corral("task", "submit", "lacks_extra")
    assert ended.status == 6
    assert "pip install 'corral-test-handlers[moon]'" in ended.err
    explained = corral("task", "explain", ended.out.strip())
    assert "pip install 'corral-test-handlers[moon]'" in explained.out
    assert corral("task", "cancel", ended.out.strip()).status == 0


HUGE = "9" * 30
NO_TEXT = "\udcff"  # the byte 0xff, as Python has it from the command line


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["task", "submit", "echo", "--priority", HUGE], 2, "priority"),
        (["task", "submit", "echo", "--gpus", HUGE], 2, "needs"),
        (["task", "submit", "echo", "--id", "last"], 2, "the newest task"),
        (["task", "logs", "there", "--attempt", HUGE], 2, "cannot be sent"),
        (["task", "logs", "there", "--attempt", "9"], 3, "corral task show there"),
        (["task", "show", NO_TEXT], 2, "cannot be sent"),
        (["task", "list", "--kind", NO_TEXT], 2, "cannot be sent"),
        (["task", "cancel", "there", "--reason", NO_TEXT], 2, "cannot be sent"),
        (["task", "list", "--broker", f"tcp://{NO_TEXT}:1"], 2, "tcp://HOST:PORT"),
        (["worker", "stop", "--data", "a-file"], 3, "a-file"),
        (["keys", "new", "--keys", "a-file/keys"], 2, "a-file/keys"),
        (["keys", "new", "--keys", "keys", "--name", "a/../b"], 2, "--out"),
    ],
)
def test_what_makes_no_sense_is_named(
    corral: Cli, arguments: list[str], status: int, word: str
) -> None:
    (corral.folder / "a-file").touch()
    assert corral("task", "submit", "echo", "--id", "there", "--wait").status == 0
    refused(corral(*arguments), status, word)


def test_no_time_is_enough_for_what_is_done(corral: Cli) -> None:
    assert corral("task", "submit", "echo", "--id", "there", "--wait").status == 0
    assert corral("task", "result", "there", "--timeout", "0").json() == {}


# --- where the output goes --------------------------------------------------------------


def into(corral: Cli, stdout: int, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a command whose stdout is this file."""
    done = subprocess.run(
        [BIN / "corral", *arguments],
        env=corral.variables, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=PATIENCE,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "name"])
def test_a_reader_that_has_gone_is_no_failure(corral: Cli, format: str) -> None:
    assert corral("task", "submit", "echo", "--wait").status == 0
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert into(corral, writing, "task", "list", "-o", format) == (141, "")  # as SIGPIPE
        assert into(corral, writing, "task", "watch", "last", "-o", format) == (141, "")
    finally:
        os.close(writing)


def test_output_that_cannot_be_written_is_named(corral: Cli) -> None:
    assert corral("task", "submit", "echo", "--wait").status == 0
    with Path("/dev/full").open("wb") as full:
        for format in ("table", "json"):
            status, err = into(corral, full.fileno(), "task", "list", "-o", format)
            assert status == 1
            assert err.startswith("error: the output cannot be written: No space left on device\n")
            assert "Traceback" not in err


def test_output_may_be_closed(corral: Cli) -> None:
    for redirection in (">&-", ">&- 2>&-"):
        shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", BIN / "corral", "task", "list"]
        done = subprocess.run(
            shell, env=corral.variables, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_command_is_usage(alone: Cli) -> None:
    for command in (["dance"], ["task", "dance"], ["task", "list", "--dance"], ["worker", "stop"]):
        ended = alone(*command)
        assert (ended.status, ended.out) == (2, "")
        assert "--help" in ended.err
    assert "Did you mean 'task'?" in alone("tsak").err
    assert "Did you mean 'submit'?" in alone("task", "submti").err
