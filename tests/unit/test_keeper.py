"""What stays in memory, what leaves it and what is deleted, with a real store underneath."""

from __future__ import annotations

import errno
import gc
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import broker.keeper
from broker.core.facts import Accepted, Aliased, Assigned, Closed, Fact, Moved, Saved
from broker.core.state import TaskRecord
from broker.keeper import FOLD_IDLE, Keeper
from broker.store import Row
from broker.store.fsck import fsck
from broker.store.sqlite import SqliteStore
from corral.messages import Raw
from corral.settings import BrokerSettings
from corral.tasks import Cause, Spec, Variant

PREFIX = b"t" * 13
NOTHING = Raw(b"\x80")


class Shelf:
    """A keeper, its state and its store; time passes when the test says so."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = BrokerSettings(**settings)
        self.now = 1_000_000.0
        self.made = 0
        self.tokens: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        self.store = SqliteStore(self.folder, reserve=1 << 16, low=1 << 16)
        self.store.lead("test")
        self.keeper = Keeper(self.store, self.settings)
        self.state = self.keeper.load()
        self.state.check()

    def dies(self) -> None:
        """As `kill -9` leaves it: nothing is folded that was not."""
        self.store.close()
        self.start()

    def says(self, *facts: Fact) -> None:
        for fact in facts:
            self.state.apply(fact)
        self.keeper.append(list(facts), self.now)

    def accepts(self, id: str, *parents: str, params: Raw = NOTHING) -> None:
        waiting = any(p in self.state.tasks and self.state.tasks[p].live for p in parents)
        spec = Spec("echo", params, {p: p for p in parents})
        self.says(Accepted(self.now, id, spec, waiting=waiting))

    def assigns(self, id: str) -> None:
        self.made += 1
        self.tokens[id] = self.made
        self.says(
            Assigned(
                self.now, "w", self.state.booking + 1, 0, Variant(), [], PREFIX, self.made, [id]
            )
        )

    def ends(self, id: str, value: Raw = NOTHING, blob: str = "") -> None:
        token = PREFIX + self.tokens[id].to_bytes(8, "big")
        self.says(Closed(self.now, token, id, Cause.SUCCEED, "ok", value=value, blob=blob))

    def runs(self, id: str, *parents: str, params: Raw = NOTHING, value: Raw = NOTHING) -> None:
        self.accepts(id, *parents, params=params)
        self.assigns(id)
        self.ends(id, value)

    def tends(self, calls: int = 1000) -> int:
        """Do all that is due; how many calls it took."""
        for call in range(calls):
            if not self.keeper.tend(self.state, self.now):
                self.state.check()
                return call
        raise AssertionError(f"after {calls} calls more is still due")

    def idles(self) -> None:
        self.now += FOLD_IDLE + 1
        self.tends()

    def knows(self, id: str) -> bool:
        """Whether the task is in memory or can be taken back."""
        self.keeper.recall(self.state, [id])
        return id in self.state.tasks


@pytest.fixture
def shelves(tmp_path: Path) -> Iterator[Callable[..., Shelf]]:
    made: list[Shelf] = []

    def another(**settings: Any) -> Shelf:
        made.append(Shelf(tmp_path / str(len(made)), **settings))
        return made[-1]

    yield another
    for shelf in made:
        shelf.store.close()


# --- looking for damage -----------------------------------------------------------------


def test_files_that_only_the_journal_names_are_examined(shelves: Callable[..., Shelf]) -> None:
    def findings() -> list[tuple[str, str]]:
        shelf.store.close()
        found = fsck(shelf.folder, lambda store: Keeper(store, shelf.settings).audit())
        return [(finding.part, finding.name) for finding in found]

    shelf = shelves()
    result, checkpoint = shelf.store.blob_put(b"result"), shelf.store.blob_put(b"checkpoint")
    for id in ("ends", "goes on"):
        shelf.accepts(id)
        shelf.assigns(id)
    shelf.ends("ends", blob=result)
    shelf.says(Saved("goes on", checkpoint))
    assert findings() == []
    (shelf.folder / "blobs" / result).write_bytes(b"Result")
    assert findings() == [("blob", result)]
    (shelf.folder / "blobs" / checkpoint).unlink()
    assert findings() == [("blob", result), ("blob", checkpoint)]


@pytest.mark.parametrize("folded", [True, False])
def test_a_file_that_cannot_be_read_is_found_once(
    shelves: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch, folded: bool
) -> None:
    asked = []

    def worn_out(path: Path, offset: int, size: int) -> bytes:
        asked.append(path.name)
        raise OSError(errno.EIO, "Input/output error")

    shelf = shelves()
    result = shelf.store.blob_put(b"result")
    for id in ("one", "two"):
        shelf.accepts(id)
        shelf.assigns(id)
        shelf.ends(id, blob=result)
    if folded:
        shelf.idles()
    shelf.store.close()
    monkeypatch.setattr("broker.store.blobs.files.read", worn_out)
    [finding] = fsck(shelf.folder, lambda store: Keeper(store, shelf.settings).audit())
    assert (finding.part, finding.name) == ("blob", result)
    assert "cannot be read: Input/output error" in finding.why
    assert asked == [result]


# --- retention --------------------------------------------------------------------------


def test_what_ended_during_a_fold_is_deleted_after_the_next(
    shelves: Callable[..., Shelf],
) -> None:
    shelf = shelves(retention=60.0)
    shelf.accepts("x")
    shelf.assigns("x")
    shelf.now += FOLD_IDLE + 1
    assert shelf.keeper.tend(shelf.state, shelf.now)  # a fold begins
    shelf.ends("x")
    shelf.tends()
    for count in range(220):  # busy enough for no other fold, until retention has looked twice
        shelf.now += 3
        shelf.accepts(f"y{count}")
        shelf.tends()
    shelf.dies()
    shelf.idles()
    shelf.now += broker.keeper.RETENTION_EVERY
    shelf.tends()
    assert not shelf.knows("x")
    assert len(shelf.state.tasks) == 220


def test_what_a_fold_that_was_cut_off_had_put_away_is_deleted_after_the_next(
    shelves: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker.keeper, "FOLD_ROWS", 1)
    shelf = shelves(retention=60.0)
    for id in ("x", "y"):
        shelf.accepts(id)
        shelf.assigns(id)
    shelf.idles()
    shelf.ends("x")
    shelf.ends("y")
    shelf.now += FOLD_IDLE + 1
    for _ in range(2):  # a fold begins, and puts one of two away
        assert shelf.keeper.tend(shelf.state, shelf.now)
    shelf.dies()
    shelf.now += 3600.0
    shelf.accepts("z")  # so that the next fold waits, while retention does not
    shelf.tends()
    shelf.dies()
    shelf.idles()
    shelf.now += broker.keeper.RETENTION_EVERY
    shelf.tends()
    assert [shelf.knows(id) for id in "xyz"] == [False, False, True]


@pytest.mark.parametrize("seed", range(12))
def test_no_kill_between_folds_and_deletions_loses_a_task(
    shelves: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(broker.keeper, "FOLD_ROWS", 2)
    monkeypatch.setattr(broker.keeper, "RETENTION_EVERY", 20.0)
    rng = random.Random(seed)
    shelf = shelves(retention=15.0, in_memory=rng.choice([0, 3, 100]))
    ended: dict[str, float] = {}
    live: list[str] = []
    for number in range(300):
        match rng.randrange(8):
            case 0 | 1:
                live.append(f"t{number}")
                shelf.accepts(live[-1])
            case 2 | 3 if live:
                id = rng.choice(live)
                if id not in shelf.tokens:
                    shelf.assigns(id)
                else:
                    shelf.ends(id)
                    live.remove(id)
                    ended[id] = shelf.now
            case 4 | 5:
                shelf.keeper.tend(shelf.state, shelf.now)
            case 6:
                shelf.now += rng.choice([1.0, 7.0, 30.0])
            case 7 if rng.random() < 0.3:
                shelf.dies()
        shelf.state.check()
        assert all(shelf.state.tasks[id].live for id in live)
        kept = [id for id, at in ended.items() if shelf.now - at <= shelf.settings.retention]
        assert all(shelf.knows(id) for id in rng.sample(kept, min(len(kept), 2)))


def test_what_nobody_closed_is_let_go_with_its_task(shelves: Callable[..., Shelf]) -> None:
    shelf = shelves(retention=60.0, in_memory=1)
    shelf.accepts("live")
    for id in "abc":
        shelf.runs(id)
    shelf.says(*(Aliased(f"of {id}", id) for id in ("live", "a", "b", "c")))
    shelf.idles()
    assert len(shelf.state.aliases) == 4
    shelf.now += broker.keeper.RETENTION_EVERY
    shelf.tends()
    assert shelf.state.aliases == {"of live": "live"}
    assert not any(shelf.knows(id) for id in "abc")
    shelf.dies()
    assert shelf.state.aliases == {"of live": "live"}


# --- leaving memory ---------------------------------------------------------------------


def test_tasks_that_titanic_s_clients_never_close_leave_memory_too(
    shelves: Callable[..., Shelf],
) -> None:
    shelf = shelves(in_memory=10)
    for number in range(100):
        shelf.runs(f"t{number}")
        shelf.says(Aliased(f"of t{number}", f"t{number}"))
        shelf.tends()
    assert len(shelf.state.tasks) <= 13
    shelf.dies()
    assert len(shelf.state.tasks) <= 13
    assert len(shelf.state.aliases) == 100
    assert shelf.knows("t0")


def records() -> int:
    """Tasks that anything in this process still holds."""
    gc.collect()
    return sum(type(one) is TaskRecord for one in gc.get_objects())


def test_a_parent_that_stays_does_not_keep_its_ended_children(
    shelves: Callable[..., Shelf],
) -> None:
    before = records()
    shelf = shelves(in_memory=10)
    shelf.runs("parent")
    shelf.accepts("live", "parent")
    shelf.assigns("live")
    for number in range(100):
        shelf.runs(f"c{number}", "parent")
        shelf.idles()
    assert "parent" in shelf.state.tasks
    assert records() - before <= 13
    shelf.ends("live")
    assert shelf.state.forgettable(shelf.state.tasks["parent"])


def test_a_child_that_comes_back_holds_its_parent_again(shelves: Callable[..., Shelf]) -> None:
    shelf = shelves(in_memory=2)
    shelf.runs("parent")
    shelf.accepts("child", "parent")
    shelf.says(Moved(shelf.now, "child", Cause.CANCEL))
    shelf.accepts("live", "parent")
    for id in "ab":
        shelf.runs(id)
    shelf.idles()
    assert "child" not in shelf.state.tasks
    assert shelf.knows("child")
    shelf.says(Moved(shelf.now, "child", Cause.REOPEN))
    shelf.assigns("live")
    shelf.ends("live")
    assert not shelf.state.forgettable(shelf.state.tasks["parent"])
    shelf.assigns("child")
    shelf.ends("child")
    assert shelf.state.forgettable(shelf.state.tasks["parent"])


def test_ended_tasks_that_must_stay_do_not_keep_the_broker_folding(
    shelves: Callable[..., Shelf],
) -> None:
    shelf = shelves(in_memory=10, retention=3600.0)
    shelf.runs("old")
    for number in range(20):
        shelf.runs(f"p{number}")
        shelf.accepts(f"c{number}", f"p{number}")
    assert shelf.tends() < 10
    shelf.now += 3601.0
    shelf.accepts("new")  # so that the journal is not idle
    assert shelf.tends() < 10
    assert not shelf.knows("old")
    for number in range(20):
        shelf.assigns(f"c{number}")
        shelf.ends(f"c{number}")
    shelf.tends()
    assert sum(not task.live for task in shelf.state.tasks.values()) <= 12


LARGE = Raw(msgspec.msgpack.encode("x" * 100_000))


@pytest.mark.parametrize("large", ["params", "value"])
def test_few_ended_tasks_that_carry_much_leave_memory_too(
    shelves: Callable[..., Shelf], large: str
) -> None:
    shelf = shelves(in_memory_bytes=1_000_000)
    for number in range(50):
        shelf.runs(f"t{number}", **{large: LARGE})
        shelf.tends()
    assert 8 <= len(shelf.state.tasks) <= 13
    assert shelf.knows("t0")
    first = shelf.state.tasks["t0"]
    assert {"params": first.spec.params, "value": first.value}[large] == LARGE


def test_much_that_has_to_stay_does_not_keep_the_broker_folding(
    shelves: Callable[..., Shelf],
) -> None:
    shelf = shelves(in_memory_bytes=1_000_000)
    for number in range(30):
        shelf.runs(f"p{number}", value=LARGE)
        shelf.accepts(f"c{number}", f"p{number}")
        assert shelf.tends() < 10
    shelf.dies()
    assert shelf.tends() < 10
    assert len(shelf.state.tasks) == 60


def test_a_new_run_with_other_params_counts_when_it_ends(shelves: Callable[..., Shelf]) -> None:
    shelf = shelves(in_memory_bytes=1_000_000)
    shelf.accepts("x", params=LARGE)
    shelf.says(Moved(shelf.now, "x", Cause.CANCEL))
    shelf.says(Moved(shelf.now, "x", Cause.REOPEN, spec=Spec("echo", NOTHING)))
    shelf.state.check()
    for number in range(20):
        shelf.runs(f"t{number}", value=LARGE)
        shelf.tends()
    assert len(shelf.state.tasks) <= 14


# --- folding ----------------------------------------------------------------------------


def test_a_restart_packs_a_few_large_tasks_at_a_time(
    shelves: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker.keeper, "FOLD_PIECE", 250_000)
    shelf = shelves()
    for number in range(20):
        shelf.accepts(f"t{number}", params=LARGE)
    shelf.accepts("largest", params=Raw(msgspec.msgpack.encode("x" * 400_000)))
    shelf.idles()
    shelf.accepts("last")
    shelf.dies()
    pieces: list[int] = []
    fold = shelf.store.fold

    def record(epoch: int, rows: Sequence[Row] = (), **rest: Any) -> None:
        pieces.append(sum(len(row.record) for row in rows))
        fold(epoch, rows, **rest)

    monkeypatch.setattr(shelf.store, "fold", record)
    shelf.idles()
    assert sum(pieces) > 2_400_000
    assert max(pieces) < 500_000  # one alone, which is larger than a piece
    assert sorted(pieces)[-2] < 300_000
    assert shelf.store.trimmed == shelf.store.last
    shelf.dies()
    assert len(shelf.state.tasks) == 22
    assert shelf.state.tasks["t7"].spec.params == LARGE
