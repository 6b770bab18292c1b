"""The broker's disk and clock turn against it: new work is refused, what was promised is kept.

The stories on a small disk run where that disk is mounted, in a process of their own (see
`tests.unit.store.small_disk`); the tests only start them. Refusals at the start, and clocks that
jump, need no disk of their own.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from broker.server import Server
from broker.store.sqlite import SqliteStore
from corral import Client, Retry, Task, Variant
from corral.client.handles import Handle
from corral.errors import StoreFull
from corral.settings import BrokerSettings
from corral.tasks import State
from tests.chaos.fleet import PATIENCE, Ended, Fleet, Marks, until
from tests.unit.store.small_disk import mount, on_small_disk
from tests.unit.store.test_full_disk import fill

MIB = 1 << 20
INLINE, LARGE = 60_000, 200_000  # bytes of results that go into the journal, and into files
LATER = (Variant(labels={"when": "later"}),)


@contextmanager
def fleet_on(disk: Path) -> Iterator[Fleet]:
    """A fleet whose broker keeps its store on `disk`; all else is elsewhere."""
    with (
        redirect_stdout(sys.stderr),
        tempfile.TemporaryDirectory() as elsewhere,
        Fleet(Path(elsewhere), data=disk / "data") as fleet,
    ):
        yield fleet


@contextmanager
def at_work(fleet: Fleet) -> Iterator[Client]:
    """A broker and a worker, and a client of theirs."""
    fleet.start_broker()
    fleet.worker("now", 4, "--kinds", "mark,echo")
    with client_of(fleet) as client:
        until("the worker is there", client.workers)
        yield client


def client_of(fleet: Fleet) -> Client:
    return Client(fleet.endpoint, timeout=PATIENCE)


class Promises:
    """What was acknowledged, and what must come of it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.expected: dict[str, Any] = {}

    def submit(self, count: int, size: int, **fields: Any) -> list[Handle]:
        """Tasks that return so many bytes each."""
        sent = [{"bytes": os.urandom(size)} for _ in range(count)]
        handles = self.client.submit_many([Task("echo", one, **fields) for one in sent], batch=5)
        self.expected |= {handle.id: one for handle, one in zip(handles, sent, strict=True)}
        return handles

    def are_kept(self, client: Client) -> None:
        """Every one of them, as this client hears it."""
        for handle, outcome in client.results(list(self.expected), 2 * PATIENCE):
            assert outcome.state is State.SUCCEEDED, outcome.failure
            assert outcome.value == self.expected[handle.id]


def refused(client: Client) -> bool:
    """Whether new work is refused; the refusal says what to do."""
    try:
        client.submit("echo")
    except StoreFull as error:
        said = error
    else:
        return False
    assert said.exit_status == 1
    assert "MiB free at" in str(said)
    assert "Free space on the broker's disk" in said.cure
    return True


# --- stories ----------------------------------------------------------------------------


def fill_up_under_load(disk: Path) -> None:
    with fleet_on(disk) as fleet, at_work(fleet) as client:
        promises = Promises(client)
        marks = Marks(fleet.folder / "marks")
        promises.submit(100, INLINE, needs=LATER)
        promises.submit(10, LARGE, needs=LATER)
        running = client.submit_many(
            Task("mark", {"folder": str(marks.folder), "seconds": 3.0}) for _ in range(3)
        )
        until("they run", lambda: len(list(marks)) == 3)
        fill(disk / "theirs", leave=0)
        until("new work is refused", lambda: refused(client))
        assert client.status().store_full
        # What runs ends, and what was queued runs and ends: on a disk that has no byte free.
        for handle in running:
            assert handle.result(PATIENCE) in {mark.path for mark in marks}
        fleet.worker("later", 2, "--kinds", "echo", "--label", "when=later")
        promises.are_kept(client)
        assert refused(client)
        # The broker may even die of whatever, and begins on the full disk.
        fleet.broker.kill()
        fleet.start_broker()
        assert refused(client)
        with client_of(fleet) as stranger:
            promises.are_kept(stranger)
        # Their file goes: work is welcome again, and nobody had to do anything for it.
        (disk / "theirs").unlink()
        until("new work is welcome", lambda: not refused(client))
        assert "new work is taken again" in fleet.broker.said()
        promises.submit(20, INLINE)
        promises.are_kept(client)
        assert set(marks.starts().values()) == {1}
        assert fleet.broker.stop() == 0
        fleet.audit()


