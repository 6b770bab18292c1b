"""The disk fails at any step: what was promised stays, what was refused never comes back.

Each step of a workload fails once, with "no space left" or with an I/O error. The call under way
either returns or raises StoreFull; then the store, and what a kill would leave of it, is as after
the last call that returned, and the next calls succeed.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.store import sqlite
from broker.store.sqlite import SqliteStore
from corral.errors import StoreFull, StoreRefused
from tests.unit.store.binding import SqliteBinding
from tests.unit.store.conformance import done, row
from tests.unit.store.disk import Recorder, Step, Sync, watched

Call = Callable[[SqliteStore], object]

CALLS: list[Call] = [
    lambda store: store.append(store.epoch, b"small"),
    lambda store: store.append(store.epoch, b"large" * 9_000),
    lambda store: store.blob_put(b"result" * 900),
    lambda store: store.fold(store.epoch, [row("a"), done("b", 1.0, record=b"r" * 9_000)]),
    lambda store: store.append(store.epoch, b"more"),
    lambda store: store.fold(store.epoch, [], ["a"], b"document" * 2_000, 2),
    lambda store: store.append(store.epoch, b"last"),
]


def ask(store: SqliteStore) -> object:
    """What it knows. A blob that nobody was told of may be there, but no draft of one."""
    loaded = store.load()
    assert not list((store.path / "blobs").glob("*.new"))
    return list(store.read(0)), loaded.state, loaded.lsn, store.query()


@pytest.fixture(autouse=True)
def _checkpoints_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_CHECKPOINT_PAGES", 8)


class Failing:
    """Lets one step fail, the one after so many others."""

    def __init__(self, error: int, after: int) -> None:
        self.error, self.left = error, after

    def __call__(self, step: Step) -> int:
        self.left -= 1
        return self.error if self.left == -1 else 0


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder in memory, since a test opens hundreds of stores."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def root(shelf: Path) -> Path:
    """The folder that fails."""
    folder = shelf / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(root: Path) -> Iterator[Recorder]:
    with watched(root) as recorder:
        yield recorder


def steps_of(number: int, disk: Recorder, root: Path) -> int:
    """How many steps a call does when none of them fails."""
    store = started(SqliteBinding(root / "count"), number)
    before = len(disk.steps)
    CALLS[number](store)
    after = len(disk.steps)
    store.close()
    return after - before


def started(binding: SqliteBinding, number: int) -> SqliteStore:
    """A store after the first `number` calls."""
    store = binding.store()
    store.lead("me")
    for call in CALLS[:number]:
        call(store)
    return store


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("number", range(len(CALLS)))
def test_a_failed_call_changed_nothing_and_never_will(
    number: int, error: int, disk: Recorder, root: Path, shelf: Path
) -> None:
    refusals = 0
    for after in range(steps_of(number, disk, root)):
        binding = SqliteBinding(root / f"data{after}")
        store = started(binding, number)
        before = ask(store)
        disk.fault = Failing(error, after)
        try:
            CALLS[number](store)
        except StoreFull:
            refusals += 1
            assert store.full
            assert ask(store) == before
        else:
            before = ask(store)  # a checkpoint failed, which is no failure of the call
        disk.fault = lambda step: 0
        left = shelf / f"left{after}"
        shutil.copytree(binding.folder, left)
        heir = binding.at(left)
        heir.lead("heir")
        assert ask(heir) == before
        for survivor in (store, heir):
            for call in CALLS[number:]:
                call(survivor)
            survivor.renew()
            assert not survivor.full
            survivor.close()
    assert refusals > 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_disk_that_stays_broken_is_readable_and_then_mends(
    error: int, disk: Recorder, root: Path
) -> None:
    store = started(SqliteBinding(root / "data"), len(CALLS))
    before = ask(store)
    disk.fault = lambda step: error
    for call in CALLS:
        with pytest.raises(StoreFull):
            call(store)
        assert ask(store) == before
    disk.fault = lambda step: 0
    for call in CALLS:
        call(store)
    assert [lsn for lsn, _ in store.read(0)] == [3, 4, 5, 6, 7, 8]
    store.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_failed_start_leaves_what_the_next_one_needs(
    error: int, disk: Recorder, root: Path
) -> None:
    binding = SqliteBinding(root / "data")
    failures = 0
    while True:
        disk.fault = Failing(error, failures)
        try:
            store = binding.store()
            store.lead("me")
        except (StoreRefused, StoreFull):
            failures += 1
        else:
            break
    disk.fault = lambda step: 0
    assert failures > 20
    for call in CALLS:
        call(store)
    store.close()


def test_an_fsync_that_fails_refuses_the_append(disk: Recorder, root: Path) -> None:
    store = started(SqliteBinding(root / "data"), 1)
    disk.fault = lambda step: errno.EIO if isinstance(step, Sync) else 0
    with pytest.raises(StoreFull, match="cannot be written"):
        store.append(store.epoch, b"refused")
    disk.fault = lambda step: 0
    assert store.append(store.epoch, b"accepted") == 2
    assert list(store.read(0)) == [(1, b"small"), (2, b"accepted")]
    store.close()
