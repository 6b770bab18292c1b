"""The broker's time goes on evenly, whatever the wall clock does."""

from __future__ import annotations

import time

import pytest

from broker.clock import Clock


class Clocks:
    """The two clocks of a machine, which a test sets."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_000_000.0, 500.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(time, "time", lambda: clocks.wall)
    monkeypatch.setattr(time, "monotonic", lambda: clocks.monotonic)
    return clocks


@pytest.mark.parametrize("jump", [3600.0, -3600.0, -1e9])
def test_a_clock_that_jumps_while_the_broker_runs_is_not_looked_at(
    clocks: Clocks, jump: float
) -> None:
    clock = Clock()
    assert clock.now() == 1_000_000.0
    clocks.pass_(5.0)
    clocks.wall += jump
    assert clock.now() == 1_000_005.0
    assert clock.at(clocks.monotonic + 1.0) == 1_000_006.0


def test_time_begins_no_earlier_than_what_is_recorded_and_the_clock_catches_up(
    clocks: Clocks,
) -> None:
    clock = Clock()
    assert clock.begin_at(1_003_600.0) == 3600.0
    assert clock.now() == 1_003_600.0
    before = clock.now()
    for _ in range(48):
        clocks.pass_(900.0)
        assert 0.89 * 900 < clock.now() - before < 900.1
        before = clock.now()
    assert clock.now() == clocks.wall


def test_records_from_the_past_change_nothing(clocks: Clocks) -> None:
    clock = Clock()
    assert clock.begin_at(999_999.0) == 0.0
    clocks.pass_(10.0)
    assert clock.begin_at(0.0) == 0.0
    assert clock.now() == clocks.wall
