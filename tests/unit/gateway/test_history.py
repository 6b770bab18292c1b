"""Any past moment is shown as it was, after a restart too, and what is kept is bounded."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import HistoryUnusable
from corral.gateway import history
from corral.gateway.history import History, Past
from corral.gateway.page import Page, Row
from corral.gateway.trends import Change, Depth
from corral.messages import GpuView, TaskView, Update, WorkerView
from corral.tasks import State

DAY = 86400.0
LIFE = [
    ("submit", State.QUEUED, {"kind": "echo", "name": "first"}),
    ("assign", State.RUNNING, {"worker": "w1"}),
    ("back_off", State.RETRYING, {"why": "it broke"}),
    ("due", State.QUEUED, {}),
    ("assign", State.RUNNING, {"worker": "w2"}),
    ("succeed", State.SUCCEEDED, {}),
]


def worker(name: str, **fields: Any) -> WorkerView:
    same = {"status": "available", "health": "live", "admission": "open"}
    return WorkerView(**{"name": name, **same, **fields})


def live(kept: History, id: str, times: list[float]) -> list[Row]:
    """A task's life, told at these times; its rows as the page had them."""
    page = Page(0.0)
    rows = []
    for at, (cause, state, more) in zip(times, LIFE, strict=False):
        page.fold(Update(seq=1, at=at, id=id, cause=cause, state=state, **more))
        [row] = page.everything().tasks
        kept.see(row, at)
        rows.append(Row(**{name: getattr(row, name) for name in row.__struct_fields__}))
    return rows


def flush(kept: History, now: float) -> None:
    kept.write(kept.take(), now)


def states(past: Past) -> dict[str, str]:
    return {row.id: row.state.value for row in past.tasks}


@pytest.fixture
def kept(tmp_path: Path) -> History:
    return History(tmp_path / "new" / "history.db", DAY)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=len(LIFE), unique=True).map(sorted))
def test_every_moment_is_shown_as_it_was(tmp_path_factory: Any, seconds: list[int]) -> None:
    kept = History(tmp_path_factory.mktemp("history") / "history.db", DAY)
    times = [float(one) for one in seconds]
    rows = live(kept, "a", times)
    flush(kept, 0.0)
    assert kept.past(times[0] - 0.5).tasks == []
    for at, row in zip(times, rows, strict=True):
        assert kept.past(at).tasks == [row]
        assert kept.past(at + 0.5).tasks == [row]
    kept.close(0.0)


def test_it_survives_a_restart_and_what_is_told_twice_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for _ in range(2):
        kept = History(path, DAY)
        live(kept, "a", [1.0, 2.0, 3.0])
        kept.see_change(Change(at=2.0, worker="w1", what="drained"))
        kept.see_depth(Depth(at=10.0, tasks={"queued": 1}, workers={}))
        kept.close(20.0)
    kept = History(path, DAY)
    assert states(kept.past(2.5)) == {"a": "running"}
    assert kept.past(4.0).counts == {"retrying": 1}
    depths, changes, workers = kept.told()
    assert workers == []
    assert [one.at for one in depths] == [10.0]
    assert changes[0].what == "drained"
    assert kept.past(20.0).oldest == pytest.approx(10.0)


def test_of_a_task_that_is_told_as_it_is_its_times_tell_how_it_was(kept: History) -> None:
    page = Page(0.0)
    view = TaskView(
        id="a", kind="echo", state=State.SUCCEEDED, worker="w1", submitted=1.0, started=2.0,
        ended=3.0,
    )  # fmt: skip
    page.fold(view)
    [row] = page.everything().tasks
    kept.see_view(view, row)
    flush(kept, 0.0)
    found = [states(kept.past(at)).get("a") for at in (0.5, 1.5, 2.5, 3.5)]
    assert found == [None, "queued", "running", "succeeded"]
    assert [row.worker for row in kept.past(1.5).tasks] == [""]


def test_two_changes_at_one_moment_keep_their_order(kept: History) -> None:
    live(kept, "a", [1.0, 1.0])
    flush(kept, 0.0)
    assert states(kept.past(1.0)) == {"a": "running"}


def test_workers_are_shown_with_what_they_ran(kept: History) -> None:
    card = GpuView(uuid="x", memory_gb=8.0)
    kept.see_workers([worker("w1", slots=1, gpus=[card]), worker("w2")], 1.0)
    busy = worker("w1", slots=1, slots_used=1, status="busy", tasks=["a"], gpus=[card])
    kept.see_workers([busy], 5.0)
    [*_, row] = live(kept, "a", [1.0, 2.0])
    row.gpus = ["x"]
    kept.see(row, 2.5)
    flush(kept, 0.0)
    before, then, after = kept.past(1.5), kept.past(3.0), kept.past(6.0)
    assert [(one.name, one.status, one.tasks) for one in before.workers] == [
        ("w1", "available", []), ("w2", "available", []),
    ]  # fmt: skip
    assert [(one.name, one.status, one.tasks) for one in then.workers] == [
        ("w1", "busy", ["a"]), ("w2", "available", []),
    ]  # fmt: skip
    assert then.workers[0].gpus[0].holder == "a"
    assert [one.name for one in after.workers] == ["w1"]


def test_a_worker_that_left_while_nobody_looked_is_gone(tmp_path: Path) -> None:
    kept = History(tmp_path / "history.db", DAY)
    kept.see_workers([worker("w1"), worker("w2")], 1.0)
    kept.close(2.0)
    kept = History(tmp_path / "history.db", DAY)
    kept.see_workers([worker("w2")], 10.0)
    flush(kept, 10.0)
    assert [one.name for one in kept.past(5.0).workers] == ["w1", "w2"]
    assert [one.name for one in kept.past(11.0).workers] == ["w2"]


def test_what_is_too_old_is_forgotten_but_not_what_goes_on(kept: History) -> None:
    live(kept, "ended", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    live(kept, "runs", [1.0, 2.0])
    kept.see_workers([worker("w1")], 1.0)
    kept.see_depth(Depth(at=11.0, tasks={}, workers={}))
    flush(kept, DAY * 2)
    assert states(kept.past(DAY * 2)) == {"runs": "running"}
    assert [one.name for one in kept.past(DAY * 2).workers] == ["w1"]
    assert kept.told() == ([], [], None)


def test_its_size_is_bounded(kept: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 60)
    for n in range(50):
        live(kept, str(n), [n + step / 10 for step in range(len(LIFE))])
    flush(kept, 100.0)
    assert len(states(kept.past(100.0))) <= 11


def test_a_damaged_history_is_named_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    History(path, DAY).close(0.0)
    with closing(apsw.Connection(str(path))) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'depth'").get
        size = connection.pragma("page_size")
    data = bytearray(path.read_bytes())
    data[(root - 1) * size : root * size] = bytes(range(256)) * (size // 256)
    path.write_bytes(data)
    with pytest.raises(HistoryUnusable, match="malformed") as unusable:
        History(path, DAY)
    assert "Move that file away" in unusable.value.cure


@pytest.mark.parametrize("content", [b"no database, but long enough to be looked at" * 40, None])
def test_a_file_that_is_no_history_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "history.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(HistoryUnusable, match=r"history\.db"):
        History(path, DAY)
