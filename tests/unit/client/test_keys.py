"""Key files: what is written, who may read it, what is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from corral import keys
from corral.errors import BadConfig, Usage
from corral.messages import KeyView


def test_a_key_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    key = keys.new_key("ann", "client", keys.new_pair().public)
    keys.write(tmp_path / "deep" / "ann.key", key)
    assert keys.read(tmp_path / "deep" / "ann.key") == key
    assert (tmp_path / "deep" / "ann.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "deep").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["ann.key"]


def test_a_full_disk_is_told_with_the_file_and_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*ann\.key"):
        keys.write(tmp_path / "ann.key", keys.new_key("ann", "client", keys.new_pair().public))
    assert list(tmp_path.iterdir()) == []


def test_two_keys_are_never_equal() -> None:
    one, other = keys.new_pair(), keys.new_pair()
    assert len({one.public, one.secret, other.public, other.secret}) == 4
    assert all(len(half) == 40 for half in (one.public, one.secret))


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ann.key"
    keys.write(path, keys.new_key("ann", "client", keys.new_pair().public))
    before = path.read_bytes()
    with pytest.raises(Usage, match="never overwritten"):
        keys.write(path, keys.new_key("ann", "client", keys.new_pair().public))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "no key file"), (b'{"name": "ann"}', "role"), (b"\xff\xfe", "no key file")],
)
def test_a_damaged_key_file_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "ann.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadConfig, match=why) as caught:
        keys.read(path)
    assert str(path) in caught.value.message


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ann.key"
    keys.write(path, keys.new_key("ann", "client", keys.new_pair().public))
    path.chmod(0o640)
    with pytest.raises(BadConfig, match="chmod it to 600"):
        keys.read(path)


@pytest.mark.parametrize(("name", "role"), [("ann", "root"), ("a b", "client"), ("", "client")])
def test_roles_and_names_are_checked(name: str, role: str) -> None:
    with pytest.raises(Usage):
        keys.new_key(name, role, "x")


def test_enrolling_makes_the_broker_s_pair_once_and_fills_its_table(tmp_path: Path) -> None:
    ann = keys.enrol(tmp_path, "ann", "operator", now=1.0)
    bob = keys.enrol(tmp_path, "bob", "worker", now=2.0)
    pair = msgspec.json.decode((tmp_path / keys.BROKER_FILE).read_bytes(), type=keys.Pair)
    assert ann.broker == bob.broker == pair.public
    table = msgspec.json.decode((tmp_path / keys.TABLE_FILE).read_bytes(), type=list[KeyView])
    assert [(key.public, key.role, key.name, key.added) for key in table] == [
        (ann.public, "operator", "ann", 1.0),
        (bob.public, "worker", "bob", 2.0),
    ]
    with pytest.raises(Usage, match="named ann is already"):
        keys.enrol(tmp_path, "ann", "client", now=3.0)


def test_no_half_reads_like_an_option_or_a_template() -> None:
    pairs = [keys.new_pair() for _ in range(1_500)]
    assert not any(pair.public.startswith("-") for pair in pairs)
    halves = [half for pair in pairs for half in (pair.public, pair.secret)]
    assert not [half for half in halves if "{{" in half or "{%" in half or "{#" in half]
