"""Power fails while the real store works on the real SQLite: what was promised is there.

`kill -9` proves nothing about fsync, since the page cache survives it. Here a recorded workload is
cut at every step that it did to the disk; what was not synced is lost, kept or torn; the real store
recovers what is left and must find the state after the last call that returned, or, when a call was
under way, the state after that one. Nothing in between. The last tests break the store's promises
on purpose, to show that the others would notice.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from broker.store import Row, files, sqlite
from broker.store.sqlite import SqliteStore
from tests.evidence import LONG, Evidence, Scale
from tests.unit.store.conformance import done, row
from tests.unit.store.disk import EVERYTHING, NOTHING, Cut, Platter, Step, lay_out, watched

#: What becomes of unsynced steps: any part of them, whole or torn at sectors.
PARTS = [
    Cut(keep=0.5),
    Cut(keep=0.4, torn=0.4, sector=512),
    Cut(keep=0.4, torn=0.4, sector=4096),
]
SEED = 20_260_313

# --- what is asked ----------------------------------------------------------------------


class Known(NamedTuple):
    """Everything that a caller can ask a store, but the blobs."""

    journal: tuple[tuple[int, bytes], ...] = ()
    state: bytes = b""
    state_lsn: int = 0
    lsn: int = 0
    last: int = 0
    live: frozenset[Row] = frozenset()
    rows: tuple[Row, ...] = ()


def ask(store: SqliteStore) -> tuple[Known, frozenset[str]]:
    """What the store knows, and its blobs; raises StoreCorrupt if one of these is not whole."""
    loaded = store.load()
    known = Known(
        journal=tuple(store.read(0)),
        state=loaded.state,
        state_lsn=loaded.state_lsn,
        lsn=loaded.lsn,
        last=loaded.last,
        live=frozenset(loaded.rows),
        rows=tuple(store.query(limit=1_000)),
    )
    digests = [path.name for path in (store.path / "blobs").iterdir() if not path.suffix]
    for digest in digests:
        store.blob_get(digest)
    return known, frozenset(digests)


class Mark(NamedTuple):
    """A call returned after so many steps; from now on this is promised."""

    steps: int
    known: Known
    blobs: frozenset[str]
    epoch: int


class Recording(NamedTuple):
    steps: list[Step]
    marks: list[Mark]


# --- workloads --------------------------------------------------------------------------

Workload = Callable[[SqliteStore], Iterator[None]]  #: yields after each call


def appends(store: SqliteStore) -> Iterator[None]:
    """The journal alone, through several checkpoints."""
    for size in [0, 1, 300, 300, 300, 5_000, 300, 30_000, 20, 90_000, *[400] * 12, 9_000, 300]:
        store.append(store.epoch, bytes([size % 251]) * size)
        yield


def folds(store: SqliteStore) -> Iterator[None]:
    """Rows, document and journal change together or not at all."""
    for turn in range(7):
        for _ in range(3):
            store.append(store.epoch, b"turn %d" % turn * 40)
            yield
        store.fold(
            store.epoch,
            [row(f"t{turn}", lsn=store.last), done(f"t{turn - 1}", 1.0, record=b"r" * 9_000)],
            deletes=[f"t{turn - 3}"],
            state=b"document %d" % turn * 900 if turn % 2 else None,
            trim_to=store.last - 1 if turn % 3 else 0,
        )
        yield


def blobs(store: SqliteStore) -> Iterator[None]:
    """Large values: there before anything names them, gone only after nothing does."""
    digests = []
    for turn in range(5):
        digests.append(store.blob_put(b"result %d" % (turn % 4) * 2_000))
        yield
        store.append(store.epoch, digests[-1].encode())
        yield
        store.fold(store.epoch, [done(f"t{turn}", 1.0, blobs=(digests[-1],))])
        yield
        if turn == 3:
            store.fold(store.epoch, deletes=["t0", "t1"])
            yield
            store.sweep([], older_than=-1.0)
            yield


def lives(store: SqliteStore) -> Iterator[None]:
    """Clean ends and new leaders between the calls."""
    for life in range(4):
        store.append(store.epoch, b"life %d" % life * 100)
        yield
        store.fold(store.epoch, [row(f"t{life}")], trim_to=life)
        yield
        store.close()
        yield
        store.lead("next")
        yield


def anything(store: SqliteStore) -> Iterator[None]:
    """Calls as they come."""
    draw = random.Random(SEED)
    for number in range(40):
        match draw.randrange(8):
            case 0:
                rows = [row(f"t{draw.randrange(9)}", lsn=store.last) for _ in range(3)]
                store.fold(store.epoch, rows, state=b"s" * draw.randrange(20_000))
            case 1:
                store.fold(store.epoch, deletes=["t1", "t2"], trim_to=draw.randrange(number + 1))
            case 2:
                store.blob_put(draw.randbytes(draw.randrange(9_000)))
            case 3:
                store.sweep([], older_than=-1.0, limit=1)
            case _:
                store.append(store.epoch, draw.randbytes(draw.randrange(7_000)))
        yield


WORKLOADS: list[Workload] = [appends, folds, blobs, lives, anything]

# --- recording, cutting, recovering -----------------------------------------------------


@pytest.fixture(autouse=True)
def _checkpoints_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_CHECKPOINT_PAGES", 12)


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder in memory: what is recovered there needs no disk of its own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def open_store(disk: Path) -> SqliteStore:
    """The store on a disk; it does not lead yet. Small reserve and log, so that cuts are quick."""
    return SqliteStore(disk / "data", reserve=4_096, low=1, wal_bytes=16_384)


def record(disk: Path, workload: Workload, synchronous: str = "full") -> Recording:
    disk.mkdir()
    marks = [Mark(0, Known(), frozenset(), 0)]
    with watched(disk) as recorder:
        store = open_store(disk)
        store.lead("first")
        store.db.pragma("synchronous", synchronous)
        for _ in chain([None], workload(store)):  # `lead` is a call too
            if store.epoch:
                marks.append(Mark(len(recorder.steps), *ask(store), store.epoch))
            else:  # it was closed, which changes nothing that is known
                marks.append(marks[-1]._replace(steps=len(recorder.steps)))
        store.close()
    return Recording(recorder.steps, marks)


def recover(disk: Path) -> tuple[int, Known, frozenset[str]]:
    """Lead once; end without a goodbye."""
    store = open_store(disk)
    epoch = store.lead("heir")
    known, digests = ask(store)
    left = disk.with_name(f"{disk.name}.left")
    shutil.copytree(disk, left)  # kill -9 leaves what the page cache holds
    store.close()
    shutil.rmtree(disk)
    left.rename(disk)
    return epoch, known, digests


def broken_promise(disk: Path, before: Mark, after: Mark) -> str | None:
    """Recover twice what lies on `disk`. What is not as it was promised; None when all is well."""
    try:
        epoch, known, digests = recover(disk)
        again = recover(disk)
    except Exception as error:  # whatever it is, nobody could start this broker
        return f"cannot be recovered: {error!r}"
    if known not in (before.known, after.known):
        return f"recovered to {_difference(known, before.known)}"
    if again[1:] != (known, digests):
        return "the second recovery finds something else"
    if not before.blobs & after.blobs <= digests:
        return "a blob is lost"
    if not before.epoch < epoch < again[0]:
        return f"epoch {epoch} after {before.epoch}"
    return None


def _difference(found: Known, promised: Known) -> str:
    return "; ".join(
        f"{field}: {str(there)[:80]} instead of {str(wanted)[:80]}"
        for field, there, wanted in zip(Known._fields, found, promised, strict=True)
        if there != wanted
    )


class Campaign:
    """Cuts a recording at many points in many ways, each distinct disk once."""

    def __init__(self, recording: Recording, shelf: Path, draw: random.Random) -> None:
        self.cuts = 0
        self.disks = 0
        self.broken: list[str] = []
        self._recording = recording
        self._shelf = shelf
        self._draw = draw
        self._seen: set[int] = set()

    def run(self, rounds: int = 2) -> Campaign:
        """At every step lose all and parts in many ways; keep all where a call returned."""
        steps, marks = self._recording
        platter = Platter()
        for before, after in pairwise([*marks, marks[-1]._replace(steps=len(steps) + 1)]):
            for at in range(before.steps, after.steps):
                for way in [NOTHING, *rounds * PARTS, *[EVERYTHING] * (at == before.steps)]:
                    self._cut(platter, way, at, before, after)
                if at < len(steps):
                    platter.do(steps[at])
        return self

    def _cut(self, platter: Platter, way: Cut, at: int, before: Mark, after: Mark) -> None:
        found = platter.cut(way, self._draw)
        self.cuts += 1
        state = hash((before.steps, *found.items()))
        if state in self._seen:
            return
        self._seen.add(state)
        self.disks += 1
        disk = self._shelf / "disk"
        lay_out(found, disk)
        if problem := broken_promise(disk, before, after):
            self.broken.append(f"cut before step {at} of {len(self._recording.steps)}: {problem}")
        shutil.rmtree(disk)


# --- the promises -----------------------------------------------------------------------


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.__name__)
def test_every_cut_is_recovered(
    workload: Workload, tmp_path: Path, shelf: Path, scale: Scale, evidence: Evidence
) -> None:
    recording = record(tmp_path / "disk", workload)
    campaign = Campaign(recording, shelf, random.Random(SEED))
    campaign.run(rounds=100 if scale is LONG else 2)
    evidence.record(
        f"power cut during {workload.__name__}",
        steps=len(recording.steps),
        cuts=campaign.cuts,
        distinct_disks=campaign.disks,
        broken_promises=len(campaign.broken),
    )
    assert campaign.broken == []


@pytest.mark.parametrize("workload", [folds, lives], ids=lambda workload: workload.__name__)
def test_a_cut_while_recovering_is_recovered(
    workload: Workload, tmp_path: Path, shelf: Path
) -> None:
    steps, marks = record(tmp_path / "disk", workload)
    draw = random.Random(SEED)
    for number in range(12):
        before, after = draw.choice(list(pairwise(marks)))
        disk = shelf / f"disk{number}"
        lay_out(
            _platter(steps[: draw.randrange(before.steps, after.steps)]).cut(PARTS[0], draw), disk
        )
        with watched(disk) as recorder:
            there = len(recorder.steps)
            heir = open_store(disk)
            heir.lead("heir")
            heir.close()
        assert len(recorder.steps) > there
        for cut in range(there, len(recorder.steps) + 1):
            again = shelf / "again"
            way = draw.choice([NOTHING, EVERYTHING, *PARTS])
            lay_out(_platter(recorder.steps[:cut]).cut(way, draw), again)
            assert broken_promise(again, before, after) is None
            shutil.rmtree(again)


def _platter(steps: list[Step]) -> Platter:
    platter = Platter()
    for step in steps:
        platter.do(step)
    return platter


# --- and what happens to a store that does not keep them --------------------------------


@pytest.mark.parametrize("synchronous", ["off", "normal"])
def test_without_fsync_acknowledged_entries_are_lost(
    synchronous: str, tmp_path: Path, shelf: Path
) -> None:
    recording = record(tmp_path / "disk", appends, synchronous)
    campaign = Campaign(recording, shelf, random.Random(SEED)).run()
    assert sum("journal" in problem for problem in campaign.broken) > 20


def test_blobs_that_are_not_synced_are_noticed(tmp_path: Path, shelf: Path) -> None:
    def write(path: Path, data: bytes) -> None:
        with mock.patch.object(files.os, "fsync"):
            real(path, data)

    real = files.write
    with mock.patch.object(files, "write", write):
        recording = record(tmp_path / "disk", blobs)
    campaign = Campaign(recording, shelf, random.Random(SEED)).run()
    assert any("blob" in problem for problem in campaign.broken)


def test_names_that_are_not_synced_are_noticed(tmp_path: Path, shelf: Path) -> None:
    with mock.patch.object(files, "sync_folder"):
        recording = record(tmp_path / "disk", blobs)
    campaign = Campaign(recording, shelf, random.Random(SEED)).run()
    assert len(campaign.broken) > 20
