"""The page: whoever follows it by frames, however slowly, sees what there is."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from corral.gateway.page import STILL, Frame, Page, Row
from corral.messages import TaskView, Update, WorkerView
from corral.tasks import Failure, State


def worker(name: str, **fields: Any) -> WorkerView:
    return WorkerView(
        name=name, status="available", health="live", admission="open", seen=100.0, **fields
    )


def update(id: str, cause: str = "submit", state: State | None = State.QUEUED, **f: Any) -> Update:
    return Update(**{"seq": 1, "at": 10.0, "id": id, "cause": cause, "state": state, **f})


def rows(frame: Frame | None) -> dict[str, Row]:
    assert frame is not None
    return {row.id: row for row in frame.tasks}


def test_a_task_is_followed_through_its_life() -> None:
    page = Page(0.0)
    page.fold(update("a", kind="echo", name="first", project="p", priority=3, at=1.0))
    page.fold(update("a", "assign", State.RUNNING, worker="w1", at=2.0))
    page.fold(update("a", "progress", None, progress=0.5, metrics={"loss": 0.1}))
    page.fold(update("a", "fail", State.FAILED, why="it broke", at=3.0))
    [row] = page.everything().tasks
    assert row == Row(
        id="a", kind="echo", state=State.FAILED, name="first", project="p", priority=3,
        worker="w1", progress=0.5, metrics={"loss": 0.1}, submitted=1.0, started=2.0, ended=3.0,
        why="it broke",
    )  # fmt: skip
    page.fold(update("a", "reopen", State.QUEUED))
    page.fold(update("a", "assign", State.RUNNING, worker="w2", at=5.0))
    [row] = page.everything().tasks
    assert (row.worker, row.started, row.ended, row.progress, row.why) == (
        "w2",
        5.0,
        None,
        None,
        "",
    )


def test_a_snapshot_replaces_what_was_known() -> None:
    page = Page(0.0)
    page.fold(update("a"))
    view = TaskView(
        id="a", kind="echo", state=State.FAILED, submitted=1.0, failure=Failure("E", "why not")
    )
    page.fold(view)
    assert rows(page.everything())["a"].why == "why not"
    assert page.nameless(10) == []


def test_a_task_of_which_only_a_change_is_known_is_told_apart() -> None:
    page = Page(0.0)
    page.fold(update("a", kind="echo"))
    page.fold(update("b", "assign", State.RUNNING, worker="w1"))
    page.fold(update("c", "assign", State.RUNNING, worker="w1"))
    assert page.nameless(10) == ["b", "c"]
    assert page.nameless(1) == ["b"]
    page.drop("b")
    assert page.nameless(10) == ["c"]


def test_what_is_told_once_is_told_as_it_is_now() -> None:
    page = Page(0.0)
    page.fold(update("a"))
    at = page.rev
    for step in range(100):
        page.fold(update("b", "progress", None, progress=step / 100))
    frame = page.since(at)
    assert rows(frame) == {"b": rows(page.everything())["b"]}
    assert page.since(page.rev) == Frame(at=page.rev)


def test_a_revision_of_nobody_gets_everything() -> None:
    page = Page(0.0)
    page.fold(update("a"))
    assert page.since(page.rev + 1) is None
    assert page.since(-1) is None


def test_the_window_keeps_what_goes_on() -> None:
    page = Page(0.0, window=3)
    for id in "abcd":
        page.fold(update(id, kind="echo"))
        if id in "bc":
            page.fold(update(id, "succeed", State.SUCCEEDED))
    assert set(rows(page.everything())) == {"a", "c", "d"}
    page.fold(update("e"))
    page.fold(update("f"))
    assert set(rows(page.everything())) == {"d", "e", "f"}


def ended(number: int) -> TaskView:
    state = State.FAILED if number % 2 else State.SUCCEEDED
    return TaskView(
        id=f"t{number}", kind="echo", state=state, submitted=1.0, ended=float(number)
    )  # fmt: skip


def test_what_ended_first_leaves_first_in_whatever_order_it_is_told() -> None:
    page = Page(0.0, window=4)
    told = [page.fold(ended(number)) for number in (6, 5, 4, 3, 2)]  # as a snapshot tells it
    assert [row.ended for row in told] == [6.0, 5.0, 4.0, 3.0, 2.0]
    assert set(rows(page.everything())) == {"t6", "t5", "t4", "t3"}
    for id in ("a", "b"):
        page.fold(update(id, kind="echo", at=7.0))
        page.fold(update(id, "succeed", State.SUCCEEDED, at=8.0))
    assert set(rows(page.everything())) == {"t6", "t5", "a", "b"}
    page.fold(update("t5", "reopen", at=9.0))
    page.fold(update("c", kind="echo", at=10.0))
    assert set(rows(page.everything())) == {"t5", "a", "b", "c"}


def test_what_runs_stays_though_it_was_submitted_first() -> None:
    page = Page(0.0, window=3)
    page.fold(TaskView(id="a", kind="echo", state=State.RUNNING, submitted=1.0, started=2.0))
    for n in range(3, 8):
        page.fold(update(str(n), kind="echo", at=float(n)))
    assert set(rows(page.everything())) == {"a", "6", "7"}
    page.fold(update("b", "progress", None, progress=0.5))  # from one that was out of sight
    assert set(rows(page.everything())) == {"a", "7", "b"}


def test_a_sign_of_life_alone_is_no_news() -> None:
    page = Page(0.0)
    page.see_workers([worker("w1"), worker("w2")])
    at = page.rev
    later = msgspec.structs.replace(worker("w1"), seen=100.0 + STILL / 2)
    page.see_workers([later, worker("w2")])
    assert page.rev == at
    page.see_workers([msgspec.structs.replace(later, seen=100.0 + STILL), worker("w2", slots=4)])
    frame = page.since(at)
    assert frame is not None
    assert {one.name for one in frame.workers} == {"w1", "w2"}
    page.see_workers([worker("w1")])
    last = page.since(frame.at)
    assert last is not None
    assert last.workers_gone == ["w2"]


def test_the_link_is_told_with_its_time() -> None:
    page = Page(5.0)
    page.see_link(True, 6.0)
    at = page.rev
    page.see_link(True, 7.0)
    assert page.rev == at
    page.see_link(False, 8.0)
    frame = page.since(at)
    assert frame is not None
    assert frame.link is not None
    assert (frame.link.up, frame.link.since) == (False, 8.0)


class Reader:
    """A page of a browser, as it is told from frames."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.tasks: dict[str, Row] = {}
        self.workers: dict[str, WorkerView] = {}

    def read(self, page: Page) -> None:
        frame = page.since(self.at) if self.at is not None else None
        if frame is None:
            frame = page.everything()
            self.tasks, self.workers = {}, {}
        told = msgspec.json.decode(msgspec.json.encode(frame), type=Frame)
        self.tasks |= {row.id: row for row in told.tasks}
        self.workers |= {one.name: one for one in told.workers}
        for id in told.gone:
            self.tasks.pop(id, None)
        for name in told.workers_gone:
            self.workers.pop(name, None)
        self.at = told.at


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("task"), st.sampled_from("abcdefgh"), st.sampled_from(list(State))),
        st.tuples(st.just("workers"), st.sets(st.sampled_from(["w1", "w2", "w3"])), st.integers(1)),
        st.tuples(st.just("drop"), st.sampled_from("abcdefgh"), st.none()),
        st.tuples(st.just("read"), st.integers(0, 2), st.none()),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_reader_sees_what_there_is(steps: list[tuple[str, Any, Any]]) -> None:
    page = Page(0.0, window=4)
    readers = [Reader(), Reader(), Reader()]
    for what, name, value in steps:
        if what == "task":
            page.fold(update(name, "step", value))
        elif what == "workers":
            page.see_workers([worker(one, slots=value) for one in sorted(name)])
        elif what == "drop":
            page.drop(name)
        else:
            readers[name].read(page)
    for reader in readers:
        reader.read(page)
        assert reader.tasks == rows(page.everything())
        assert reader.workers == {one.name: one for one in page.everything().workers}
    assert len(page.everything().tasks) <= 4


