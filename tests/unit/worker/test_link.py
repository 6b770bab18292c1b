"""How long an agent waits before it connects again, and what it says of a connection that ends."""

from __future__ import annotations

import itertools
import socket
import time

import pytest

from corral import keys
from worker.events import Lost
from worker.session import Link


def pauses(lease: float, chance: float) -> list[float]:
    """The first pauses of an agent whose connections all fail at once."""
    link = Link(["tcp://127.0.0.1:9"], None, lambda: chance)
    found = []
    for _ in range(12):
        link.reconnect(0.0, lease)
        assert link.open_at is not None
        found.append(link.open_at)
    link.close(0.0)
    return found


def test_the_pause_doubles_and_varies() -> None:
    most, least = pauses(1e6, 1.0), pauses(1e6, 0.0)
    assert all(2 * a == b or b == 10.0 for a, b in itertools.pairwise(most))
    assert most[-1] == 10.0
    assert least == [pause / 2 for pause in most]


def test_the_pause_is_a_small_part_of_the_lease() -> None:
    """Else what runs here would be given to others each time that the connection breaks twice."""
    assert max(pauses(10.0, 1.0)) <= 2.5
    assert max(pauses(2.0, 1.0)) <= 0.5


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        (None, "wants a key: give one with --key"),
        (keys.new_key("w1", "worker", keys.new_pair().public), "has another key than w1 was made"),
    ],
)
def test_whoever_hangs_up_first_the_key_is_named(key: keys.Key | None, cause: str) -> None:
    """A broker that sees first that the keys do not fit ends the connection without a word."""
    with socket.create_server(("127.0.0.1", 0)) as broker:
        link = Link([f"tcp://127.0.0.1:{broker.getsockname()[1]}"], key, lambda: 1.0)
        link.open(0.0)
        peer, _ = broker.accept()
        peer.recv(10)  # its signature
        peer.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f")
        peer.close()
        until = time.monotonic() + 5.0
        while not (events := list(link.watch())):
            assert time.monotonic() < until, "the end goes unseen"
        link.close(0.0)
    event = events[0]
    assert isinstance(event, Lost)
    assert cause in event.why
