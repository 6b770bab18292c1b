"""What workers say while the disk takes nothing: the newest of each attempt lands later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import broker.server
from broker.server import Server
from broker.store import files
from broker.store.blobs import digest_of
from corral import wire
from corral.errors import StoreFull
from corral.messages import (
    Accepted,
    Checkpoint,
    Ended,
    Extension,
    Finished,
    Refused,
    Status,
    StatusIs,
    Submit,
)
from corral.tasks import Spec, State
from tests.unit.test_outbox import works
from tests.unit.test_take_back import Peer

RESULT = msgspec.msgpack.encode(b"x" * 100_000)


def refuse(data: bytes) -> str:
    raise StoreFull(why="no room")


def say(worker: Peer, *messages: Extension) -> None:
    for message in messages:
        worker.socket.send_multipart(wire.extension(message))
    for _ in range(len(messages)):
        worker.server.turn(50)


def until(server: Server, condition: Callable[[], object]) -> None:
    for _ in range(100):
        server.turn(50)
        if condition():
            return
    raise AssertionError("it did not come")


def test_the_newest_of_each_attempt_is_written_once_the_disk_has_room(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Peer(server)
    client.calls(Submit(b"one", [Spec("echo", msgspec.Raw(b"\x80"))]))
    client.answers()
    worker, item = works(server, "1")
    finished = Finished(1, [Ended(item.token, "ok", value=msgspec.Raw(RESULT))])
    stranger = Finished(2, [Ended(b"nobody", "ok", value=msgspec.Raw(RESULT + b"\x00"))])
    put = server.store.blob_put
    written: list[str] = []

    def record(data: bytes) -> str:
        written.append(put(data))
        return written[-1]

    monkeypatch.setattr(server.store, "blob_put", refuse)
    say(worker, *(Checkpoint(item.token, b"reached %d" % i) for i in range(50)))
    say(worker, Checkpoint(b"nobody", b"reached 99"))
    monkeypatch.setattr(server.store, "blob_put", record)
    until(server, lambda: server.state.tasks[item.id].checkpoint)
    assert written == [digest_of(b"reached 49")]

    monkeypatch.setattr(server.store, "blob_put", refuse)
    say(worker, Checkpoint(item.token, b"reached 50"))
    monkeypatch.setattr(server.store, "blob_put", record)
    say(worker, Checkpoint(item.token, b"reached 51"))  # there is room before the other is tried
    server._try_held(server.now())
    assert server.state.tasks[item.id].checkpoint == digest_of(b"reached 51")
    written.clear()

    monkeypatch.setattr(server.store, "blob_put", refuse)
    say(worker, stranger, *[finished] * 20)
    assert server.state.tasks[item.id].state is State.RUNNING
    monkeypatch.setattr(server.store, "blob_put", record)
    until(server, lambda: server.state.tasks[item.id].state is State.SUCCEEDED)
    assert written == [server.state.tasks[item.id].blob] == [digest_of(RESULT)]
    for peer in (client, worker):
        peer.socket.close()


@pytest.mark.parametrize("lacks", [errno.EMFILE, errno.EACCES])
def test_a_broker_that_cannot_write_a_file_for_a_moment_goes_on(
    server: Server, lacks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Peer(server)
    client.calls(Submit(b"one", [Spec("echo", msgspec.Raw(b"\x80"))]))
    client.answers()
    worker, item = works(server, "1")

    def lacking(path: Path, data: bytes) -> None:
        raise OSError(lacks, os.strerror(lacks))

    with monkeypatch.context() as system:
        system.setattr(files, "write", lacking)
        say(worker, Checkpoint(item.token, b"reached 1"))
        say(worker, Finished(1, [Ended(item.token, "ok", value=msgspec.Raw(RESULT))]))
        assert server.state.tasks[item.id].state is State.RUNNING
        monkeypatch.setattr(broker.server, "HELD_LONG", 1000.0)
        client.calls(Submit(b"two", [Spec("echo", msgspec.Raw(b"\x80"))]))
        assert isinstance(client.answers()[0], Accepted)
        monkeypatch.setattr(broker.server, "HELD_LONG", 0.0)  # it goes on for longer than that
        client.calls(Submit(b"three", [Spec("echo", msgspec.Raw(b"\x80"))]))
        [refused] = client.answers()
        assert isinstance(refused, Refused)
        assert refused.code == "store_full"
        assert os.strerror(lacks) in str(refused.fields["why"])
        client.calls(Status(b"four"))
        [status] = client.answers()
        assert isinstance(status, StatusIs)
        assert status.broker.store_full
    until(server, lambda: server.state.tasks[item.id].state is State.SUCCEEDED)
    assert server.state.tasks[item.id].blob == digest_of(RESULT)
    client.calls(Submit(b"three", [Spec("echo", msgspec.Raw(b"\x80"))]))
    assert isinstance(client.answers()[0], Accepted)
    for peer in (client, worker):
        peer.socket.close()
