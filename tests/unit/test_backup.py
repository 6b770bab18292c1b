"""A copy of the store between the turns of a broker: who is told what, and what is left behind."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from broker import backup
from broker.keeper import Keeper
from broker.server import Server
from broker.store.fsck import fsck
from broker.store.sqlite import SqliteStore
from corral.messages import (
    Accepted,
    Answer,
    BackedUp,
    Backup,
    Refused,
    Status,
    StatusIs,
    Submit,
    Underway,
)
from corral.settings import BrokerSettings
from corral.tasks import Spec
from tests.unit.test_take_back import Peer

MakePeer = Callable[[], Peer]
TASKS = 3_000
PARAMS = msgspec.Raw(msgspec.msgpack.encode({"text": "x" * 500}))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A broker whose turns are the test's to give."""
    store = SqliteStore(tmp_path / "data")
    store.lead("test")
    server = Server(BrokerSettings(), "tcp://127.0.0.1:*", store, tmp_path / "data")
    yield server
    server.close()
    server.context.destroy(0)


@pytest.fixture
def peer(server: Server) -> Iterator[MakePeer]:
    """Makes peers of the broker. The first one has filled its store."""
    peers = [Peer(server)]
    peers[0].calls(Submit(b"fill", [Spec("echo", PARAMS)] * TASKS))
    assert isinstance(outcome(peers[0]), Accepted)

    def another() -> Peer:
        peers.append(Peer(server))
        return peers[-1]

    yield another
    for one in peers:
        one.socket.close()


def outcome(peer: Peer) -> Answer:
    """The answer to a peer's call, after all signs of life."""
    while isinstance((answers := peer.answers())[0], Underway):
        pass
    [answer] = answers
    return answer


def under_way(server: Server) -> None:
    while not server.backups.running:
        server.turn(10)


def left(server: Server) -> list[Path]:
    """Whatever is not the store's own."""
    folder = server.data / backup.FOLDER
    return [*server.data.glob("backup.db*"), *(folder.iterdir() if folder.exists() else ())]


def tasks_in(copy: Path) -> int:
    assert fsck(copy, lambda store: Keeper(store, BrokerSettings()).audit()) == []
    store = SqliteStore(copy)
    store.lead("test")
    try:
        return len(Keeper(store, BrokerSettings()).load().tasks)
    finally:
        store.close()


def test_the_broker_answers_others_and_the_copy_holds_what_came_before(
    server: Server, peer: MakePeer
) -> None:
    asks, other = peer(), peer()
    asks.calls(Backup(b"b"))
    under_way(server)
    other.calls(Status(b"s"))
    assert isinstance(other.answers()[0], StatusIs)
    assert server.backups.running
    other.calls(Submit(b"late", [Spec("echo", PARAMS)] * 7))
    assert isinstance(other.answers()[0], Accepted)
    told = outcome(asks)
    assert isinstance(told, BackedUp)
    copy = Path(told.backup.path)
    assert left(server) == [copy]
    assert TASKS <= told.backup.tasks <= TASKS + 7
    assert tasks_in(copy) == told.backup.tasks


def test_folded_tasks_are_counted_once(server: Server, peer: MakePeer) -> None:
    server.keeper.finish(server.state)
    other = peer()
    other.calls(Submit(b"more", [Spec("echo", PARAMS)] * 5))
    assert isinstance(other.answers()[0], Accepted)
    asks = peer()
    asks.calls(Backup(b"b"))
    told = outcome(asks)
    assert isinstance(told, BackedUp)
    assert told.backup.tasks == TASKS + 5 == tasks_in(Path(told.backup.path))


def test_a_call_that_is_sent_again_is_the_same_call(server: Server, peer: MakePeer) -> None:
    first, again, much_later = peer(), peer(), peer()
    first.calls(Backup(b"b"))
    under_way(server)
    again.calls(Backup(b"b"))  # the client has a new connection
    told = outcome(again)
    assert isinstance(told, BackedUp)
    much_later.calls(Backup(b"b"))
    assert outcome(much_later) == told
    assert left(server) == [Path(told.backup.path)]


