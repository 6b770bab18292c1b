"""What every engine of the store has to pass. An engine binds it by subclassing `Conformance`.

Behaviour only: nothing here knows files or SQL. What only one engine can show (a corrupt file, a
full disk) is tested beside its binding.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from broker.store import Row, Store
from corral.errors import BackupFailed, Fenced, NotFound, StoreCorrupt, StoreInUse


class Binding(Protocol):
    """One storage, and the ways to get at it that an engine's tests know."""

    def store(self) -> Store:
        """Another handle to the same storage; it does not lead yet."""

    def at(self, path: Path) -> Store:
        """A handle to the backup at `path`; it does not lead yet."""

    def depose(self, store: Store) -> None:
        """Let somebody else lead, as far as `store` can tell."""

    def kill(self, store: Store) -> Store:
        """End the leader without a goodbye; another handle to what it left, not leading yet."""

    def alter_entry(self, lsn: int) -> None:
        """Change one byte of a journal entry behind the store's back; nobody leads meanwhile."""

    def alter_record(self, id: str) -> None:
        """Change one byte of a row's record in the same way."""

    def alter_blob(self, digest: str) -> None:
        """Change one byte of a blob in the same way."""

    def lose_entry(self, lsn: int) -> None:
        """Remove a journal row in the same way."""


def row(id: str, **fields: Any) -> Row:
    """A row with something in every field."""
    defaults: dict[str, Any] = {
        "state": "queued",
        "live": True,
        "kind": "echo",
        "project": "",
        "worker": "",
        "submitted": 1_000.0,
        "ended": None,
        "lsn": 1,
        "blobs": (),
        "record": id.encode(),
    }
    return Row(id=id, **(defaults | fields))


def done(id: str, ended: float, **fields: Any) -> Row:
    """A row of a task that ended."""
    return row(id, state="succeeded", live=False, ended=ended, **fields)


def sorted_rows(store: Store) -> list[Row]:
    """Every live row."""
    return sorted(store.load().rows, key=lambda row: row.id)


