"""Tasks that ended long ago: read from the store while they are there, then said to be gone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from corral import Client
from corral.errors import NotFound
from tests.integration.cli.conftest import Cli, Started, free_endpoint

Keep = Callable[[Started], Started]
COMMANDS = ("result", "watch", "explain")


def begin(cli: Cli, started: Keep, **broker: float) -> Started:
    """`corral up` in the test's folder, with these settings of the broker."""
    (cli.folder / "corral.yaml").write_text(f"broker: {broker}\n")
    up = started(cli.start("up", "--bind", cli.variables["CORRAL_BROKER"], "--workers", "1"))
    up.until(lambda: "corral task submit" in up.err)
    return up


def counted(cli: Cli) -> int:
    """How many tasks have succeeded, as the broker counts them."""
    count: int = cli("broker", "status", "-o", "json").json()["tasks"]["succeeded"]
    return count


@pytest.fixture
def cli(alone: Cli) -> Cli:
    return Cli(alone.folder, CORRAL_BROKER=free_endpoint())


def test_a_task_is_read_from_the_store_until_its_retention_ends(cli: Cli, started: Keep) -> None:
    up = begin(cli, started)
    assert cli("task", "submit", "echo", "a=1", "--id", "old", "--wait").status == 0
    assert counted(cli) == 1
    assert up.end().status == 0

    up = begin(cli, started)  # what has ended is not loaded again
    assert counted(cli) == 1
    assert cli("task", "result", "old").json() == {"a": 1}
    assert "✔ succeeded" in cli("task", "watch", "old").out
    assert counted(cli) == 1
    assert up.end().status == 0

    up = begin(cli, started, retention=0.5)
    up.until(lambda: cli("task", "result", "old").status == 3)
    assert counted(cli) == 0
    for command in COMMANDS:
        ended = cli("task", command, "old")
        assert (ended.status, ended.out) == (3, ""), ended
        what, cure = ended.err.splitlines()
        assert what == "error: There is no task old."
        assert re.search("corral task list.* ended more than 0.5 s ago.*`broker.retention`", cure)
    with Client(cli.variables["CORRAL_BROKER"]) as client:
        with pytest.raises(NotFound) as caught:
            client.handle("old").result(timeout=30)
        assert "broker.retention" in caught.value.cure
    again = cli("task", "submit", "echo", "a=2", "--id", "old", "--wait")  # the id is free
    assert again.json() == {"a": 2}
