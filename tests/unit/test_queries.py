"""Pages of tasks: what is on them, and that a page costs no more than a look at each task."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import views
from broker.core.state import BrokerState, TaskRecord
from broker.queries import Queries
from corral.messages import AttemptView, List, Shown
from corral.settings import BrokerSettings
from corral.tasks import Spec, State


def queries(tasks: Iterable[TaskRecord]) -> Queries:
    """Queries to a broker that has these tasks, in this order, and nothing in its tables."""
    state = BrokerState(BrokerSettings())
    state.tasks = {task.id: task for task in tasks}
    return Queries(cast(Any, SimpleNamespace(state=state, keeper=SimpleNamespace(tables=False))))


def ended(number: int, submitted: float, worker: str = "w1") -> TaskRecord:
    task = TaskRecord(f"task-{number}", Spec(kind=f"kind-{number % 2}"), number, submitted)
    task.state = State.FAILED if number % 3 else State.SUCCEEDED
    task.attempts = [AttemptView(number=1, worker=worker, started=submitted)]
    return task


def page(queries: Queries, **asked: Any) -> list[str]:
    answer = queries.answer(b"peer", List(b"request", **asked), 0.0)
    assert isinstance(answer, Shown)
    return [view.id for view in answer.tasks]


@given(
    moments=st.lists(st.integers(0, 5), max_size=30),
    limit=st.integers(1, 10),
    states=st.sampled_from([[], [State.FAILED], [State.FAILED, State.SUCCEEDED]]),
    kind=st.sampled_from(["", "kind-1"]),
)
def test_pages_hold_every_task_once_the_newest_first(
    moments: list[int], limit: int, states: list[State], kind: str
) -> None:
    """In whatever order they stand in memory, and however many came in one instant."""
    tasks = [ended(number, float(moment)) for number, moment in enumerate(moments)]
    asked = queries(tasks)
    wanted = [
        task
        for task in sorted(tasks, key=lambda task: (task.submitted, task.id), reverse=True)
        if (not states or task.state in states) and kind in ("", task.spec.kind)
    ]
    listed: list[str] = []
    while found := page(
        asked, states=states, kind=kind, limit=limit, before=listed[-1] if listed else ""
    ):
        assert len(found) <= limit
        listed += found
    assert listed == [task.id for task in wanted]


def test_a_page_takes_no_memory_for_tasks_that_are_not_on_it() -> None:
    def peak(count: int) -> int:
        asked = queries(ended(number, float(number)) for number in range(count))
        page(asked, limit=20)
        tracemalloc.start()
        try:
            assert len(page(asked, limit=20)) == 20
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(5_000) < 2 * peak(100)


def test_a_page_of_one_worker_makes_no_view_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = queries(ended(number, float(number), worker=f"w{number % 10}") for number in range(50))
    made: list[str] = []
    task_view = views.task_view

    def count(state: BrokerState, task: TaskRecord, full: bool = True) -> object:
        made.append(task.id)
        return task_view(state, task, full)

    monkeypatch.setattr(views, "task_view", count)
    assert page(asked, worker="w3", limit=3) == ["task-43", "task-33", "task-23"]
    assert len(made) == 3
