"""Tokens and paces: who is known, and how often they may ask."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from corral import tokens
from corral.errors import BadConfig, Usage
from corral.gateway.door import BUCKETS, BURST, Pace, Tokens


def test_a_token_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = tokens.new(path, "ann", "viewer", 1.0)
    other = tokens.new(path, "bob", "operator", 2.0)
    assert token != other
    assert token.startswith(tokens.PREFIX)
    assert len(token) > 40
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    table = Tokens(path)
    found = table.get(token)
    assert found is not None
    assert (found.name, found.role) == ("ann", "viewer")
    assert table.get(token + "x") is None
    assert table.get("") is None


def test_a_revoked_token_stays_in_the_list(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = tokens.new(path, "ann", "viewer", 1.0)
    tokens.revoke(path, "ann", 2.0)
    again = tokens.new(path, "ann", "client", 3.0)
    table = Tokens(path)
    assert table.get(token) is None
    assert table.get(again) is not None
    assert [one.revoked for one in tokens.table(path)] == [2.0, None]


@pytest.mark.parametrize(
    ("name", "role"), [("ann", "viewer"), ("a b", "viewer"), ("", "viewer"), ("bob", "worker")]
)
def test_names_and_roles_that_cannot_be(tmp_path: Path, name: str, role: str) -> None:
    path = tmp_path / "tokens.json"
    tokens.new(path, "ann", "viewer", 1.0)
    with pytest.raises(Usage):
        tokens.new(path, name, role, 2.0)
    with pytest.raises(Usage, match="called nobody"):
        tokens.revoke(path, "nobody", 2.0)


def test_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("[{}]")
    with pytest.raises(BadConfig, match=r"tokens\.json"):
        Tokens(path)


def test_a_table_that_is_damaged_later_lets_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens.json"
    token = tokens.new(path, "ann", "viewer", 1.0)
    table = Tokens(path)
    assert table.get(token) is not None
    path.write_text("damaged")
    os.utime(path, (5, 5))
    late = time.monotonic() + 10
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert table.get(token) is None


def test_roles_are_steps() -> None:
    assert tokens.may("operator", "client")
    assert tokens.may("client", "client")
    assert tokens.may("client", "viewer")
    assert not tokens.may("viewer", "client")


def test_a_pace_lets_a_burst_through_and_then_the_rate() -> None:
    pace = Pace(2.0)
    burst = int(2.0 * BURST)
    assert [pace.wait("ann", 0.0) for _ in range(burst)] == [0.0] * burst
    assert pace.wait("ann", 0.0) == pytest.approx(0.5)
    assert pace.wait("bob", 0.0) == 0.0
    assert pace.wait("ann", 0.5) == 0.0
    assert pace.wait("ann", 0.5) > 0
    assert [pace.wait("ann", 100.0) for _ in range(burst)] == [0.0] * burst
    assert pace.wait("ann", 100.0) > 0


def test_paces_are_bounded() -> None:
    pace = Pace(1.0)
    for number in range(BUCKETS + 100):
        pace.wait(str(number), 0.0)
    assert len(pace._left) == BUCKETS
