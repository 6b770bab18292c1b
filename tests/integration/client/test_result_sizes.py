"""How large a result is, wherever a task is shown: also of large ones, and of those of long ago."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Fleet

LARGE = 200_000  # bytes; beyond `inline_result`, so it is a file


@pytest.mark.parametrize("restarted", [False, True], ids=["in memory", "in the store alone"])
def test_lists_and_single_tasks_tell_the_size(fleet: Fleet, restarted: bool) -> None:
    fleet.start_worker()
    client = fleet.client()
    large = client.submit("odd_result", what=str(LARGE))
    assert len(large.result(60)) == LARGE
    if restarted:  # an orderly end lets go of what has ended
        fleet.broker.stop()
        fleet.broker.start()
        client = fleet.client()
    [listed] = client.tasks()
    [shown] = client.show([large.id])
    assert listed.result_bytes == shown.result_bytes
    assert LARGE <= (listed.result_bytes or 0) < LARGE + 100