def take_no_write_at_all(disk: Path) -> None:
    """As when a file system turns read-only under a running broker: even the journal fails."""
    with fleet_on(disk) as fleet, at_work(fleet) as client:
        promises = Promises(client)
        marks = Marks(fleet.folder / "marks")
        running = client.submit_many(
            Task("mark", {"folder": str(marks.folder), "seconds": seconds})
            for seconds in (1.0, 2.0, 3.0, 60.0)
        )
        queued = promises.submit(20, INLINE, needs=LATER)
        until("they run", lambda: len(list(marks)) == 4)
        allow_writes(fleet, False)
        until("new work is refused", lambda: refused(client))
        # Three of them end, but nobody may believe it before it is on the disk.
        [last] = sorted(mark.at for mark in marks)[-1:]
        until("they are done", lambda: time.monotonic() > last + 3.5)
        assert {view.state for view in client.show([one.id for one in running])} == {State.RUNNING}
        assert refused(client)
        with somebody_asks_all_the_while(client):
            allow_writes(fleet, True)
            for handle in running[:3]:
                assert handle.result(PATIENCE) in {mark.path for mark in marks}
        until("new work is welcome", lambda: not refused(client))
        assert running[3].cancel("long enough")
        assert running[3].show().state is State.CANCELLED
        fleet.worker("later", 2, "--kinds", "echo", "--label", "when=later")
        assert len(queued) == 20
        promises.are_kept(client)
        assert set(marks.starts().values()) == {1}
        assert fleet.broker.stop() == 0
        fleet.audit()


