"""The module `keys` with a real broker that wants keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corral import keys
from corral.client import Client
from tests.fleet.collection.operator import Answer, Operator, without_lab
from tests.support.daemon import BrokerDaemon

ONE, TWO, NEW = (keys.new_pair().public for _ in range(3))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerDaemon]:
    """A broker with an operator's key beside it."""
    folder = tmp_path / "keys"
    folder.mkdir()
    keys.write(tmp_path / "operator.key", keys.enrol(folder, "ann", "operator", 0.0))
    with BrokerDaemon(tmp_path / "broker", options=("--keys", folder)) as daemon:
        yield daemon


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return without_lab(tmp_path / "operator")


def let_in(operator: Operator, broker: BrokerDaemon, wanted: dict[str, str], *flags: str) -> Answer:
    given = {"broker": [broker.endpoint], "key": str(broker.data.with_name("operator.key"))}
    return operator.module("keys", {"keys": wanted, "role": "worker", **given}, *flags)


def known(broker: BrokerDaemon) -> dict[str, str]:
    """Names of workers and their keys, of those that have access."""
    with Client(broker.endpoint, key=str(broker.data.with_name("operator.key"))) as client:
        listed = client.keys()
    held = [one for one in listed if one.role == "worker" and one.revoked is None]
    assert len(held) == len({one.name for one in held})
    return {one.name: one.public for one in held}


def test_names_get_their_keys_and_the_second_time_nothing_changes(
    operator: Operator, broker: BrokerDaemon
) -> None:
    wanted = {"worker-1": ONE, "worker-2": TWO}
    planned = let_in(operator, broker, wanted, "--check", "--diff")
    assert planned.changed
    assert f"+worker-1 {ONE}" in planned.shown
    assert known(broker) == {}

    first = let_in(operator, broker, wanted)
    assert first["added"] == ["worker-1", "worker-2"]
    assert known(broker) == wanted

    again = let_in(operator, broker, wanted)
    assert not again.changed
    assert (again["added"], again["revoked"]) == ([], [])


def test_a_name_with_a_new_key_loses_the_old_one_and_nobody_else_does(
    operator: Operator, broker: BrokerDaemon
) -> None:
    let_in(operator, broker, {"worker-1": ONE, "worker-2": TWO})
    made_anew = let_in(operator, broker, {"worker-1": NEW})
    assert (made_anew["added"], made_anew["revoked"]) == (["worker-1"], [ONE])
    assert known(broker) == {"worker-1": NEW, "worker-2": TWO}

    # A machine that is back with the key that it had is let in again.
    assert let_in(operator, broker, {"worker-1": ONE})["revoked"] == [NEW]
    assert known(broker) == {"worker-1": ONE, "worker-2": TWO}


def test_what_cannot_be_is_refused_with_its_cure(operator: Operator, broker: BrokerDaemon) -> None:
    assert "no public key: 40 characters of Z85" in let_in(operator, broker, {"w": "short"}).message
    # A worker's name that is an operator's takes no access from the operator.
    assert "another key has the name ann" in let_in(operator, broker, {"ann": ONE}).message
    assert known(broker) == {}
    broker.stop()
    unreached = let_in(operator, broker, {"worker-1": ONE})
    assert broker.endpoint in unreached.message
