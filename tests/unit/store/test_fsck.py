"""fsck finds what was damaged, says which one it is, and finds nothing in a store that is whole."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from broker.store import Store
from broker.store.fsck import CURES, Finding, fsck
from broker.store.sqlite import SqliteStore
from corral.errors import CorralError, StoreInUse, StoreNewer, StoreRefused
from tests.unit.store.binding import SqliteBinding
from tests.unit.store.conformance import done, row


@pytest.fixture
def binding(tmp_path: Path) -> SqliteBinding:
    """A store in use for a while, closed."""
    binding = SqliteBinding(tmp_path / "data")
    store = binding.store()
    store.lead("me")
    digest = store.blob_put(b"a large result" * 100)
    for index in range(9):
        store.append(store.epoch, b"entry %d, some bytes" % index * 100)
    rows = [done(f"d{index}", 5.0, lsn=3, record=b"record" * 99) for index in range(50)]
    store.fold(
        store.epoch, [row("a", lsn=4), done("b", 1.0, blobs=(digest,)), *rows], (), b"doc", 4
    )
    store.close()
    return binding


def findings(binding: SqliteBinding) -> list[tuple[str, str, str]]:
    found = fsck(binding.folder)
    assert all(finding.cure == CURES[finding.part] for finding in found)
    return [(finding.part, finding.name, finding.why) for finding in found]


def test_a_whole_store_has_no_findings_and_is_not_changed(binding: SqliteBinding) -> None:
    before = (binding.folder / "store.db").read_bytes()
    assert findings(binding) == []
    assert (binding.folder / "store.db").read_bytes() == before
    store = binding.store()
    assert store.lead("me") == 2  # no epoch was used up
    store.close()


def test_a_byte_flipped_in_the_file_names_the_journal_row(binding: SqliteBinding) -> None:
    path = binding.folder / "store.db"
    data = bytearray(path.read_bytes())
    at = data.index(b"entry 6, some bytes")
    data[at + 700] ^= 0x10
    path.write_bytes(data)
    assert findings(binding) == [("journal", "7", "its checksum is wrong")]


def test_each_part_is_examined(binding: SqliteBinding) -> None:
    digest = next((binding.folder / "blobs").iterdir()).name
    binding.alter_entry(8)
    binding.lose_entry(6)
    binding.alter_record("a")
    binding.alter_blob(digest)
    binding.execute("UPDATE document SET state = x'00'")
    binding.execute("UPDATE tasks SET lsn = 77 WHERE id = 'b'")
    assert findings(binding) == [
        ("document", str(binding.folder), "the document was altered"),
        ("journal", "6 to 6", "missing"),
        ("journal", "8", "its checksum is wrong"),
        ("task", "a", "the checksum of its record is wrong"),
        ("task", "b", "the checksum of its record is wrong"),
        ("task", "b", "it holds journal row 77, but the journal ends at 9"),
        ("blob", digest, "its content is not what its name says"),
    ]
    (binding.folder / "blobs" / digest).unlink()
    assert findings(binding)[-1] == ("blob", digest, "missing")


def test_rows_of_the_journal_that_should_be_gone(binding: SqliteBinding) -> None:
    binding.execute("INSERT INTO journal VALUES (2, 0, x'00')")
    assert ("journal", "2", "left over: everything up to 4 is in the rows") in findings(binding)


def test_an_index_that_lost_a_row(binding: SqliteBinding) -> None:
    schema = "UPDATE sqlite_schema SET sql = {} WHERE name = 'tasks_listing'"
    schema = f"PRAGMA writable_schema = on; {schema}"
    binding.execute(schema.format("sql || ' WHERE live'"))
    binding.execute("REINDEX tasks_listing")
    binding.execute(schema.format("replace(sql, ' WHERE live', '')"))
    [(part, _, why), *_] = findings(binding)
    assert part == "database"
    assert "tasks_listing" in why


@pytest.mark.parametrize("keep", [0, 100, 30_000])
def test_a_file_cut_short(binding: SqliteBinding, keep: int) -> None:
    path = binding.folder / "store.db"
    path.write_bytes(path.read_bytes()[:keep])
    assert findings(binding)[0][0] == "database"


def test_a_broken_page_is_the_database_s_and_told_once(binding: SqliteBinding) -> None:
    path = binding.folder / "store.db"
    with closing(apsw.Connection(str(path))) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'").get
        size = connection.pragma("page_size")
    data = bytearray(path.read_bytes())
    data[(root - 1) * size : root * size] = bytes(size)
    path.write_bytes(data)
    found = findings(binding)
    assert {part for part, _, _ in found} == {"database"}
    assert len(set(found)) == len(found)


def test_counters_are_guarded(binding: SqliteBinding) -> None:
    binding.execute("UPDATE meta SET value = value + 1 WHERE name = 'trimmed'")
    assert findings(binding) == [("database", str(binding.folder), "its trimmed was altered")]


def test_replay_is_asked_and_heard(binding: SqliteBinding) -> None:
    def replay(store: Store) -> Iterator[tuple[str, str, str]]:
        assert store.load().lsn == 4
        assert [lsn for lsn, _ in store.read(4)] == [5, 6, 7, 8, 9]
        yield "replay", "a", "the journal says running, the row says queued"

    assert fsck(binding.folder, replay) == [
        Finding(part="replay", name="a", why="the journal says running, the row says queued")
    ]
    assert fsck(binding.folder, lambda store: []) == []


def test_replay_is_not_asked_about_what_is_damaged(binding: SqliteBinding) -> None:
    binding.alter_entry(8)
    found = fsck(binding.folder, lambda store: pytest.fail("it cannot be replayed"))
    assert [finding.part for finding in found] == ["journal"]


def test_a_store_in_use_is_left_alone(binding: SqliteBinding) -> None:
    store = binding.store()
    store.lead("me")
    with pytest.raises(StoreInUse):
        fsck(binding.folder)
    store.close()


def test_a_lock_that_cannot_be_opened_is_told(binding: SqliteBinding) -> None:
    lock = binding.folder / "lock"
    lock.unlink()
    lock.symlink_to("/nowhere/lock")
    with pytest.raises(StoreRefused, match=r"No such file.*lock"):
        fsck(binding.folder)


def test_where_there_is_no_store_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="no such folder"):
        fsck(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreRefused, match="there is no store in it"):
        fsck(tmp_path)
    assert not (tmp_path / "store.db").exists()


def test_looking_writes_nothing(binding: SqliteBinding) -> None:
    store = SqliteStore(binding.folder)
    store.inspect()
    with pytest.raises(CorralError):
        store.fold(0, [row("x")])
    store.close()


def test_flipped_bits_are_found_or_harmless(binding: SqliteBinding, tmp_path: Path) -> None:
    """Wherever a bit flips in the database: it is found, or every answer is as before."""

    def answers() -> object:
        store = SqliteStore(binding.folder, reserve=1, low=1, wal_bytes=1 << 14)
        store.inspect()
        try:
            return (
                list(store.read(0)), store.load().state, sorted(store.prefix("", 99)),
                store.query(limit=99), store.query(["queued"]), store.query(kind="echo"),
                store.find(["a", "b", "d7"]), store.expired(9.0), sorted(store.named()),
            )  # fmt: skip
        finally:
            store.close()

    good = tmp_path / "good.db"
    path = binding.folder / "store.db"
    shutil.copy(path, good)
    whole, content = answers(), good.read_bytes()
    draw = random.Random(7)
    found = 0
    for _ in range(300):
        data = bytearray(content)
        at = draw.randrange(len(data))
        data[at] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            damaged = bool(fsck(binding.folder))
        except (StoreRefused, StoreNewer):
            damaged = True
        if damaged:
            found += 1
        else:
            assert answers() == whole, f"a flip at {at} changed an answer and was not found"
    assert 50 < found < 300
