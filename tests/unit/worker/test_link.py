"""How long an agent waits before it connects again."""

from __future__ import annotations

import itertools

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
