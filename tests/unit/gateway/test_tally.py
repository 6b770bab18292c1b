"""The tally: what happens to tasks is counted once, with its times, within bounds."""

from __future__ import annotations

from typing import Any

import pytest

from corral.gateway import tally as tallies
from corral.gateway.tally import BOUNDS, Histogram, Tally
from corral.messages import BrokerView, KindView, TaskView, Update
from corral.tasks import State


def broker(seq: int = 0, *kinds: str) -> BrokerView:
    return BrokerView(
        version="1", epoch=1, seq=seq, started=0.0, endpoint="", data="", tasks={}, workers={},
        kinds=[KindView(kind=kind, workers=1) for kind in kinds],
    )  # fmt: skip


class Told:
    """A tally, and a broker that tells it of tasks."""

    def __init__(self, begin: int | None = 0) -> None:
        self.tally = Tally()
        self._seq = 0
        if begin is not None:
            self.tally.begin(broker(begin, "work"))

    def tell(self, id: str, cause: str, state: State | None, at: float, **more: Any) -> None:
        self._seq += 1
        kind = "work" if cause == "submit" else ""
        update = Update(seq=self._seq, at=at, id=id, kind=kind, cause=cause, state=state, **more)
        self.tally.fold(update)

    def life(
        self, id: str, *, at: float, wait: float, run: float, gpus: tuple[str, ...] = ()
    ) -> None:
        self.tell(id, "submit", State.QUEUED, at)
        self.tell(id, "assign", State.RUNNING, at + wait, gpus=[*gpus])
        self.tell(id, "succeed", State.SUCCEEDED, at + wait + run)


def seen(histogram: Histogram) -> tuple[int, float]:
    return sum(histogram.counts), histogram.sum


def nonzero(counter: dict[Any, int]) -> dict[Any, int]:
    return {key: count for key, count in counter.items() if count}


def test_a_task_is_counted_with_its_wait_and_its_run() -> None:
    told = Told()
    told.life("a", at=10.0, wait=2.0, run=30.0)
    told.life("b", at=20.0, wait=0.5, run=4.0, gpus=("x",))
    tally = told.tally
    assert tally.submitted == {"work": 2}
    assert nonzero(tally.ended) == {("work", "succeeded"): 2}
    assert {key: seen(one) for key, one in tally.waits.items()} == {
        ("work", "cpu"): (1, 2.0),
        ("work", "gpu"): (1, 0.5),
    }
    assert {key: seen(one) for key, one in tally.runs.items()} == {
        ("work", "cpu"): (1, 30.0),
        ("work", "gpu"): (1, 4.0),
    }
    assert tally.placed == 20.5


def test_each_wait_and_each_attempt_of_a_retried_task_counts() -> None:
    told = Told()
    told.tell("a", "submit", State.WAITING, 1.0)
    told.tell("a", "parents_done", State.QUEUED, 100.0)
    told.tell("a", "assign", State.RUNNING, 101.0)
    told.tell("a", "progress", None, 101.5, progress=0.5)
    told.tell("a", "back_off", State.RETRYING, 103.0)
    told.tell("a", "due", State.QUEUED, 110.0)
    told.tell("a", "assign", State.RUNNING, 114.0)
    told.tell("a", "requeue", State.QUEUED, 120.0)  # what was lost on the way is no run
    told.tell("a", "assign", State.RUNNING, 121.0)
    told.tell("a", "fail", State.FAILED, 129.0)
    tally = told.tally
    assert (tally.retried, tally.requeued) == ({"work": 1}, {"work": 1})
    assert nonzero(tally.ended) == {("work", "failed"): 1}
    assert seen(tally.waits["work", "cpu"]) == (3, 1.0 + 4.0 + 1.0)
    assert seen(tally.runs["work", "cpu"]) == (2, 2.0 + 8.0)


def test_a_task_that_is_run_again_keeps_its_kind() -> None:
    told = Told()
    told.tell("a", "submit", State.QUEUED, 1.0)
    told.tell("a", "cancel", State.CANCELLED, 2.0)
    told.tell("a", "reopen", State.QUEUED, 3.0)
    told.tell("a", "assign", State.RUNNING, 5.0)
    told.tell("a", "succeed", State.SUCCEEDED, 6.0)
    assert nonzero(told.tally.ended) == {("work", "cancelled"): 1, ("work", "succeeded"): 1}
    assert seen(told.tally.waits["work", "cpu"]) == (1, 2.0)