def test_one_copy_is_made_at_a_time(server: Server, peer: MakePeer, tmp_path: Path) -> None:
    one, two = peer(), peer()
    one.calls(Backup(b"1"))
    under_way(server)
    two.calls(Backup(b"2", str(tmp_path / "two")))
    refused = outcome(two)
    assert isinstance(refused, Refused)
    assert "another copy is being made" in refused.fields["why"]
    assert isinstance(outcome(one), BackedUp)
    two.calls(Backup(b"3", str(tmp_path / "two")))
    assert isinstance(outcome(two), BackedUp)


def test_who_waits_hears_that_it_goes_on(
    server: Server, peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "TELL_EVERY", 0.0)
    asks = peer()
    asks.calls(Backup(b"b"))
    assert asks.answers() == [Underway(b"b")]
    assert isinstance(outcome(asks), BackedUp)


@pytest.mark.parametrize("turns", [1, 5, 20])
def test_a_broker_that_stops_leaves_nothing_of_a_copy(
    server: Server, peer: MakePeer, turns: int
) -> None:
    asks = peer()
    asks.calls(Backup(b"b"))
    under_way(server)
    for _ in range(turns):
        server.turn(0)
    running = server.backups.running
    server.backups.close()
    assert len(left(server)) == (0 if running else 1)
    assert not list(server.data.rglob(".partial"))


def test_a_broker_that_stops_before_it_tells_leaves_nothing_of_a_whole_copy(
    server: Server, peer: MakePeer
) -> None:
    peer().calls(Backup(b"b"))
    under_way(server)
    while not list((server.data / backup.FOLDER).glob("[!.]*")):
        server.turn(0)
        time.sleep(0.05)  # the thread ends it now, and the broker would see that at its next turn
    assert server.backups.running
    server.backups.close()
    assert not left(server)


def test_what_a_killed_broker_left_goes_with_the_next_copy(server: Server, peer: MakePeer) -> None:
    draft = server.data / backup.FOLDER / ".partial"
    (draft / "blobs").mkdir(parents=True)
    (server.data / "backup.db").write_bytes(b"half a copy")
    asks = peer()
    asks.calls(Backup(b"b"))
    told = outcome(asks)
    assert isinstance(told, BackedUp)
    assert left(server) == [Path(told.backup.path)]
    assert tasks_in(Path(told.backup.path)) == TASKS


REFUSED = {
    "{data}": "within the store itself",
    "{data}/blobs/copy": "within the store itself",
    "{data}/backups/../copy": "within the store itself",
    "{data}/store.db": "within the store itself",
    "copy": "is relative",
    "{full}": "something is there already",
    "{file}": "something is there already",
    "{file}/copy": "File exists",
    "/sys/copy": "permitted|Permission|Read-only",
    "/proc": "something is there already",
}


@pytest.mark.parametrize("to", REFUSED)
def test_a_place_that_will_not_do_is_refused(
    server: Server, peer: MakePeer, tmp_path: Path, to: str
) -> None:
    full, file = tmp_path / "full", tmp_path / "full" / "file"
    full.mkdir()
    file.write_text("somebody's")
    asks = peer()
    asks.calls(Backup(b"b", to.format(data=server.data, full=full, file=file)))
    refused = outcome(asks)
    assert isinstance(refused, Refused)
    assert re.search(REFUSED[to], str(refused.fields))
    assert left(server) == []
    assert list(full.iterdir()) == [file]
    assert file.read_text() == "somebody's"
    asks.calls(Submit(b"on", [Spec("echo", PARAMS)]))  # and the broker goes on
    assert isinstance(outcome(asks), Accepted)


def test_a_disk_that_fails_in_the_middle_ends_the_copy_alone(
    server: Server, peer: MakePeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = peer()
    with monkeypatch.context() as disk:
        disk.setattr("broker.store.files.sync", fail)
        asks.calls(Backup(b"b", str(tmp_path / "copy")))
        refused = outcome(asks)
    assert isinstance(refused, Refused)
    assert refused.code == "backup_failed"
    assert "Input/output error" in refused.fields["why"]
    assert left(server) == []
    assert not list(tmp_path.glob("*copy*"))
    asks.calls(Backup(b"again", str(tmp_path / "copy")))
    assert isinstance(outcome(asks), BackedUp)


def fail(path: Path) -> None:
    raise OSError(5, "Input/output error", str(path))
