"""A commit that the disk refuses: nothing of the turn was, and everybody concerned is told."""

from __future__ import annotations

import time

import msgspec
import pytest
import zmq
from msgspec import structs

from broker import keeper
from broker.server import Server
from corral import wire
from corral.errors import StoreFull
from corral.messages import (
    Accepted,
    Answer,
    Call,
    Cancel,
    Document,
    Kind,
    Outcomes,
    Refused,
    Submit,
    Updates,
    Watch,
)
from corral.tasks import Spec, State, request_id


class Peer:
    """Somebody on a socket, who lets the broker have its turns while it waits."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.socket = server.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(server.endpoint)

    def calls(self, call: Call) -> None:
        self.socket.send_multipart(wire.call(call))

    def hears(self) -> list[bytes]:
        for _ in range(500):
            self.server.turn(10)
            if self.socket.poll(10):
                return self.socket.recv_multipart()
        raise AssertionError("nothing came")

    def answers(self) -> list[Answer]:
        return wire.heard_by_client(self.hears())


TITANIC = [b"MDPC02", b"\x01", b"titanic.request", b"echo", b"{}"]


def echo(request: bytes) -> Submit:
    return Submit(request, [Spec("echo", msgspec.Raw(b"\x80"))], collect=True)


def test_clients_and_workers_are_told_of_a_commit_that_failed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, unlucky, worker = Peer(server), Peer(server), Peer(server)
    waits.calls(echo(b"one"))
    [accepted] = waits.answers()
    assert isinstance(accepted, Accepted)
    worker.socket.send_multipart(
        wire.ready("mark", Document(name="w", incarnation="1", kinds=[Kind("mark")]))
    )
    worker.hears()
    with monkeypatch.context() as disk:
        disk.setattr(server.store, "append", refuse)
        unlucky.calls(echo(b"two"))
        [refused] = unlucky.answers()
        unlucky.socket.send_multipart(TITANIC)
        assert unlucky.hears()[-1] == b"500"
    assert refused == Refused(b"two", "store_full", {"why": "no room"})
    assert server.state.tasks.keys() == {request_id(b"one", 0)}
    # Who waits must ask again, and who works must say again what it runs.
    assert waits.answers() == [Outcomes(b"", [], last=True)]
    heard = wire.heard_by_worker(worker.hears())
    while isinstance(heard, wire.Beaten):
        heard = wire.heard_by_worker(worker.hears())
    assert isinstance(heard, wire.Parted)
    unlucky.calls(echo(b"two"))
    [accepted] = unlucky.answers()
    assert isinstance(accepted, Accepted)


def test_a_turn_that_no_row_of_the_journal_holds_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Peer(server)
    with monkeypatch.context() as small:
        small.setattr(keeper, "MAX_ROW", 1000)
        client.calls(Submit(b"one", [Spec("echo", msgspec.Raw(b"\xc4\xff" + bytes(255)))] * 9))
        [refused] = client.answers()
    assert isinstance(refused, Refused)
    assert (refused.code, server.state.tasks) == ("store_full", {})
    client.calls(echo(b"two"))
    [accepted] = client.answers()
    assert isinstance(accepted, Accepted)


def test_a_watcher_is_told_nothing_that_was_not_committed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, id = Peer(server), request_id(b"one", 0)
    client.calls(echo(b"one"))
    client.answers()
    with monkeypatch.context() as disk:
        disk.setattr(server.store, "append", refuse)
        client.calls(Cancel(b"two", [id]))
        client.calls(Watch(b"three", [id]))
        time.sleep(0.1)  # so that both are there at the next turn
        heard = [answer for _ in range(3) for answer in client.answers()]
    assert Refused(b"two", "store_full", {"why": "no room"}) in heard
    [updates] = [answer for answer in heard if isinstance(answer, Updates)]
    assert [view.state for view in updates.snapshot or ()] == [State.QUEUED]
    client.socket.close()


def test_no_new_work_is_taken_while_the_store_is_full(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, titanic = Peer(server), Peer(server)
    client.calls(echo(b"zero"))
    accepted = client.answers()
    monkeypatch.setattr(server.store, "renew", lambda: None)
    monkeypatch.setattr(server.store, "full", "no room")
    client.calls(echo(b"one"))
    assert client.answers() == [Refused(b"one", "store_full", {"why": "no room"})]
    titanic.socket.send_multipart(TITANIC)
    assert titanic.hears()[-1] == b"500"
    # Whoever did not hear that it was accepted does not submit it once more.
    client.calls(structs.replace(echo(b"zero"), resend=True))
    assert client.answers() == [structs.replace(accepted[0], known=[0])]
    assert server.state.tasks.keys() == {request_id(b"zero", 0)}
    for peer in (client, titanic):
        peer.socket.close()


def refuse(epoch: int, entry: bytes) -> int:
    raise StoreFull(why="no room")