@pytest.mark.parametrize("begin", [None, 3])
def test_the_past_is_not_counted(begin: int | None) -> None:
    told = Told(begin)
    told.life("a", at=1.0, wait=1.0, run=1.0)
    assert not nonzero(told.tally.ended)
    assert not nonzero(told.tally.submitted)
    assert not told.tally.runs


def test_what_began_in_the_past_is_counted_when_it_ends() -> None:
    told = Told(2)
    told.life("a", at=1.0, wait=1.0, run=5.0)
    assert nonzero(told.tally.ended) == {("work", "succeeded"): 1}
    assert seen(told.tally.runs["work", "cpu"]) == (1, 5.0)


def test_a_broker_that_began_anew_is_counted_from_its_beginning() -> None:
    told = Told(1_000)
    told.tally.begin(broker(0, "work"))
    told.life("a", at=1.0, wait=1.0, run=5.0)
    assert nonzero(told.tally.ended) == {("work", "succeeded"): 1}


def test_kinds_begin_at_zero_before_anything_happens() -> None:
    tally = Told().tally
    assert tally.ended == {("work", state.value): 0 for state in tallies.TERMINAL}
    assert tally.submitted == tally.retried == tally.requeued == {"work": 0}


def test_after_a_gap_tasks_that_ended_meanwhile_are_counted() -> None:
    told = Told()
    for id in ("a", "b", "c"):
        told.tell(id, "submit", State.QUEUED, 1.0)
    told.tell("b", "assign", State.RUNNING, 2.0)
    for view in (
        TaskView(id="a", kind="work", state=State.FAILED, submitted=1.0, ended=9.0),
        TaskView(id="b", kind="work", state=State.RUNNING, submitted=1.0, started=2.0),
        TaskView(id="c", kind="work", state=State.RUNNING, submitted=1.0, started=7.0),
        TaskView(id="d", kind="work", state=State.QUEUED, submitted=8.0),
        TaskView(id="old", kind="work", state=State.SUCCEEDED, submitted=0.0, ended=0.5),
    ):
        told.tally.fold(view)
    for id in ("b", "c"):
        told.tell(id, "succeed", State.SUCCEEDED, 10.0)
    assert nonzero(told.tally.ended) == {("work", "failed"): 1, ("work", "succeeded"): 2}
    assert seen(told.tally.runs["work", "cpu"]) == (2, 8.0 + 3.0)


def test_an_unknown_task_is_counted_without_its_kind() -> None:
    told = Told()
    told.tell("a", "assign", State.RUNNING, 2.0)
    told.tell("a", "fail", State.FAILED, 3.0)
    assert nonzero(told.tally.ended) == {("unknown", "failed"): 1}


def test_bounds_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "KINDS", 3)
    monkeypatch.setattr(tallies, "FOLLOWED", 5)
    monkeypatch.setattr(tallies, "REMEMBERED", 2)
    tally = Tally()
    tally.begin(broker(0))
    for number in range(10):
        tally.fold(
            Update(seq=1, at=1.0, id=f"{number}", kind=f"k{number}", cause="submit",
                   state=State.QUEUED)
        )  # fmt: skip
    assert tally.submitted == {"k0": 1, "k1": 1, "k2": 1, "other": 7}
    for number in range(10):
        tally.fold(Update(seq=2, at=2.0, id=f"{number}", cause="cancel", state=State.CANCELLED))
    assert sum(tally.ended.values()) == 10
    assert (len(tally._lives), len(tally._over)) == (0, 2)


def test_times_fall_into_the_bucket_whose_bound_they_do_not_pass() -> None:
    histogram = Histogram()
    for seconds in (-5.0, 0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], 10 * BOUNDS[-1]):
        histogram.observe(seconds)
    assert histogram.counts[:2] == [3, 1]
    assert histogram.counts[-2:] == [1, 1]