def allow_writes(fleet: Fleet, allowed: bool) -> None:
    """Let every write of the broker to a file fail (EFBIG), or no more."""
    limit = resource.RLIM_INFINITY if allowed else 0
    resource.prlimit(fleet.broker.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@contextmanager
def somebody_asks_all_the_while(client: Client) -> Iterator[None]:
    """The client that waits hears other answers, so silence does not make it ask."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.2):
            client.status()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def turn_read_only_between_two_starts(disk: Path) -> None:
    with fleet_on(disk) as fleet, at_work(fleet) as client:
        promises = Promises(client)
        promises.submit(5, INLINE)
        promises.are_kept(client)
        fleet.broker.kill()
        mount(str(disk), "remount,ro")
        ended = start(fleet)
        assert ended.status == 2
        assert "Read-only file system" in ended.talk
        assert "Choose a --data folder on a local, writable disk." in ended.talk
        mount(str(disk), "remount,rw")
        fleet.start_broker()
        promises.are_kept(client)
        promises.submit(5, INLINE)
        promises.are_kept(client)


def have_no_room_for_a_store(disk: Path) -> None:
    with fleet_on(disk) as fleet:
        for room in (0, 96 << 10):  # not even for the folder; for the database's log alone
            fill(disk / "theirs", leave=room)
            ended = start(fleet)
            assert ended.status == 2
            assert f"The store cannot live at {fleet.data}" in ended.talk
            assert "Choose a --data folder on a local, writable disk." in ended.talk
            (disk / "theirs").unlink()
        fleet.start_broker()
        with client_of(fleet) as client:
            assert not client.status().store_full


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "story",
    [
        fill_up_under_load,
        take_no_write_at_all,
        turn_read_only_between_two_starts,
        have_no_room_for_a_store,
    ],
    ids=lambda story: story.__name__,
)
def test_the_disk_of_a_broker_may(story: Callable[[Path], None]) -> None:
    on_small_disk(story, megabytes=256, seconds=150)


# --- refusals at the start --------------------------------------------------------------


def start(fleet: Fleet, *, data: Path | None = None, bind: str = "") -> Ended:
    """Start a broker that is expected to end at once."""
    return fleet.command(
        "corral-broker",
        "start",
        "--data",
        str(data or fleet.data),
        "--bind",
        bind or fleet.endpoint,
    )


def test_a_second_broker_on_the_same_store_names_the_first(
    fleet: Callable[..., Fleet],
) -> None:
    here = fleet()
    here.start_broker()
    ended = start(here, bind="tcp://127.0.0.1:*")
    assert ended.status == 2
    assert f"Another broker (process {here.broker.pid}) already leads the store" in ended.talk
    assert "Stop that one first" in ended.talk
    with client_of(here) as client:
        assert client.status().epoch == 1
    # A dead leader is none, though its name is still in the lock.
    here.broker.kill()
    here.start_broker()


def test_an_address_in_use_is_named(fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    here = fleet()
    here.start_broker()
    ended = start(here, data=tmp_path / "other")
    assert ended.status == 2
    assert f"The address {here.endpoint} cannot be bound: Address already in use" in ended.talk
    assert "--bind" in ended.talk
    # It let go of the store that it had begun to lead.
    assert here.command("corral-broker", "fsck", "--data", str(tmp_path / "other")).status == 0


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip_a_bit_of_a_row(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = content.rindex(b"needle in the journal")
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [garbage, cut_short, empty, flip_a_bit_of_a_row])
def test_a_damaged_store_is_not_served_and_a_backup_takes_its_place(
    damage: Callable[[Path], None], fleet: Callable[..., Fleet]
) -> None:
    here = fleet()
    here.start_broker()
    with client_of(here) as client:
        tasks = [Task("echo", {"n": n, "text": "needle in the journal"}) for n in range(2_000)]
        ids = [handle.id for handle in client.submit_many(tasks)]
    here.broker.kill()
    data, backup = str(here.data), here.folder / "backup"
    assert here.command("corral-broker", "backup", "--data", data, str(backup)).status == 0
    damage(here.data / "store.db")
    ended = start(here)
    assert ended.status == 1
    assert re.search(rf"The store {data} is damaged: .{{5}}", ended.talk)
    assert f"corral broker fsck --data {data}" in ended.talk
    assert "Traceback" not in ended.talk
    found = here.command("corral-broker", "fsck", "--data", data)
    assert found.status == 1
    assert found.output
    assert "Restore the last backup" in found.talk
    here.data.rename(here.folder / "damaged")
    backup.rename(here.data)
    here.start_broker()
    with client_of(here) as client:
        assert {view.id for view in client.tasks(["queued"], limit=3_000)} == set(ids)


# --- clocks -----------------------------------------------------------------------------


def test_the_brokers_time_goes_on_whatever_the_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "data")
    store.lead("test")
    server = Server(BrokerSettings(), "tcp://127.0.0.1:*", store, tmp_path)
    try:
        before = server.now()
        for jump in (3600.0, -7200.0, 1e9):
            wall = time.time()
            monkeypatch.setattr(time, "time", lambda wall=wall, jump=jump: wall + jump)
            after = server.now()
            assert 0.0 <= after - before < 5.0
            before = after
    finally:
        server.close()
        server.context.destroy(0)


#: Makes `time.time` of a process wrong by what a file says.
WRONG_CLOCK = """\
    import os, time
    right = time.time
    def wrong():
        with open(os.environ["CLOCK_IS_WRONG_BY"]) as file:
            return right() + float(file.read())
    time.time = wrong
"""


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_holds_nothing_up(
    jump: float, fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    """While the broker runs, and while it does not: retries come due, leases hold, watches tell."""
    here = fleet()
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(textwrap.dedent(WRONG_CLOCK))
    wrong_by = tmp_path / "wrong_by"
    wrong_by.write_text("0")
    here.broker.variables = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "clock"), os.environ.get("PYTHONPATH", "")]),
        "CLOCK_IS_WRONG_BY": str(wrong_by),
    }
    here.start_broker()
    here.worker("w", 4, "--kinds", "fail,mark")
    marks = Marks(tmp_path / "marks")
    policy = Retry(limit=5, delay=6.0, max_delay=6.0)
    with client_of(here) as client:
        until("the worker is there", client.workers)
        failing = [client.submit("fail", times=1, retry=policy) for _ in range(2)]
        running = client.submit("mark", folder=str(marks.folder), seconds=5.0)
        until("it runs", lambda: list(marks))
        until("it backs off", lambda: failing[0].show().state is State.RETRYING)
        wrong_by.write_text(str(jump))
        time.sleep(0.5)
        assert client.workers()[0].health == "live"
        here.broker.kill()
        here.start_broker()
        began = time.monotonic()
        for handle in failing:
            assert handle.result(PATIENCE) == 2
        assert time.monotonic() < began + 20.0
        running.result(PATIENCE)
        assert set(marks.starts().values()) == {1}
        steps = [step.at for step in failing[0].show().story]
        assert steps == sorted(steps)
