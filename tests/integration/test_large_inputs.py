"""Inputs that no message can carry fail their own task and hold nobody else up."""

from __future__ import annotations

import pytest

from corral import Task
from corral.errors import TaskFailed
from tests.integration.conftest import Fleet

MIB = 1 << 20


def test_parents_whose_results_are_too_large_together_fail_their_child_alone(
    fleet: Fleet,
) -> None:
    fleet.start_worker("w1", slots=4)
    with fleet.client() as client:
        parents = [client.submit_task(Task("echo", {"data": "x" * (15 * MIB)})) for _ in range(5)]
        for parent in parents:
            parent.result(timeout=60)
        after = {f"p{number}": parent.id for number, parent in enumerate(parents)}
        child = client.submit_task(Task("echo", {}, after=after))
        others = [client.submit_task(Task("echo", {"i": i})) for i in range(5)]
        with pytest.raises(TaskFailed, match="bytes together"):
            child.result(timeout=30)
        assert [other.result(timeout=30) for other in others] == [{"i": i} for i in range(5)]
        assert len(client.show([child.id])[0].attempts) == 1


def test_much_that_is_assigned_at_once_goes_in_several_messages(fleet: Fleet) -> None:
    with fleet.client() as client:
        waiting = [client.submit_task(Task("echo", {"data": "x" * (15 * MIB)})) for _ in range(6)]
        fleet.start_worker("w1", slots=6)
        for one in waiting:
            assert len(one.result(timeout=60)["data"]) == 15 * MIB
            assert len(client.show([one.id])[0].attempts) == 1
