"""How many streams a broker serves, and who has to go without."""

from __future__ import annotations

import msgspec
import pytest

from broker import watch
from broker.server import Server
from corral.errors import TooManyWatches
from corral.messages import Accepted, Answer, Refused, Submit, Updates, Watch
from corral.tasks import Spec
from tests.unit.test_take_back import Peer


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_WATCHERS", 3)
    monkeypatch.setattr(watch, "MAX_OF_ONE", 3)


def watches(peer: Peer, request: bytes) -> Answer:
    peer.calls(Watch(request))
    [answer] = peer.answers()
    return answer


def test_one_too_many_is_refused_and_the_others_go_on(server: Server) -> None:
    first, second, client = Peer(server), Peer(server), Peer(server)
    for request in (b"a", b"b", b"c"):
        assert isinstance(watches(first, request), Updates)
    refused = watches(second, b"d")
    assert isinstance(refused, Refused)
    assert refused.code == TooManyWatches.code
    assert first.answers() == [Updates(b"c", [], seq=0)]  # which asked whether it is there
    assert isinstance(watches(first, b"a"), Updates)  # it asks again: no stream more
    client.calls(Submit(b"one", [Spec("echo", msgspec.Raw(b"\x80"))]))
    assert isinstance(client.answers()[0], Accepted)
    told = [answer for _ in range(3) for answer in first.answers()]
    assert {answer.request for answer in told if isinstance(answer, Updates)} == {b"a", b"b", b"c"}
    assert isinstance(watches(second, b"d"), Refused)
    for peer in (first, second, client):
        peer.socket.close()


def test_one_peer_does_not_take_all_places(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_OF_ONE", 2)
    greedy, other = Peer(server), Peer(server)
    assert isinstance(watches(greedy, b"a"), Updates)
    assert isinstance(watches(greedy, b"b"), Updates)
    refused = watches(greedy, b"c")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.fields["count"]) == (TooManyWatches.code, 2)
    assert isinstance(watches(other, b"d"), Updates)
    assert isinstance(watches(greedy, b"b"), Updates)  # it asks again: no stream more
    for peer in (greedy, other):
        peer.socket.close()


def test_those_who_left_without_a_word_make_room(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.0)
    stays, leaves, comes = Peer(server), Peer(server), Peer(server)
    assert isinstance(watches(stays, b"a"), Updates)
    assert isinstance(watches(leaves, b"b"), Updates)
    assert isinstance(watches(leaves, b"c"), Updates)
    leaves.socket.close()
    while isinstance(watches(comes, b"d"), Refused):
        pass
    assert server.watches.watchers.keys() == {b"a", b"d"}
    for peer in (stays, comes):
        peer.socket.close()