def test_memory_does_not_grow_with_time() -> None:
    page = Page(0.0, window=10)
    for number in range(10_000):
        page.fold(update(str(number)))
    assert len(page.everything().tasks) == 10
    assert len(page._changed) <= 2 * (10 + 2)
    for number in range(1_000):
        page.fold(update("9999", "succeed", State.SUCCEEDED, at=float(number)))
    assert len(page._leaving) <= 2 * (10 + 2)
    assert page.since(0) is None


def test_a_task_s_gpus_are_those_that_it_was_given_last() -> None:
    page = Page(0.0)
    page.fold(update("a", kind="train"))
    page.fold(update("a", "assign", State.RUNNING, worker="w1", at=2.0, gpus=["x"]))
    page.fold(update("a", "succeed", State.SUCCEEDED, at=3.0))
    assert rows(page.everything())["a"].gpus == ["x"]  # where it ran stays known
    page.fold(update("a", "assign", State.RUNNING, worker="w1", at=4.0))
    assert rows(page.everything())["a"].gpus == []


def test_who_is_expected_is_told_when_it_changes_and_not_again() -> None:
    page = Page(0.0)
    assert page.everything().expected is None
    page.see_expected(["w1"])
    first = page.everything()
    assert first.expected == ["w1"]
    page.see_expected(["w1"])
    assert page.rev == first.at
    page.see_expected([])
    frame = page.since(first.at)
    assert frame is not None
    assert frame.expected == []
