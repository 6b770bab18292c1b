"""A watch that lost its place: it hears of what ended meanwhile, also when that has left memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from corral import Task
from corral.messages import Update
from corral.tasks import State
from tests.integration.conftest import Fleet


def first(updates: Iterator[Update], count: int) -> list[Update]:
    """So many updates, which must come soon."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(lambda: list(islice(updates, count))).result(20.0)


@pytest.mark.parametrize("named", [True, False], ids=["one task", "every task"])
def test_what_ended_before_an_orderly_restart_is_told(fleet: Fleet, named: bool) -> None:
    fleet.start_worker()
    with_result = fleet.client().submit("echo", i=1)
    assert with_result.result(20) == {"i": 1}
    # An orderly end folds the journal away and lets go of what has ended.
    fleet.broker.stop()
    fleet.broker.start()
    client = fleet.client()
    waiting = client.submit("sleep", seconds=60.0)
    ids = [with_result.id, waiting.id] if named else []
    told = {update.id: update for update in first(client.watch(ids, since=1), 2)}
    assert told[with_result.id].state is State.SUCCEEDED
    assert told[with_result.id].cause == "snapshot"
    assert told[waiting.id].state in (State.QUEUED, State.RUNNING)
    client.cancel([waiting.id])


def test_one_that_missed_much_gets_a_snapshot_however_few_commits_made_it(fleet: Fleet) -> None:
    fleet.start_worker()
    client = fleet.client()
    # Some 12,000 updates, in a few rows of the journal: each of them told would be many megabytes.
    handles = client.submit_many((Task("sleep", {"seconds": 60.0}) for _ in range(12_000)), 2_000)
    told = first(fleet.client().watch(since=0), 5_000)
    assert {update.cause for update in told} == {"snapshot"}
    assert len({update.id for update in told}) == 5_000
    client.cancel([handle.id for handle in handles])
