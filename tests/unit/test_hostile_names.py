"""Names that name nothing, sent to a broker whose tables are in use: it refuses, and goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import broker.keeper
from broker.server import Server
from broker.store.sqlite import SqliteStore
from corral.messages import (
    Accepted,
    Call,
    Cancel,
    Done,
    Explain,
    List,
    Logs,
    Refused,
    Results,
    Retry,
    Show,
    Submit,
    Watch,
)
from corral.settings import BrokerSettings
from corral.tasks import Spec
from tests.unit.test_take_back import Peer, echo

NUL = "a\0b"
EMPTY = msgspec.Raw(b"\x80")


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """A client of a broker that has folded: it looks for ids it does not know in the store."""
    monkeypatch.setattr(broker.keeper, "FOLD_IDLE", 0.0)
    store = SqliteStore(tmp_path / "data")
    store.lead("test")
    server = Server(BrokerSettings(), "tcp://127.0.0.1:*", store, tmp_path)
    peer = Peer(server)
    accepts(peer)
    while not server.keeper.tables:
        server.turn(10)
    yield peer
    peer.socket.close()
    server.close()
    server.context.destroy(0)


def accepts(peer: Peer) -> None:
    peer.calls(echo(os.urandom(8)))
    assert isinstance(peer.answers()[0], Accepted)


def refusal(peer: Peer, call: Call) -> Refused:
    peer.calls(call)
    [refused] = peer.answers()
    assert isinstance(refused, Refused)
    return refused


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (Submit(b"r", [Spec("echo", EMPTY, {"p": NUL})]), "missing_parent"),
        (Submit(b"r", [Spec("echo", EMPTY, id=NUL)]), "bad_task"),
        (Results(b"r", [NUL]), "not_found"),
        (Show(b"r", [NUL]), "not_found"),
        (Explain(b"r", NUL), "not_found"),
        (Watch(b"r", [NUL]), "not_found"),
        (Logs(b"r", NUL), "not_found"),
        (List(b"r", before=NUL), "not_found"),
    ],
)
def test_a_name_with_a_nul_names_nothing(peer: Peer, call: Call, code: str) -> None:
    assert refusal(peer, call).code == code
    accepts(peer)


@pytest.mark.parametrize("call", [Cancel(b"r", [NUL]), Retry(b"r", [NUL])])
def test_nothing_of_such_a_name_is_changed(peer: Peer, call: Call) -> None:
    peer.calls(call)
    assert peer.answers() == [Done(b"r", [], {NUL: "not found"})]
    accepts(peer)


@pytest.mark.parametrize(
    "call", [Submit(b"r", [Spec("echo", EMPTY, {"p": "x"})]), Results(b"r", ["x"])]
)
def test_a_defect_in_looking_up_what_a_call_names_ends_nothing(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    def defect(ids: object) -> None:
        raise ValueError("a defect")

    with monkeypatch.context() as store:
        store.setattr(peer.server.store, "find", defect)
        refused = refusal(peer, call)
    assert "a defect" in str(refused.fields["what"])
    accepts(peer)
