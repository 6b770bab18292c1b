"""A real disk that is full, or read-only: new work is refused, nothing is lost, results land.

The stories run on a small tmpfs (see `small_disk`); the tests only start them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from broker.store.sqlite import SqliteStore
from corral.errors import StoreFull, StoreRefused
from tests.unit.store.conformance import done, row
from tests.unit.store.small_disk import mount, on_small_disk

MIB = 1 << 20
ENTRY = 50_000  # bytes of new work in one turn


def opened(disk: Path) -> SqliteStore:
    store = SqliteStore(disk / "data", reserve=10 * MIB, low=2 * MIB, wal_bytes=MIB)
    store.lead("me")
    return store


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(path: Path, leave: int) -> None:
    """Another program's file takes all but `leave` bytes."""
    with path.open("ab", buffering=0) as file:
        while (room := free(path.parent) - leave) > 0:
            file.write(bytes(min(room, MIB)))


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(StoreFull) as refusal:
        yield
    assert "Free space" in refusal.value.cure


def grow_until_full(disk: Path) -> None:
    store = opened(disk)
    digest = store.blob_put(b"an early result" * 1_000)
    entries = []
    while not store.full:  # as long as new work is welcome
        entry = os.urandom(ENTRY)
        with suppress(StoreFull):
            store.append(store.epoch, entry)
            entries.append(entry)
    assert len(entries) * ENTRY > 15 * MIB
    # What was accepted is there, and results still land: the reserve was given up for them.
    assert [entry for _, entry in store.read(0)] == entries
    for number in range(500):
        result = b"result %d" % number * 200
        assert store.append(store.epoch, result) == len(entries) + 1
        entries.append(result)
    store.renew()
    assert store.full
    # The next leader starts on the full disk.
    store.close()
    store = opened(disk)
    assert store.full
    assert [entry for _, entry in store.read(0)] == entries
    assert store.blob_get(digest) == b"an early result" * 1_000
    # Folding makes room within the database, so new work is welcome again.
    store.fold(store.epoch, [row("a")], state=b"document", trim_to=len(entries))
    store.renew()
    assert not store.full
    store.append(store.epoch, os.urandom(ENTRY))
    store.close()


def be_filled_by_others(disk: Path) -> None:
    store = opened(disk)
    store.append(store.epoch, b"before")
    fill(disk / "theirs", leave=0)
    # The room of the log lasts a while; then the first write is refused, without a trace.
    known = [(1, b"before")]
    with refused():
        while True:
            entry = os.urandom(ENTRY)
            known.append((store.append(store.epoch, entry), entry))
    assert list(store.read(0)) == known
    with refused():
        while True:
            store.blob_put(os.urandom(MIB))
    assert not list((disk / "data" / "blobs").glob("*.new"))
    # Reserve gone too: what cannot be written is refused, again and again, and nothing breaks.
    fill(disk / "theirs", leave=0)
    for _ in range(3):
        with refused():
            store.append(store.epoch, bytes(3 * MIB))
        with refused():
            store.fold(store.epoch, [row("a", record=bytes(3 * MIB))], ["b"], b"s", 1)
    assert list(store.read(0)) == known
    assert store.find(["a"]) == {}
    store.renew()
    assert store.full
    # Their file goes: the store takes work again by itself, and holds its reserve.
    (disk / "theirs").unlink()
    store.renew()
    assert not store.full
    assert (disk / "data" / "reserve").stat().st_size == 10 * MIB
    store.fold(store.epoch, [done("a", 1.0, record=bytes(3 * MIB))], trim_to=len(known))
    assert store.append(store.epoch, b"after") == len(known) + 1
    store.close()


def have_room_in_the_database_alone(disk: Path) -> None:
    store = opened(disk)
    for _ in range(400):
        last = store.append(store.epoch, os.urandom(ENTRY))
    store.fold(store.epoch, trim_to=last)  # 20 MB of free pages
    fill(disk / "theirs", leave=0)
    store.renew()
    assert not store.full  # new work goes into these pages
    with refused():
        while True:
            store.blob_put(os.urandom(MIB))
    fill(disk / "theirs", leave=0)
    store.renew()
    assert store.full  # but large results do not, so there shall be none of it
    (disk / "theirs").unlink()
    store.renew()
    assert not store.full
    store.close()


def warn_before_it_is_full(disk: Path) -> None:
    store = opened(disk)
    fill(disk / "theirs", leave=3 * MIB)
    store.renew()
    assert not store.full
    fill(disk / "theirs", leave=MIB)
    store.renew()
    assert store.full  # below `low`, though no write has failed yet
    os.truncate(disk / "theirs", os.path.getsize(disk / "theirs") - 2 * MIB)
    store.renew()
    assert store.full  # it takes twice as much to be welcome again
    os.truncate(disk / "theirs", os.path.getsize(disk / "theirs") - 2 * MIB)
    store.renew()
    assert not store.full
    store.close()


def start_on_a_full_disk(disk: Path) -> None:
    store = opened(disk)
    store.append(store.epoch, b"before")
    store.close()
    fill(disk / "theirs", leave=0)
    store = opened(disk)
    assert store.full
    assert list(store.read(0)) == [(1, b"before")]
    store.append(store.epoch, b"a result")
    store.close()


def have_no_room_for_a_new_store(disk: Path) -> None:
    fill(disk / "theirs", leave=0)
    with pytest.raises((StoreFull, StoreRefused), match=r"No space|is full"):
        opened(disk)
    (disk / "theirs").unlink()
    store = opened(disk)
    assert (store.epoch, store.full) == (1, "")
    store.close()


def be_read_only(disk: Path) -> None:
    store = opened(disk)
    store.append(store.epoch, b"before")
    store.close()
    mount(str(disk), "remount,ro")
    with pytest.raises(StoreRefused, match="Read-only file system") as refusal:
        opened(disk)
    assert str(disk / "data") in str(refusal.value)
    with pytest.raises(StoreRefused, match="Read-only file system"):
        SqliteStore(disk / "new").lead("me")
    mount(str(disk), "remount,rw")
    store = opened(disk)
    assert list(store.read(0)) == [(1, b"before")]
    store.close()


@pytest.mark.parametrize(
    "story",
    [
        grow_until_full,
        be_filled_by_others,
        have_room_in_the_database_alone,
        warn_before_it_is_full,
        start_on_a_full_disk,
        have_no_room_for_a_new_store,
        be_read_only,
    ],
    ids=lambda story: story.__name__,
)
def test_a_store_may(story: Callable[[Path], None]) -> None:
    on_small_disk(story, megabytes=48)
