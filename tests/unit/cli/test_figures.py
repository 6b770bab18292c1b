"""What `corral top` tells beside workers and tasks."""

from __future__ import annotations

import pytest

from corral.cli.figures import KIND_COLUMNS, fleet_text, kind_figures
from corral.cli.output import console, table
from corral.messages import BrokerView, GpuView, KindView, StoreView, TaskView, WorkerView
from corral.tasks import State


def task(id: str, wait: float, run: float, state: State = State.SUCCEEDED) -> TaskView:
    began = 100.0 + wait
    return TaskView(
        id=id, kind="train", state=state, submitted=100.0, started=began, ended=began + run
    )


def test_kinds_are_told_with_the_usual_times_of_what_ended_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = [
        KindView(kind="train", workers=2, queued=7, slowest=3.14),
        KindView(kind="idle", workers=2),
        KindView(kind="alone", workers=0, queued=1),
    ]
    ended = [task("a", 1.0, 10.0), task("b", 3.0, 30.0, State.FAILED), task("c", 2.0, 90.0)]
    ended.append(TaskView(id="d", kind="train", state=State.FAILED, submitted=1.0, ended=2.0))
    figures = kind_figures(kinds, ended)
    assert [one.view.kind for one in figures] == ["alone", "train"]
    console().print(table(figures, KIND_COLUMNS))
    alone, train = capsys.readouterr().out.splitlines()[-2:]
    assert alone.split() == ["alone", "0", "1"]
    told = "train 2 7 2.0 s 30 s 90 s 3.1 x expected 2 of 4"
    assert train.split() == told.split()


def test_the_fleet_on_one_line() -> None:
    gpus = [GpuView(uuid="1", memory_gb=24, holder="a"), GpuView(uuid="2", memory_gb=24)]
    workers = [
        WorkerView(name=name, status="", health="", admission="", slots=2, slots_used=1, gpus=gpus)
        for name in ("w1", "w2")
    ]
    broker = BrokerView(
        version="1", epoch=1, seq=1, started=0.0, endpoint="", data="", tasks={}, workers={},
        waited=75.0, store=StoreView(journal=1, tables=1, blobs=1, free=3 << 30),
    )  # fmt: skip
    told = "slots: 2/4 busy  GPUs: 2/4 busy  longest wait: 75 s  disk: 3.0 GiB free"
    assert fleet_text(broker, workers) == told
