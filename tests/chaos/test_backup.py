"""Copies of a broker's store while it works: whole or not there, and nobody waits for them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles

import pytest

from corral import Client, Task
from corral.client.handles import Handle
from corral.errors import BackupFailed
from corral.messages import BackupView
from tests.chaos.fleet import PATIENCE, Fleet, until
from tests.evidence import Evidence
from tests.unit.store.small_disk import on_small_disk
from tests.unit.store.test_full_disk import fill

MIB = 1 << 20
FILES = "broker: {inline_result: 1000}\n"  # nearly every result is a file of its own
PARAMS = 1_000  # bytes of params of a task that fills the store


def fill_store(client: Client, tasks: int) -> list[Handle]:
    """So many queued tasks of a kilobyte and some."""
    noise = os.urandom(PARAMS)
    return client.submit_many((Task("echo", {"n": n, "x": noise}) for n in range(tasks)), batch=500)


@contextmanager
def in_background(client: Client, to: Path | None = None) -> Iterator[list[object]]:
    """A copy is being made meanwhile; afterwards the list holds what came of it."""
    told: list[object] = []

    def ask() -> None:
        try:
            told.append(client.backup(to))
        except BackupFailed as error:
            told.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield told
    finally:
        thread.join(PATIENCE)


def checked(fleet: Fleet, copy: Path) -> None:
    """What fsck says of a copy."""
    done = fleet.command("corral-broker", "fsck", "--data", str(copy))
    assert done.status == 0, f"{done.output}{done.talk}"


def test_a_second_broker_does_all_that_was_acknowledged_before_the_copy(
    fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    here = fleet(settings=FILES)
    here.start_broker()
    here.worker("w", 2, "--kinds", "echo")
    with Client(here.endpoint, timeout=PATIENCE) as client:
        until("the worker is there", client.workers)
        large = [{"bytes": os.urandom(200_000)} for _ in range(30)]
        expected = dict(
            zip(
                client.submit_many([Task("echo", one) for one in large], batch=1),
                large,
                strict=True,
            )
        )
        acknowledged: dict[str, object] = {}
        stop = threading.Event()

        def go_on() -> None:
            with Client(here.endpoint, timeout=PATIENCE) as busy:
                number = 0
                while not stop.is_set():
                    params = {"n": number, "x": "y" * (number % 5_000)}
                    acknowledged[busy.submit("echo", **params).id] = params
                    number += 1

        load = threading.Thread(target=go_on)
        load.start()
        try:
            until("there is some load", lambda: len(acknowledged) > 300)
            before = dict(acknowledged)
            copy = client.backup(tmp_path / "elsewhere" / "copy")
            until("it goes on", lambda: len(acknowledged) > len(before) + 100)
        finally:
            stop.set()
            load.join()
        before |= {handle.id: params for handle, params in expected.items()}
        assert copy.tasks >= len(before)
    here.broker.kill()
    here.workers["w"].kill()
    checked(here, Path(copy.path))
    (tmp_path / "there").mkdir()
    with Fleet(tmp_path / "there", data=Path(copy.path), settings=FILES) as there:
        there.start_broker()
        there.worker("w", 2, "--kinds", "echo")
        with Client(there.endpoint, timeout=PATIENCE) as client:
            assert sum(client.status().tasks.values()) == copy.tasks
            for handle, outcome in client.results(list(before), PATIENCE):
                assert outcome.value == before[handle.id], outcome.failure
        assert there.broker.stop() == 0
        there.audit()


def is_empty(told: list[object], _: int) -> bool:
    return not told


def test_submits_hardly_wait_for_a_copy(fleet: Callable[..., Fleet], evidence: Evidence) -> None:
    here = fleet()
    here.start_broker()
    with (
        Client(here.endpoint, timeout=PATIENCE) as client,
        Client(here.endpoint, timeout=PATIENCE) as other,
    ):
        fill_store(client, 90_000)

        def waits(going_on: Callable[[int], bool]) -> list[float]:
            took: list[float] = []
            while going_on(len(took)):
                began = time.perf_counter()
                other.submit("echo", n=len(took))
                took.append(time.perf_counter() - began)
            return took

        quiet, busy, copies = [], [], []
        for _ in range(5):
            quiet += waits(lambda count: count < 400)
            with in_background(client) as told:
                busy += waits(partial(is_empty, told))
            [copy] = told
            assert isinstance(copy, BackupView)
            copies.append(copy)
    figures = {
        f"{name}_p{percent}_ms": round(1e3 * quantiles(took, n=100)[percent - 1], 1)
        for name, took in (("quiet", quiet), ("busy", busy))
        for percent in (50, 99)
    }
    assert copies[0].bytes > 90 * MIB
    assert len(busy) > 100
    # A loop that stood still for a copy would let each of the five copies have its one slow submit.
    assert max(busy) < max(0.25, 3 * max(quiet)), figures
    seconds = round(sum(copy.seconds for copy in copies) / len(copies), 2)
    evidence.record(
        "submits while the store is copied",
        MB=round(copies[0].bytes / 1e6),
        seconds=seconds,
        submits=len(busy),
        **figures,
        busy_max_ms=round(1e3 * max(busy), 1),
    )


#: when the broker is killed: what must be on its disk at that moment
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "it has begun": lambda data: (data / "backup.db").exists(),
    "half is copied": lambda data: size(data / "backup.db") > size(data / "store.db") / 2,
    "results are linked": lambda data: any((data / "backups" / ".partial").glob("blobs/*")),
}


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_broker_that_is_killed_leaves_no_false_copy(
    fleet: Callable[..., Fleet], moment: str
) -> None:
    here = fleet(settings=FILES)
    here.start_broker()
    worker = here.worker("w", 2, "--kinds", "echo")
    with Client(here.endpoint, timeout=PATIENCE) as client:
        until("the worker is there", client.workers)
        params = [{"n": n, "x": "y" * 1_000} for n in range(500)]
        handles = client.submit_many([Task("echo", one) for one in params])
        assert [handle.result(PATIENCE)["n"] for handle in handles] == list(range(500))
        worker.kill()
        handles += fill_store(client, 30_000)
        folder = here.data / "backups"
        with in_background(client) as told:
            deadline = time.monotonic() + PATIENCE
            while not MOMENTS[moment](here.data):
                assert time.monotonic() < deadline, "this moment never came"
                assert not told, told
            here.broker.kill()
            names = {path.name for path in folder.iterdir()}
            assert names == {".partial"}
            draft = here.command("corral-broker", "fsck", "--data", str(folder / ".partial"))
            assert draft.status == 2
            assert "there is no store in it" in draft.talk
            # The client asks the next broker for the same copy, and gets it.
            here.start_broker()
        [copy] = told
        assert isinstance(copy, BackupView), copy
        assert [path.name for path in folder.iterdir()] == [Path(copy.path).name]
        assert not (here.data / "backup.db").exists()
        assert copy.tasks == len(handles)
    checked(here, Path(copy.path))


# --- a disk that is full ----------------------------------------------------------------


def run_out_of_room(disk: Path) -> None:
    with Fleet(disk, data=disk / "data") as here:
        here.start_broker()
        with Client(here.endpoint, timeout=PATIENCE) as client:
            fill_store(client, 30_000)
            # There is no room to begin with.
            fill(disk / "theirs", leave=90 * MIB)
            with pytest.raises(BackupFailed, match="MiB free"):
                client.backup()
            assert nothing_left(here.data)
            client.submit("echo", n=1)
            (disk / "theirs").unlink()
            # Somebody else takes the room while the copy is made.
            with in_background(client) as told:
                until("it has begun", lambda: size(here.data / "backup.db") or told)
                here.broker.signal(signal.SIGSTOP)
                assert not told
                fill(disk / "theirs", leave=MIB)
                here.broker.signal(signal.SIGCONT)
            [error] = told
            assert isinstance(error, BackupFailed), error
            assert "--to" in error.cure
            assert nothing_left(here.data)
            (disk / "theirs").unlink()
            until("it takes work again", lambda: not client.status().store_full)
            handle = client.submit("echo", n=2)
            copy = client.backup()
            assert copy.tasks == 30_002
            assert client.show([handle.id])[0].state == "queued"
        assert here.broker.stop() == 0
        checked(here, Path(copy.path))
        here.audit()


def nothing_left(data: Path) -> bool:
    return not [*data.glob("backup.db*"), *data.glob("backups/*"), *data.glob("backups/.*")]


def copy_to_another_disk(disk: Path) -> None:
    elsewhere = disk.parent / f"{disk.name}-elsewhere"
    elsewhere.mkdir()
    with Fleet(elsewhere, data=elsewhere / "data", settings=FILES) as here:
        here.start_broker()
        here.worker("w", 2, "--kinds", "echo")
        with Client(here.endpoint, timeout=PATIENCE) as client:
            noise = os.urandom(30_000)
            handles = client.submit_many([Task("echo", {"x": noise, "n": n}) for n in range(20)])
            assert all(handle.result(PATIENCE)["x"] == noise for handle in handles)
            with pytest.raises(BackupFailed, match="mount point"):
                client.backup(disk)
            copy = client.backup(disk / "copies" / "one")
            assert copy.tasks == 20
            assert copy.bytes > 20 * 30_000
            fill(disk / "theirs", leave=MIB)
            with pytest.raises(BackupFailed, match="MiB free"):
                client.backup(disk / "copies" / "two")
            assert [path.name for path in (disk / "copies").iterdir()] == ["one"]
            assert not (here.data / "backup.db").exists()
        assert here.broker.stop() == 0
        (disk / "theirs").unlink()
        checked(here, disk / "copies" / "one")


@pytest.mark.parametrize(
    "story", [run_out_of_room, copy_to_another_disk], ids=lambda story: story.__name__
)
def test_a_copy_and_a_small_disk(story: Callable[[Path], None]) -> None:
    on_small_disk(story, megabytes=256, seconds=120)
