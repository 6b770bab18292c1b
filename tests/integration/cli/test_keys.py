"""`corral keys`: from an empty folder to a broker with roles, and to access taken away."""

from __future__ import annotations

import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from corral import keys
from corral.messages import KeyView
from tests.integration.cli.conftest import Cli, Started, free_endpoint


class Locked(NamedTuple):
    """A broker that wants keys."""

    cli: Cli  # with the operator's key
    folder: Path
    broker: Started


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    plain = Cli(folder)
    made = plain("keys", "new", "--keys", "keys")
    assert (made.status, made.out) == (0, "keys/operator.key\n")
    endpoint = free_endpoint()
    broker = plain.start("broker", "start", "--data", "store", "--bind", endpoint, "--keys", "keys")
    try:
        broker.until(lambda: "serving" in broker.err)
        operator = folder / "keys" / "operator.key"
        yield Locked(Cli(folder, CORRAL_BROKER=endpoint, CORRAL_KEY=str(operator)), folder, broker)
    finally:
        ended = broker.end(signal.SIGTERM)
    assert ended.status == 0, ended


def test_the_first_key_is_the_operators_and_files_are_private(locked: Locked) -> None:
    folder = locked.folder / "keys"
    assert {path.name for path in folder.iterdir()} == {
        "broker.key", "authorized.json", "operator.key",
    }  # fmt: skip
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.read(folder / "operator.key").role == "operator"


def test_keys_before_the_first_start(alone: Cli) -> None:
    assert alone("keys", "new", "--keys", "k").status == 0
    made = alone("keys", "new", "--keys", "k", "--role", "worker", "--name", "w1")
    assert (made.status, made.out) == (0, "k/w1.key\n")
    assert [key.role for key in keys.table(alone.folder / "k")] == ["operator", "worker"]
    nameless = alone("keys", "new", "--keys", "k")
    assert nameless.status == 2
    assert "--role" in nameless.err
    taken = alone("keys", "new", "--keys", "k", "--role", "client", "--name", "w1")
    assert taken.status == 2
    assert "w1" in taken.err
    assert len(keys.table(alone.folder / "k")) == 2


def test_a_key_that_is_made_where_it_is_used(locked: Locked) -> None:
    broker_key = keys.broker_pair(locked.folder / "keys").public
    alone = Cli(locked.folder)
    made = alone("keys", "new", "--role", "viewer", "--name", "far", f"--broker-key={broker_key}")
    assert (made.status, made.out) == (0, "far.key\n")
    file = keys.read(locked.folder / "far.key")
    assert file.secret not in made.err
    assert f"corral keys add '{file.public}'" in made.err
    far = Cli(
        locked.folder, CORRAL_BROKER=locked.cli.variables["CORRAL_BROKER"], CORRAL_KEY="far.key"
    )
    assert far("task", "list").status == 4  # nobody knows it yet
    added = locked.cli("keys", "add", "--role", "viewer", "--name", "far", "--", file.public)
    assert added.status == 0, added
    assert far("task", "list").status == 0
    wrong = alone("keys", "new", "--role", "viewer", "--name", "no", "--broker-key=short")
    assert wrong.status == 2
    assert "40 characters" in wrong.err
    assert not (locked.folder / "no.key").exists()


def test_a_broker_without_keys_says_how_to_get_some(corral: Cli) -> None:
    refused = corral("keys", "list")
    assert refused.status == 2
    assert "without --keys" in refused.err
    assert "corral keys new --keys DIR" in refused.err


def test_new_list_and_revoke_on_a_running_broker(locked: Locked) -> None:
    cli = locked.cli
    made = cli("keys", "new", "--role", "viewer", "--name", "ann", "--out", "ann.key")
    assert (made.status, made.out) == (0, "ann.key\n")
    secret = keys.read(locked.folder / "ann.key").secret
    assert secret not in made.err
    listed = cli("keys", "list", "-o", "json").json(list[KeyView])
    assert {key.name: key.role for key in listed}["ann"] == "viewer"
    assert cli("task", "list", CORRAL_KEY="ann.key").status == 0
    forbidden = cli("task", "submit", "echo", CORRAL_KEY="ann.key")
    assert forbidden.status == 4
    assert "viewer" in forbidden.err
    revoked = cli("keys", "revoke", "ann", "-o", "json").json(list[KeyView])
    assert revoked[0].revoked is not None
    refused = cli("task", "list", CORRAL_KEY="ann.key")
    assert refused.status == 4
    assert "revoked" in refused.err
    assert cli("keys", "revoke", "ann").status == 3
    assert cli("keys", "revoke", "operator").status == 2  # nobody could give access again


def test_add_lets_a_key_in_that_was_made_elsewhere(locked: Locked) -> None:
    made = keys.new_key("bob", "client", keys.broker_pair(locked.folder / "keys").public)
    keys.write(locked.folder / "bob.key", made)
    assert locked.cli("task", "list", CORRAL_KEY="bob.key").status == 4
    added = locked.cli("keys", "add", made.public, "--role", "client", "--name", "bob")
    assert added.status == 0
    assert made.public in added.out
    assert locked.cli("task", "list", CORRAL_KEY="bob.key").status == 0
    wrong = locked.cli("keys", "add", "not-a-key", "--role", "client", "--name", "eve")
    assert wrong.status == 2


def test_a_worker_joins_with_its_own_key_alone(
    locked: Locked, started: Callable[[Started], Started]
) -> None:
    cli = locked.cli
    assert cli("keys", "new", "--role", "worker", "--name", "w1", "--out", "w1.key").status == 0
    start = ("worker", "start", "--data")
    other = started(cli.start(*start, "o", "--name", "other", "--key", "keys/operator.key"))
    worker = started(cli.start(*start, "w", "--name", "w1", "--key", "w1.key"))
    worker.until(lambda: "welcomed" in worker.err)
    other.until(lambda: "worker other" in other.err)
    assert cli("worker", "list", "-o", "name").out.split() == ["w1"]
    assert cli("task", "submit", "echo", "a=1", "--wait").json() == {"a": 1}
    assert cli("task", "list", CORRAL_KEY="w1.key").status == 4  # it may work and nothing else
    assert worker.end(signal.SIGTERM).status == 0
    assert "welcomed" not in other.end(signal.SIGTERM).err


def test_no_key_no_access(locked: Locked) -> None:
    without = locked.cli("task", "list", CORRAL_KEY="", CORRAL_TIMEOUT="2s")
    assert without.status == 4
    assert "--key" in without.err
    missing = locked.cli("task", "list", CORRAL_KEY="nowhere.key")
    assert missing.status == 2
    assert "nowhere.key" in missing.err
    (locked.folder / "loose.key").write_text("{}")
    (locked.folder / "loose.key").chmod(0o644)
    loose = locked.cli("task", "list", CORRAL_KEY="loose.key")
    assert loose.status == 2
    assert "600" in loose.err


def test_a_broker_without_keys_says_so(alone: Cli) -> None:
    without = alone("keys", "new", "--role", "client", "--name", "ann")
    assert without.status == 2
    assert "--key" in without.err
