"""The SQLite engine: the conformance suite, and what is its own: locks, places, damaged files."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import settings

from broker.store import Row, files
from broker.store.sqlite import SqliteStore
from corral.errors import Fenced, StoreCorrupt, StoreInUse, StoreNewer, StoreRefused
from tests.unit.store.binding import SqliteBinding
from tests.unit.store.conformance import Conformance
from tests.unit.store.stateful import StoreMachine

LEADER = """
    import sys, time
    from pathlib import Path
    from broker.store.sqlite import SqliteStore
    store = SqliteStore(Path(sys.argv[1]), reserve=65536, low=65536, wal_bytes=65536)
    store.lead("child")
    number = 0
    while True:
        number += 1
        print(store.append(store.epoch, b"entry %d" % number), flush=True)
        time.sleep(0.001)
"""


@pytest.fixture
def binding(tmp_path: Path) -> SqliteBinding:
    return SqliteBinding(tmp_path / "data")


@pytest.fixture
def store(binding: SqliteBinding) -> Iterator[SqliteStore]:
    store = binding.store()
    store.lead("me")
    yield store
    store.close()


class TestSqliteConformance(Conformance):
    """Every promise of the contract."""

    @pytest.fixture
    def binding(self, tmp_path: Path) -> SqliteBinding:
        return SqliteBinding(tmp_path / "data")


# --- one leader


def test_a_second_process_is_told_the_first_one_s_pid_and_its_end_makes_room(
    binding: SqliteBinding,
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LEADER), str(binding.folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline() for _ in range(20)]
        with pytest.raises(StoreInUse, match=f"process {child.pid}") as refusal:
            binding.store().lead("second")
        assert "--data" in refusal.value.cure
        (binding.folder / "lock").unlink()  # the database itself is held too
        with pytest.raises(StoreInUse):
            binding.store().lead("third")
        child.send_signal(signal.SIGKILL)
        acknowledged += child.stdout.readlines()
    finally:
        child.kill()
        child.communicate()
    store = binding.store()
    assert store.lead("heir") == 2
    entries = list(store.read(0))
    assert len(acknowledged) <= len(entries) <= len(acknowledged) + 1
    assert entries == [(lsn, b"entry %d" % lsn) for lsn in range(1, len(entries) + 1)]
    store.close()


def test_a_folder_that_was_taken_away_deposes(binding: SqliteBinding, store: SqliteStore) -> None:
    binding.folder.rename(binding.folder.with_name("elsewhere"))
    with pytest.raises(Fenced):
        store.renew()


def test_the_folder_is_its_owner_s_alone(binding: SqliteBinding, store: SqliteStore) -> None:
    assert stat.S_IMODE(binding.folder.stat().st_mode) == 0o700


def test_a_store_that_does_not_lead_says_so(binding: SqliteBinding) -> None:
    with pytest.raises(RuntimeError, match="lead the store first"):
        binding.store().load()


def test_a_clean_end_leaves_the_database_alone_in_one_file(
    binding: SqliteBinding, store: SqliteStore
) -> None:
    store.append(store.epoch, b"one")
    store.close()
    assert sorted(path.name for path in binding.folder.iterdir()) == [
        "blobs",
        "lock",
        "reserve",
        "store.db",
    ]
    assert binding.execute("SELECT count(*) FROM journal") == [(1,)]


# --- places


@pytest.mark.parametrize("name", files.NETWORK.values())
def test_network_file_systems_are_refused(
    binding: SqliteBinding, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    magic = next(magic for magic, found in files.NETWORK.items() if found == name)
    monkeypatch.setattr(files, "filesystem", lambda path: magic)
    with pytest.raises(StoreRefused, match=f"on {name}") as refusal:
        binding.store().lead("me")
    assert str(binding.folder) in str(refusal.value)


def test_the_kernel_is_asked_which_file_system_it_is() -> None:
    assert files.MEMORY[files.filesystem(Path("/dev/shm"))] == "tmpfs"
    assert files.filesystem(Path("/proc")) == 0x9FA0  # PROC_SUPER_MAGIC of statfs(2)
    with pytest.raises(FileNotFoundError):
        files.filesystem(Path("/nowhere"))


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreRefused, match=f"{tmp_path}/file") as refusal:
            SqliteStore(path).lead("me")
        assert "File exists" in str(refusal.value)


def test_memory_and_disks_that_lie_are_noted(
    binding: SqliteBinding, monkeypatch: pytest.MonkeyPatch
) -> None:
    for magic, seconds, words in (
        (0xEF53, 1e-3, None),
        (0xEF53, 5e-6, "may not keep"),
        (0x01021994, 1e-3, "nothing in it survives a reboot"),
    ):
        monkeypatch.setattr(files, "filesystem", lambda path, magic=magic: magic)
        monkeypatch.setattr(files, "sync_seconds", lambda path, seconds=seconds: seconds)
        store = binding.store()
        store.lead("me")
        assert len(store.notes) == (words is not None)
        assert words is None or words in store.notes[0]
        store.close()


def test_an_fsync_takes_time(tmp_path: Path) -> None:
    assert 0 < files.sync_seconds(tmp_path) < 10
    assert list(tmp_path.iterdir()) == []


# --- damaged files


def test_garbage_is_no_database(binding: SqliteBinding, store: SqliteStore) -> None:
    store.close()
    path = binding.folder / "store.db"
    good = path.read_bytes()
    for damage in (b"garbage " * 1_000, bytes(len(good)), b"\xff" * 100 + good[100:]):
        path.write_bytes(damage)
        with pytest.raises(StoreCorrupt, match=r"store\.db") as refusal:
            binding.store().lead("me")
        assert str(binding.folder) in refusal.value.cure
        assert "fsck" in refusal.value.cure
        assert path.read_bytes() == damage  # nothing was made worse
    path.write_bytes(good)
    assert binding.store().lead("me") == 2


def test_a_database_cut_to_nothing_is_no_new_store(
    binding: SqliteBinding, store: SqliteStore
) -> None:
    store.append(store.epoch, b"precious")
    store.close()
    os.truncate(binding.folder / "store.db", 0)
    with pytest.raises(StoreCorrupt, match="is empty"):
        binding.store().lead("me")


def test_a_store_whose_database_is_gone_is_no_new_store(
    binding: SqliteBinding, store: SqliteStore
) -> None:
    store.close()
    (binding.folder / "store.db").unlink()
    with pytest.raises(StoreCorrupt, match=r"store\.db is gone"):
        binding.store().lead("me")
    assert not (binding.folder / "store.db").exists()


def test_a_database_that_cannot_be_opened_is_named(
    binding: SqliteBinding, store: SqliteStore
) -> None:
    store.close()
    (binding.folder / "store.db").unlink()
    (binding.folder / "store.db").mkdir()
    with pytest.raises(StoreRefused, match=r"store\.db cannot be opened"):
        binding.store().lead("me")


def test_another_program_s_database_is_left_alone(binding: SqliteBinding) -> None:
    binding.folder.mkdir()
    binding.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreRefused, match="another program"):
        binding.store().lead("me")
    assert binding.execute("SELECT name FROM sqlite_schema") == [("theirs",)]


def test_a_newer_schema_is_left_alone(binding: SqliteBinding, store: SqliteStore) -> None:
    store.close()
    binding.execute("PRAGMA user_version = 2")
    with pytest.raises(StoreNewer, match="newer Corral"):
        binding.store().lead("me")


def test_a_half_made_database_is_made_anew(binding: SqliteBinding) -> None:
    binding.folder.mkdir()
    for suffix in ("", "-wal", "-journal"):
        (binding.folder / f"draft.db{suffix}").write_bytes(b"left by a crash" * 1_000)
    store = binding.store()
    assert store.lead("me") == 1
    assert not list(binding.folder.glob("draft*"))
    store.close()


def test_a_log_full_of_zeros_is_an_empty_log(binding: SqliteBinding, store: SqliteStore) -> None:
    store.append(store.epoch, b"one")
    store.close()
    (binding.folder / "store.db-wal").write_bytes(bytes(1 << 20))
    store = binding.store()
    store.lead("me")
    assert list(store.read(0)) == [(1, b"one")]
    store.close()


# --- the hot path


def test_commits_are_synced(store: SqliteStore) -> None:
    assert store.db.pragma("synchronous") == 2
    assert store.db.pragma("journal_mode") == "wal"
    assert store.db.pragma("locking_mode") == "exclusive"


def test_the_log_begins_anew_and_stays_small(binding: SqliteBinding, store: SqliteStore) -> None:
    log = binding.folder / "store.db-wal"
    assert log.stat().st_size == 1 << 16
    for _ in range(300):
        store.append(store.epoch, bytes(100_000))
    assert log.stat().st_size < 6 << 20  # 30 MB of entries went through it
    store.fold(store.epoch, trim_to=300)
    assert store.usage().db_bytes < 40 << 20


def test_queries_read_indexes_not_records(store: SqliteStore) -> None:
    asked: list[str] = []
    store.db.trace_v2(
        apsw.SQLITE_TRACE_STMT, lambda event: asked.append(event["sql"]) if event else None
    )
    list(store.load().rows)
    store.query(["queued"], "echo", "p", "w", before=(1.0, "x"))
    store.query()
    store.prefix("a")
    store.expired(1.0)
    store.find(["a"])
    list(store.named())
    store.db.trace_v2(0)
    plans = {
        sql: [
            step[-1]
            for step in store.db.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * sql.count("?"))
        ]
        for sql in dict.fromkeys(asked)
        if "tasks" in sql and "carray" not in sql
    }
    assert len(plans) == 7
    for sql, plan in plans.items():
        assert "INDEX" in plan[0]
        assert "TEMP" not in " ".join(plan) or "GROUP BY state" in sql  # there are eight


def test_rows_are_not_mixed_up(store: SqliteStore) -> None:
    """Every field lands in its own column and comes back from it."""
    given = Row("i", "s", False, "k", "p", "w", 1.5, 2.5, 3, ("b1", "b2"), b"r")
    store.fold(store.epoch, [given])
    store.fold(store.epoch, [given])
    assert store.find(["i"]) == {"i": given}


class SqliteMachine(StoreMachine):
    """The model, against SQLite in a folder of its own for each example."""

    def new_binding(self) -> SqliteBinding:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        return SqliteBinding(self.folder / "data")

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class TestSqliteAgainstTheModel(SqliteMachine.TestCase):
    settings = settings(settings.default, stateful_step_count=30)
