"""A list that takes several pages holds every task once."""

from __future__ import annotations

from corral import Task
from tests.integration.conftest import Fleet


def test_tasks_that_came_in_one_instant_are_all_listed_once(fleet: Fleet) -> None:
    client = fleet.client()
    ids = [handle.id for handle in client.submit_many([Task("echo")] * 2_500, batch=None)]
    listed = [view.id for view in client.tasks(limit=4_000)]
    assert len(listed) == len(ids)
    assert set(listed) == set(ids)
    # Whatever is newer comes before them, after a restart too.
    fleet.restart_broker()
    again = client.submit_many([Task("echo")] * 10)
    listed = [view.id for view in client.tasks(limit=4_000)]
    assert set(listed[:10]) == {handle.id for handle in again}
    assert sorted(listed[10:]) == sorted(ids)