class Conformance:
    """Subclass it with a fixture `binding`."""

    @pytest.fixture
    def binding(self) -> Binding:
        raise NotImplementedError

    @pytest.fixture
    def store(self, binding: Binding) -> Iterator[Store]:
        """A store that leads."""
        store = binding.store()
        store.lead("first")
        yield store
        store.close()

    @staticmethod
    def again(binding: Binding, store: Store) -> Store:
        """The same storage, after its leader left."""
        store.close()
        other = binding.store()
        other.lead("second")
        return other

    # --- leading

    def test_epochs_only_rise(self, binding: Binding) -> None:
        epochs = []
        for _ in range(3):
            store = binding.store()
            epochs.append(store.lead("me"))
            assert store.epoch == epochs[-1]
            store.close()
        assert epochs == [1, 2, 3]

    def test_only_one_leads(self, binding: Binding, store: Store) -> None:
        other = binding.store()
        with pytest.raises(StoreInUse):
            other.lead("late")
        store.append(store.epoch, b"still mine")
        store.renew()

    def test_a_leader_that_left_makes_room(self, binding: Binding, store: Store) -> None:
        store.close()
        other = binding.store()
        assert other.lead("next") == 2
        other.close()

    @pytest.mark.parametrize("epoch", [0, 2, -1])
    def test_another_epoch_writes_nothing(self, store: Store, epoch: int) -> None:
        for write in (
            lambda: store.append(epoch, b"no"),
            lambda: store.fold(epoch, [row("a")], state=b"no"),
        ):
            with pytest.raises(Fenced):
                write()
        loaded = store.load()
        assert (list(loaded.rows), loaded.state, list(store.read(0))) == ([], b"", [])

    def test_a_deposed_leader_learns_it_and_writes_nothing_more(
        self, binding: Binding, store: Store
    ) -> None:
        epoch = store.epoch
        store.append(epoch, b"mine")
        binding.depose(store)
        with pytest.raises(Fenced):
            store.renew()
        with pytest.raises(Fenced):
            store.append(epoch, b"too late")
        with pytest.raises(Fenced):
            store.fold(epoch, trim_to=1)

    # --- the journal

    def test_an_empty_store(self, store: Store) -> None:
        loaded = store.load()
        assert (loaded.state, loaded.state_lsn, loaded.lsn, loaded.last) == (b"", 0, 0, 0)
        assert (list(loaded.rows), list(store.read(0)), store.query()) == ([], [], [])
        assert not store.full

    def test_entries_come_back_in_order_and_unaltered(self, binding: Binding, store: Store) -> None:
        entries = [b"", b"one", bytes(range(256)), b"x" * 300_000, b"\0" * 9_000]
        assert [store.append(store.epoch, entry) for entry in entries] == [1, 2, 3, 4, 5]
        expected = list(enumerate(entries, 1))
        assert list(store.read(0)) == expected
        store = self.again(binding, store)
        assert list(store.read(0)) == expected
        assert store.load().last == 5
        assert store.append(store.epoch, b"next") == 6
        store.close()

    def test_reading_from_the_middle(self, store: Store) -> None:
        for index in range(10):
            store.append(store.epoch, b"%d" % index)
        assert list(store.read(7)) == [(8, b"7"), (9, b"8"), (10, b"9")]
        assert list(store.read(3, limit=2)) == [(4, b"3"), (5, b"4")]
        assert list(store.read(10)) == list(store.read(99)) == []

    def test_trimmed_entries_are_gone_and_numbers_go_on(
        self, binding: Binding, store: Store
    ) -> None:
        for index in range(6):
            store.append(store.epoch, b"%d" % index)
        store.fold(store.epoch, trim_to=4)
        assert store.load().lsn == 4
        assert list(store.read(0)) == list(store.read(4)) == [(5, b"4"), (6, b"5")]
        store.fold(store.epoch, trim_to=2)  # going back changes nothing
        store.fold(store.epoch, trim_to=99)  # there is no more than all
        store = self.again(binding, store)
        loaded = store.load()
        assert (loaded.lsn, loaded.last, list(store.read(0))) == (6, 6, [])
        assert store.append(store.epoch, b"next") == 7
        assert list(store.read(0)) == [(7, b"next")]
        store.close()

    def test_an_altered_entry_is_named(self, binding: Binding, store: Store) -> None:
        for index in range(5):
            store.append(store.epoch, b"entry %d" % index)
        store.close()
        binding.alter_entry(3)
        other = binding.store()
        other.lead("second")
        entries = other.read(0)
        assert [next(entries), next(entries)] == [(1, b"entry 0"), (2, b"entry 1")]
        with pytest.raises(StoreCorrupt, match="journal row 3 was altered"):
            next(entries)
        other.close()

    def test_a_missing_entry_is_named(self, binding: Binding, store: Store) -> None:
        for index in range(5):
            store.append(store.epoch, b"entry %d" % index)
        store.close()
        binding.lose_entry(3)
        other = binding.store()
        other.lead("second")
        with pytest.raises(StoreCorrupt, match="journal row 3 is missing"):
            list(other.read(0))
        assert list(other.read(3)) == [(4, b"entry 3"), (5, b"entry 4")]
        other.close()

    # --- rows and document

    def test_rows_come_back_whole(self, binding: Binding, store: Store) -> None:
        rows = [
            row("a", blobs=("d1", "d2"), lsn=17, record=bytes(range(256)) * 100),
            row("b", project="p", worker="w1", state="running", submitted=2_000.5),
            done("c", 3_000.25, kind="train_model"),
        ]
        store.fold(store.epoch, rows)
        store = self.again(binding, store)
        assert store.find(["a", "b", "c", "none"]) == {found.id: found for found in rows}
        assert store.find([]) == {}
        assert store.find(["a\0", "a", "\0"]) == {"a": rows[0]}
        assert list(store.load().rows) == rows[:2]
        store.close()

    def test_a_row_replaces_the_one_before(self, store: Store) -> None:
        store.fold(store.epoch, [row("a"), row("b")])
        after = done("a", 5.0, kind="sleep", project="p", worker="w", lsn=9, record=b"new")
        store.fold(store.epoch, [after], deletes=["b", "none"])
        assert store.find(["a", "b"]) == {"a": after}
        assert list(store.load().rows) == []

    def test_the_document_says_how_far_it_goes(self, binding: Binding, store: Store) -> None:
        store.append(store.epoch, b"one")
        store.fold(store.epoch, state=b"document")
        store.append(store.epoch, b"two")
        store.fold(store.epoch, [row("a")], trim_to=1)
        store = self.again(binding, store)
        loaded = store.load()
        assert (loaded.state, loaded.state_lsn, loaded.lsn) == (b"document", 1, 1)
        store.fold(store.epoch, state=b"")
        assert (store.load().state, store.load().state_lsn) == (b"", 2)
        store.close()

    def test_a_fold_that_fails_leaves_nothing(self, store: Store) -> None:
        store.append(store.epoch, b"one")
        store.fold(store.epoch, [row("a")], state=b"before")

        bad = row("c", record="no bytes")
        with pytest.raises(TypeError):
            store.fold(
                store.epoch, [done("a", 9.0), row("b"), bad], deletes=["a"], state=b"x", trim_to=1
            )
        assert store.find(["a", "b"]) == {"a": row("a")}
        assert store.load().state == b"before"
        assert list(store.read(0)) == [(1, b"one")]
        assert store.append(store.epoch, b"two") == 2

    def test_an_altered_record_is_named(self, binding: Binding, store: Store) -> None:
        store.fold(store.epoch, [row("good"), row("bad")])
        store.close()
        binding.alter_record("bad")
        other = binding.store()
        other.lead("second")
        assert other.find(["good"]) == {"good": row("good")}
        with pytest.raises(StoreCorrupt, match="task bad was altered"):
            list(other.load().rows)
        other.close()

    # --- asking

    def test_ids_by_prefix(self, store: Store) -> None:
        store.fold(store.epoch, [row(id) for id in ("ab2", "ab1", "ab", "b", "Ab", "aé", "a%")])
        assert store.prefix("ab") == ["ab", "ab1", "ab2"]
        assert store.prefix("ab", limit=2) == ["ab", "ab1"]
        assert store.prefix("a%") == ["a%"]
        assert store.prefix("zz") == []

    def test_pages_are_newest_first_and_meet_without_a_gap(self, store: Store) -> None:
        rows = [row(f"t{index:02}", submitted=float(index // 3)) for index in range(20)]
        store.fold(store.epoch, rows)
        expected = sorted(rows, key=lambda found: (found.submitted, found.id), reverse=True)
        pages, before = [], None
        while page := store.query(limit=7, before=before):
            pages += page
            before = (page[-1].submitted, page[-1].id)
        assert pages == expected

    @pytest.mark.parametrize(
        ("filters", "ids"),
        [
            ({"states": ["queued"]}, "ca"),
            ({"states": ["succeeded", "queued"]}, "dca"),
            ({"kind": "sleep"}, "b"),
            ({"project": "p"}, "db"),
            ({"worker": "w1"}, "dcb"),
            ({"worker": "w1", "project": "p", "states": ["succeeded"]}, "d"),
            ({"kind": "none"}, ""),
            ({"limit": 0}, ""),
        ],
    )
    def test_filters_narrow_a_page(self, store: Store, filters: dict[str, Any], ids: str) -> None:
        rows = [
            row("a", submitted=1.0),
            row("b", submitted=2.0, kind="sleep", project="p", worker="w1", state="failed"),
            row("c", submitted=3.0, worker="w1"),
            done("d", 9.0, submitted=4.0, project="p", worker="w1"),
        ]
        store.fold(store.epoch, rows)
        assert [found.id for found in store.query(**filters)] == list(ids)

    def test_rows_are_counted_by_state(self, store: Store) -> None:
        assert store.load().counts == {}
        rows = [row("a"), done("b", 1.0), done("c", 2.0)]
        store.fold(store.epoch, rows)
        store.fold(store.epoch, [], deletes=["c"])
        assert store.load().counts == {row("a").state: 1, done("b", 1.0).state: 1}

    def test_what_ended_long_ago_has_expired(self, store: Store) -> None:
        store.fold(
            store.epoch,
            [
                *(done("older", 5.0), done("new", 30.0)),
                row("old", state="failed", live=False, ended=10.0),
                *(row("live", submitted=1.0), row("ended but live", ended=2.0)),
            ],
        )
        assert list(store.expired(20.0).items()) == [("older", "succeeded"), ("old", "failed")]
        assert store.expired(20.0, limit=1) == {"older": "succeeded"}
        assert store.expired(5.0) == {}

    # --- blobs

    def test_blobs_are_named_by_their_content(self, binding: Binding, store: Store) -> None:
        data = bytes(range(256)) * 1_000
        digest = store.blob_put(data)
        assert store.blob_put(data) == digest
        assert store.blob_put(b"other") != digest
        store = self.again(binding, store)
        assert store.blob_get(digest) == data
        assert store.blob_get(digest, 255, 3) == data[255:258]
        assert store.blob_get(digest, 255_998, 100) == data[-2:]
        assert store.blob_get(digest, 300_000, 10) == b""
        assert store.blob_size(digest) == len(data)
        assert store.blob_get(store.blob_put(b"")) == b""
        assert store.usage().blob_bytes == len(data) + len(b"other")
        store.close()

    @pytest.mark.parametrize("name", ["0" * 64, "", "x", "../lock", "/etc/passwd"])
    def test_a_blob_that_is_not_there(self, store: Store, name: str) -> None:
        with pytest.raises(NotFound):
            store.blob_get(name)
        with pytest.raises(NotFound):
            store.blob_size(name)

    def test_an_altered_blob_is_noticed(self, binding: Binding, store: Store) -> None:
        digest = store.blob_put(b"precious")
        binding.alter_blob(digest)
        with pytest.raises(StoreCorrupt, match=digest):
            store.blob_get(digest)
        assert store.blob_put(b"precious") == digest
        assert store.blob_get(digest) == b"precious"
        assert store.usage().blob_bytes == len(b"precious")

    def test_only_blobs_that_nobody_names_are_swept(self, store: Store) -> None:
        named, kept, orphan = (store.blob_put(data) for data in (b"named", b"kept", b"orphan"))
        store.fold(store.epoch, [done("a", 1.0, blobs=(named,))])
        assert store.usage().blob_bytes == 15
        assert store.sweep([kept], older_than=3_600.0) == 0
        assert store.sweep([kept], older_than=-1.0) == 1
        assert store.blob_get(named) + store.blob_get(kept) == b"namedkept"
        with pytest.raises(NotFound):
            store.blob_get(orphan)
        assert store.usage().blob_bytes == 9
        store.fold(store.epoch, deletes=["a"])
        assert store.sweep([], older_than=-1.0, limit=1) == 1
        assert store.sweep([], older_than=-1.0, limit=9) == 1
        assert store.usage().blob_bytes == 0

    # --- the whole

    def test_a_backup_is_a_store_as_of_its_end(
        self, binding: Binding, store: Store, tmp_path: Path
    ) -> None:
        early = store.blob_put(b"early")
        store.append(store.epoch, b"one")
        store.fold(store.epoch, [row(f"t{index}", record=b"r" * 2_000) for index in range(500)])
        target = tmp_path / "backup"
        steps = store.backup(target, tmp_path / "draft", lambda: ["t7", "t500"], pages=4)
        fractions = [next(steps), next(steps)]
        late = store.blob_put(b"late")
        store.append(store.epoch, b"two")
        store.fold(store.epoch, [done("t7", 1.0, blobs=(late,))])
        assert not target.exists()
        copied = None
        while copied is None:
            try:
                fractions.append(next(steps))
            except StopIteration as end:
                copied = end.value
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0
        assert copied.tasks == 501  # 500 rows, and one that only the journal knows
        assert copied.bytes > 500 * 2_000
        store.append(store.epoch, b"after the backup")

        copy = binding.at(target)
        assert copy.lead("restored") == 2
        assert list(copy.read(0)) == [(1, b"one"), (2, b"two")]
        assert len(list(copy.load().rows)) == 499
        assert copy.find(["t7"])["t7"].blobs == (late,)
        assert copy.blob_get(early) + copy.blob_get(late) == b"earlylate"
        copy.close()
        assert len(list(store.read(0))) == 3

    def test_a_backup_under_heavy_writes_is_the_store_as_it_was_at_one_moment(
        self, binding: Binding, store: Store, tmp_path: Path
    ) -> None:
        chance = random.Random(7)
        store.fold(store.epoch, [row(f"t{index}", record=b"r" * 2_000) for index in range(2_000)])
        moments: list[tuple[list[tuple[int, bytes]], list[Row]]] = []

        def now() -> list[str]:
            moments.append((list(store.read(0)), sorted_rows(store)))
            return []

        steps = store.backup(tmp_path / "backup", tmp_path / "draft", now, pages=16)
        for _ in steps:
            last = store.append(store.epoch, chance.randbytes(chance.randrange(100_000)))
            ids = [f"t{chance.randrange(3_000)}" for _ in range(30)]
            rows = [row(id, record=chance.randbytes(3_000), lsn=last) for id in set(ids[:25])]
            trim_to = chance.choice([0, 0, last - 3])
            store.fold(store.epoch, rows, ids[25:], b"document %d" % last, trim_to=trim_to)
        copy = binding.at(tmp_path / "backup")
        copy.lead("restored")
        assert [(list(copy.read(0)), sorted_rows(copy))] == moments
        copy.close()

    def test_a_backup_that_was_given_up_is_no_hindrance(
        self, binding: Binding, store: Store, tmp_path: Path
    ) -> None:
        store.fold(store.epoch, [row(f"t{index}", record=b"r" * 2_000) for index in range(100)])
        target, draft = tmp_path / "backup", tmp_path / "draft"
        abandoned = store.backup(target, draft, tuple, pages=1)
        while not next(abandoned):
            pass
        assert draft.exists()
        abandoned.close()
        assert not target.exists()
        assert not draft.exists()
        store.append(store.epoch, b"goes on")
        assert list(store.backup(target, draft, tuple))[-1] == 1.0
        copy = binding.at(tmp_path / "backup")
        copy.lead("restored")
        assert list(copy.read(0)) == [(1, b"goes on")]
        copy.close()

    def test_a_backup_takes_an_empty_folder_and_overwrites_nothing(
        self, store: Store, tmp_path: Path
    ) -> None:
        target, draft = tmp_path / "backup", tmp_path / "draft"
        target.mkdir()
        assert list(store.backup(target, draft, tuple))[-1] == 1.0
        before = sorted(target.rglob("*"))
        assert before
        with pytest.raises(BackupFailed, match="something is there already"):
            list(store.backup(target, draft, tuple))
        assert sorted(target.rglob("*")) == before

    def test_blobs_are_not_swept_under_a_backup(self, store: Store, tmp_path: Path) -> None:
        store.blob_put(b"an old result")
        steps = store.backup(tmp_path / "backup", tmp_path / "draft", tuple)
        next(steps)
        assert store.sweep([], older_than=-1.0) == 0
        list(steps)
        assert store.sweep([], older_than=-1.0) == 1

    def test_usage_follows_the_journal(self, binding: Binding, store: Store) -> None:
        store.append(store.epoch, b"x" * 1_000)
        store.append(store.epoch, b"y" * 500)
        assert store.usage().journal_bytes == 1_500
        store = self.again(binding, store)
        assert store.usage().journal_bytes == 1_500
        store.fold(store.epoch, trim_to=1)
        usage = store.usage()
        assert usage.journal_bytes == 500
        assert usage.db_bytes > 0
        assert usage.free_bytes > 0
        store.close()
