"""What the worker keeps on disk: the spool and the logs; and what it reads: the machine."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from corral.messages import Ended, FetchLog, Gpu, Raw
from corral.tasks import Failure
from worker import hardware, logs
from worker.events import Batch
from worker.spool import Spool

ENDS = [Ended(b"a", "ok", 1.5), Ended(b"b", "error", failure=Failure("ValueError", "bad"))]
BATCH = Batch(7, [b"a", b"b"], ENDS)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def spool(tmp_path: Path, said: list[str]) -> Spool:
    return Spool(tmp_path / "spool", said.append)


def again(tmp_path: Path, said: list[str]) -> list[Batch]:
    """What a new agent finds."""
    return Spool(tmp_path / "spool", said.append).load()


# --- the spool ------------------------------------------------------------------------------


def test_a_new_agent_finds_results_as_they_were(
    spool: Spool, tmp_path: Path, said: list[str]
) -> None:
    packed = Raw(msgspec.msgpack.encode(ENDS))
    spool.keep([structs.replace(BATCH, seq=12, items=packed), BATCH])
    first, second = again(tmp_path, said)
    assert (first.seq, second.seq) == (7, 12)
    assert first.tokens == second.tokens == [b"a", b"b"]
    assert first.on_disk
    for found in (first, second):
        assert isinstance(found.items, Raw)
        assert bytes(found.items) == bytes(packed)
    assert said == []


def test_what_the_broker_has_is_forgotten(spool: Spool, tmp_path: Path, said: list[str]) -> None:
    spool.keep([BATCH, structs.replace(BATCH, seq=8)])
    spool.forget([7, 99])
    assert [batch.seq for batch in again(tmp_path, said)] == [8]


@pytest.mark.parametrize("how", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_file_is_set_aside_and_never_sent(
    spool: Spool, tmp_path: Path, said: list[str], how: str
) -> None:
    spool.keep([BATCH, structs.replace(BATCH, seq=8)])
    path = min((tmp_path / "spool").iterdir())
    good = path.read_bytes()
    path.write_bytes(
        {
            "cut": good[:-1],
            "flip": good[:40] + bytes([good[40] ^ 1]) + good[41:],
            "empty": b"",
            "foreign": b"corral results 2\n" + good[17:],
        }[how]
    )
    assert [batch.seq for batch in again(tmp_path, said)] == [8]
    assert "damaged" in said[0]
    assert [batch.seq for batch in again(tmp_path, said)] == [8]
    assert len(said) == 1  # it is told once


def test_what_was_half_written_when_the_agent_died_is_removed(
    spool: Spool, tmp_path: Path, said: list[str]
) -> None:
    half = tmp_path / "spool" / "0000000000000009.new"
    half.write_bytes(b"corral res")
    assert again(tmp_path, said) == []
    assert not half.exists()
    assert said == []


def test_results_are_synced_before_they_have_their_name(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file before the rename, the folder after it: else a power failure loses one of them."""
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        steps.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        steps.append(f"rename to {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    spool.keep([BATCH])
    assert steps == [
        "sync 0000000000000007.new",
        "rename to 0000000000000007.results",
        "sync spool",
    ]


def test_a_full_disk_is_told_once_and_costs_nothing_else(
    spool: Spool, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    spool.keep([BATCH])
    spool.keep([BATCH])
    assert len(said) == 1
    assert "No space left" in said[0]
    assert list((tmp_path / "spool").iterdir()) == []
    monkeypatch.setattr(os, "fsync", fsync)
    spool.keep([BATCH])
    assert len(again(tmp_path, said)) == 1


# --- logs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["../../etc/passwd", "..", ".", "a/b", "a%2Fb", "plain", "é" * 5])
def test_no_task_id_leads_out_of_the_logs(tmp_path: Path, id: str) -> None:
    path = logs.path_of(tmp_path, id, 1)
    assert path.resolve().parent.parent == tmp_path / "logs"
    assert logs.workdir_of(tmp_path, id, 1).resolve().parent == tmp_path / "work"


def test_different_ids_have_different_folders() -> None:
    ids = ["a/b", "a%2Fb", "a.b", "a%2Eb", "..", "%2E%2E"]
    assert len({logs.folder_name(id) for id in ids}) == len(ids)


def test_a_log_is_read_in_pieces(tmp_path: Path) -> None:
    path = logs.path_of(tmp_path, "t", 2)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"0123456789")
    chunk = logs.read(tmp_path, FetchLog(3, "t", 2, 4, 3), None)
    assert (chunk.fetch, chunk.data, chunk.total, chunk.found) == (3, b"456", 10, True)
    assert logs.read(tmp_path, FetchLog(3, "t", 2, 40, 3), None).data == b""
    assert logs.read(tmp_path, FetchLog(3, "t", 2, -4, -3), None).data == b""
    assert not logs.read(tmp_path, FetchLog(3, "t", 3, 0, 3), None).found


def test_what_a_running_attempt_wrote_so_far_is_its_log(tmp_path: Path) -> None:
    catch = tmp_path / "catch"
    catch.write_bytes(b"so far")
    assert logs.read(tmp_path, FetchLog(1, "t", 1, 0, 99), catch).data == b"so far"


def test_a_log_has_a_bound_and_what_follows_is_kept(tmp_path: Path) -> None:
    catch = tmp_path / "catch"
    with catch.open("ab") as writer:
        writer.write(b"x" * 100)
        writer.flush()
        assert not logs.trim(catch, 100)
        assert logs.trim(catch, 99)
        writer.write(b"and on\n")
    assert catch.read_text() == "[100 bytes of output were removed here]\nand on\n"
    assert not logs.trim(tmp_path / "nowhere", 0)


def test_old_logs_are_removed_and_new_ones_stay(tmp_path: Path) -> None:
    for id, age in (("old", logs.KEEP + 60), ("new", 60.0)):
        path = logs.path_of(tmp_path, id, 1)
        path.parent.mkdir(parents=True)
        path.write_text("x")
        os.utime(path.parent, (0, time.time() - age))
    (tmp_path / "logs" / "child-1.log").write_text("x")
    logs.prune(tmp_path)
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["child-1.log", "new"]
    logs.prune(tmp_path / "nowhere")


# --- the machine ----------------------------------------------------------------------------


def test_the_machine_is_seen_and_declared_figures_win() -> None:
    declared = Gpu("GPU-1", 24.0, "declared", declared=True)
    seen = hardware.look([declared], None, None, lambda gpu, pid: False)
    assert set(seen.cores) == os.sched_getaffinity(0)
    assert 0 < seen.cpus <= len(seen.cores)
    assert seen.memory_gb > 0
    assert declared in seen.gpus
    given = hardware.look([], 1.5, 4.0, lambda gpu, pid: False)
    assert (given.cpus, given.memory_gb) == (1.5, 4.0)


def test_cgroups_bound_what_there_is(tmp_path: Path) -> None:
    assert hardware.cpu_quota(tmp_path) == float("inf")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert hardware.cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert hardware.cpu_quota(tmp_path) == float("inf")
    whole = hardware.memory(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.memory(tmp_path) == whole
    (tmp_path / "memory.max").write_text(f"{1 << 30}\n")
    assert hardware.memory(tmp_path) == 1.0


def test_the_first_version_of_cgroups_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert hardware.cpu_quota(tmp_path) == float("inf")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert hardware.cpu_quota(tmp_path) == 0.5
    limit = tmp_path / "memory" / "memory.limit_in_bytes"
    whole = hardware.memory(tmp_path / "nowhere")
    limit.write_text("9223372036854771712\n")
    assert hardware.memory(tmp_path) == whole
    limit.write_text(f"{2 << 30}\n")
    assert hardware.memory(tmp_path) == 2.0
