"""A retry of more than there is room for: what does not fit stays in the store, and is named."""

from __future__ import annotations

import msgspec
import pytest

from broker import keeper
from broker.core.facts import Record
from broker.server import Server
from corral.messages import Cancel, Done, Raw, Refused, Retry, Submit
from corral.tasks import Spec, State
from tests.unit.test_take_back import Peer

LARGE = Raw(msgspec.msgpack.encode(b"x" * 100_000))


@pytest.mark.parametrize("server", [{"max_task_bytes": 1_000_000, "in_memory": 0}], indirect=True)
def test_no_more_is_taken_back_than_there_is_room_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "RECALL_ROWS", 4)
    client = Peer(server)
    ids = [f"t{number}" for number in range(48)]
    client.calls(Submit(b"parent", [Spec("echo", LARGE, id="parent")]))
    client.answers()
    for number in range(0, len(ids), 6):
        some = ids[number : number + 6]
        client.calls(Submit(b"s", [Spec("echo", LARGE, {"p": "parent"}, id=id) for id in some]))
        client.answers()
        client.calls(Cancel(b"c", some))
        client.answers()
    client.calls(Cancel(b"c", ["parent"]))
    client.answers()
    while server.keeper.tend(server.state, server.now() + keeper.FOLD_IDLE + 1):
        pass
    assert not server.state.tasks
    restored: list[str] = []
    restore = server.state.restore

    def record(one: Record) -> None:
        restored.append(one.id)
        restore(one)

    monkeypatch.setattr(server.state, "restore", record)
    client.calls(Cancel(b"c", ["nobody", *ids]))
    [done] = client.answers()
    assert isinstance(done, Done)
    assert done.unchanged == {
        "nobody": "not found",
        **dict.fromkeys(ids, "it is cancelled already"),
    }
    monkeypatch.setattr(server.store, "full", "no room")
    client.calls(Retry(b"r", ids))
    [refused] = client.answers()
    assert isinstance(refused, Refused)
    assert refused.code == "store_full"
    assert restored == []
    monkeypatch.setattr(server.store, "full", "")
    client.calls(Retry(b"r", ["nobody", *ids]))
    [done] = client.answers()
    assert isinstance(done, Done)
    assert len(done.changed) == 8  # and their parent
    assert done.unchanged.pop("nobody") == "not found"
    assert set(done.unchanged.values()) == {"the broker is full"}
    assert {*done.changed, *done.unchanged} == set(ids)
    assert len(restored) < 16
    assert server.state.tasks["parent"].state is State.QUEUED
    client.socket.close()
