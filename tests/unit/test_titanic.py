"""What Titanic's clients hear of requests whose tasks have left the broker's memory."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from broker.server import Server
from broker.store import Row
from corral import wire
from corral.errors import StoreCorrupt
from corral.messages import Assign, Document, Ended, Finished, Kind, Raw
from tests.unit.test_take_back import Peer


def asks(client: Peer, word: str, *body: bytes) -> list[bytes]:
    """What Titanic answers."""
    client.socket.send_multipart([b"MDPC02", b"\x01", f"titanic.{word}".encode(), *body])
    return client.hears()[3:]


def test_a_reply_is_there_after_its_task_has_left_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, worker = Peer(server), Peer(server)
    status, alias = asks(client, "request", b"echo", b"{}")
    assert status == b"200"
    worker.socket.send_multipart(
        wire.ready("echo", Document(name="w", incarnation="1", kinds=[Kind("echo")]))
    )
    while not isinstance(assign := _message(worker), Assign):
        pass
    done = Ended(assign.lanes[0].items[0].token, "ok", value=Raw(msgspec.msgpack.encode(b"done")))
    worker.socket.send_multipart(wire.extension(Finished(1, [done])))
    while asks(client, "reply", alias) == [b"300"]:
        pass

    monkeypatch.setattr(
        server.keeper, "settings", msgspec.structs.replace(server.settings, in_memory=0)
    )
    server.keeper.finish(server.state)
    assert server.state.tasks == {}
    with monkeypatch.context() as disk:
        disk.setattr(server.store, "find", damaged)
        assert asks(client, "reply", alias) == [b"500"]
    assert asks(client, "reply", alias) == [b"200", b"done"]
    assert asks(client, "close", alias) == [b"200"]
    assert asks(client, "reply", alias) == [b"400"]
    for peer in (client, worker):
        peer.socket.close()


def _message(worker: Peer) -> object:
    heard = wire.heard_by_worker(worker.hears())
    return heard.message if isinstance(heard, wire.Extended) else None


def damaged(ids: Iterable[str]) -> dict[str, Row]:
    raise StoreCorrupt(path="data", why="a row was altered")
