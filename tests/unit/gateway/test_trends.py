"""What was over time: bounded, reaching back to its beginning, with the newest in it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from corral.gateway.history import History
from corral.gateway.trends import CHANGES, CURVES, FIGURES, Depth, Trend, Trends
from corral.messages import Update, WorkerView


@given(st.integers(2, 9), st.integers(0, 300))
def test_a_trend_is_bounded_and_keeps_its_ends(most: int, came: int) -> None:
    trend: Trend[int] = Trend(most)
    for point in range(came):
        trend.add(point)
    points = trend.points()
    assert points == sorted(set(points))
    assert len(points) <= most + 1
    if came:
        assert (points[0], points[-1]) == (0, came - 1)
    steps = {after - before for before, after in itertools.pairwise(points[:-1])}
    assert len(steps) <= 1


def told(id: str, at: float, **fields: Any) -> Update:
    return Update(**{"seq": 1, "at": at, "id": id, "cause": "progress", **fields})


def test_a_curve_is_what_a_task_told() -> None:
    trends = Trends()
    trends.fold(told("a", 1.0, progress=0.1, metrics={"loss": 3.0}))
    trends.fold(Update(seq=2, at=1.5, id="a", cause="assign"))
    trends.fold(told("a", 2.0, progress=0.2, metrics={"loss": 2.0}))
    points = [(one.at, one.progress, one.metrics) for one in trends.curve("a")]
    assert points == [(1.0, 0.1, {"loss": 3.0}), (2.0, 0.2, {"loss": 2.0})]
    assert trends.curve("b") == []


def test_curves_are_bounded_the_oldest_goes_first() -> None:
    trends = Trends()
    many = {f"m{n}": float(n) for n in range(100)}
    for n in range(CURVES + 1):
        trends.fold(told(str(n), float(n), metrics=many))
    assert trends.curve("0") == []
    [point] = trends.curve("1")
    assert len(point.metrics) == FIGURES


def worker(name: str, **fields: Any) -> WorkerView:
    same = {"status": "available", "health": "live", "admission": "open", "incarnation": "1"}
    return WorkerView(**{"name": name, "about": {"corral": "1.0"}, **same, **fields})


def test_a_rolling_update_is_told_step_by_step() -> None:
    trends = Trends()
    trends.see_workers([worker("w1"), worker("w2")], 1.0)
    drained = {"admission": "drained", "drain_reason": "update", "drained_by": "ansible"}
    trends.see_workers([worker("w1", **drained), worker("w2")], 2.0)
    new = {"incarnation": "2", "about": {"corral": "1.1"}}
    trends.see_workers([worker("w1", **drained, **new), worker("w2")], 3.0)
    trends.see_workers([worker("w1", **new), worker("w2", health="suspect")], 4.0)
    trends.see_workers([worker("w1", **new), worker("w3")], 5.0)
    assert [(one.at, one.worker, one.what, one.why) for one in trends.changes] == [
        (2.0, "w1", "drained", "update, by ansible"),
        (3.0, "w1", "started again", ""),
        (3.0, "w1", "version 1.1", "it was 1.0"),
        (4.0, "w1", "open", ""),
        (4.0, "w2", "suspect", ""),
        (5.0, "w2", "gone", ""),
        (5.0, "w3", "here", "1.0"),
    ]


def test_what_changed_while_the_gateway_was_away_is_told(tmp_path: Path) -> None:
    def looked(at: float, *views: WorkerView) -> list[tuple[str, str]]:
        """What a gateway tells that starts, looks once and stops."""
        kept = History(tmp_path / "history.db", keep=100.0)
        trends = Trends(*kept.told())
        kept.see_depth(Depth(at=at, tasks={}, workers={}))
        kept.see_workers(views, at)
        found = trends.see_workers(views, at)
        kept.close(at)
        return [(one.worker, one.what) for one in found]

    assert looked(20.0, worker("w1"), worker("w2")) == []
    assert looked(40.0, worker("w1", incarnation="2", status="busy"), worker("w2")) == [
        ("w1", "started again")
    ]
    assert looked(60.0) == [("w1", "gone"), ("w2", "gone")]
    assert looked(80.0, worker("w1", incarnation="3")) == [("w1", "here")]


def test_a_worker_that_a_new_broker_has_not_heard_yet_has_not_started_again() -> None:
    trends = Trends(workers=[worker("w1")])
    unheard = worker("w1", incarnation="", health="unavailable", about={})
    turns = [[unheard], [worker("w1")], [unheard], [worker("w1", incarnation="2")]]
    found = [[one.what for one in trends.see_workers(turn, 1.0)] for turn in turns]
    assert found == [["unavailable"], ["live"], ["unavailable"], ["started again", "live"]]


def test_a_worker_that_has_no_incarnation_changes_like_any_other() -> None:
    trends = Trends()
    plain = {"incarnation": "", "dialect": "MDP/0.2", "about": {}}
    trends.see_workers([worker("w1", **plain)], 1.0)
    [change] = trends.see_workers([worker("w1", **plain, admission="drained")], 2.0)
    assert change.what == "drained"


def test_changes_are_bounded() -> None:
    trends = Trends()
    for turn in range(CHANGES):
        trends.see_workers([worker("w", incarnation=str(turn)), worker(str(turn))], float(turn))
    assert len(trends.changes) == CHANGES
