"""Inputs that no message can carry, or that are lost, fail their task alone; results fit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from corral import Retry, Task
from corral.errors import TaskFailed
from corral.settings import LEAST_MESSAGE, RESULT_LIMIT
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


def test_inputs_that_are_too_large_are_not_read(fleet: Fleet) -> None:
    fleet.start_worker("w1")
    with fleet.client() as client:
        parent = client.submit_task(Task("echo", {"data": "x" * (15 * MIB)}))
        parent.result(timeout=60)
        before = fleet.broker.peak_memory()
        after = {f"p{number}": parent.id for number in range(30)}  # 450 MiB together
        child = client.submit_task(Task("echo", {}, after=after))
        with pytest.raises(TaskFailed, match="bytes together"):
            child.result(timeout=30)
        assert fleet.broker.peak_memory() - before < 150 * MIB


def test_much_that_is_assigned_at_once_goes_in_several_messages(fleet: Fleet) -> None:
    with fleet.client() as client:
        waiting = [client.submit_task(Task("echo", {"data": "x" * (15 * MIB)})) for _ in range(6)]
        fleet.start_worker("w1", slots=6)
        for one in waiting:
            assert len(one.result(timeout=60)["data"]) == 15 * MIB
            assert len(client.show([one.id])[0].attempts) == 1


def test_the_largest_result_arrives_at_a_broker_that_takes_the_smallest_messages(
    tmp_path: Path,
) -> None:
    settings = f"broker: {{max_message: {LEAST_MESSAGE}}}\n"
    with closing(Fleet(tmp_path, settings)) as fleet, fleet.client() as client:
        fleet.start_worker("w1")
        head = 5  # bytes that say what follows and how long it is
        task = client.submit("odd_result", what=str(RESULT_LIMIT - head))
        assert len(task.result(timeout=60)) == RESULT_LIMIT - head


def alter(blob: Path) -> None:
    blob.write_bytes(b"X" + blob.read_bytes()[1:])


def make_unreadable(blob: Path) -> None:
    blob.unlink()
    blob.mkdir()  # to read it is an OSError, also for root


@pytest.mark.parametrize(
    ("lose", "failure"),
    [(alter, "input_lost"), (Path.unlink, "input_lost"), (make_unreadable, "input_unreadable")],
)
def test_a_child_whose_parents_result_is_lost_fails_and_says_so(
    lose: Callable[[Path], None], failure: str, fleet: Fleet
) -> None:
    fleet.start_worker("w1")
    with fleet.client() as client:
        parent = client.submit_task(Task("echo", {"data": "x" * 100_000}))
        parent.result(timeout=60)
        [blob] = (fleet.broker.data / "blobs").iterdir()
        lose(blob)
        once_more = Retry(limit=1, delay=0.1)
        child = client.submit_task(Task("echo", {}, {"large": parent.id}, retry=once_more))
        with pytest.raises(TaskFailed, match=rf"its parent large \({parent.id}\) cannot be read"):
            child.result(timeout=30)
        assert client.submit("echo", i=1).result(timeout=30) == {"i": 1}
        [view] = client.show([child.id])
        attempts = 2 if failure == "input_unreadable" else 1  # the disk may be well again
        assert (len(view.attempts), view.failure and view.failure.type) == (attempts, failure)
        assert client.status().epoch == 1  # the broker has not died of it
