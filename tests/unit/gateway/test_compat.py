"""Words and shapes of the documents that Corral comes from, made from Corral's own."""

from __future__ import annotations

from typing import Any

import pytest

from corral.gateway.compat import STATUS, WORDS, operation_of, worker_of
from corral.messages import GpuView, TaskView, WorkerView
from corral.tasks import TERMINAL, State

CPU = ["backtest", "echo", "train_model"]
GPU = GpuView(uuid="GPU-1", memory_gb=24.0)


def worker(**fields: Any) -> WorkerView:
    given = {"status": "available", "health": "live", "admission": "open", "kinds": CPU, **fields}
    return WorkerView(name="w1", **given)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "backtesting"),
        ({"gpus": [GPU]}, "training"),
        ({"kinds": ["train_model"]}, "training"),
        ({"kinds": ["echo"]}, "other"),
        ({"gpus": [GPU], "labels": {"worker_type": "gpu_host"}}, "gpu_host"),
    ],
)
def test_the_type_of_a_worker(fields: dict[str, Any], word: str) -> None:
    assert worker_of(worker(**fields)).worker_type == word


def test_a_worker_in_those_words() -> None:
    told = worker_of(worker(gpus=[GPU, GPU], tasks=["t1", "t2"], status="busy", health="suspect"))
    assert told.status == "BUSY"
    assert (told.capabilities.gpu_count, told.capabilities.gpu_memory_gb) == (2, 24.0)
    assert told.current_operation_id == told.metadata.current_operation == "t1"
    assert told.health_check_failures == 1


def test_every_word_of_a_worker_has_one() -> None:
    assert set(WORDS) == {
        "available", "busy", "suspect", "unavailable", "gone", "draining", "drained",
    }  # fmt: skip


def test_every_state_has_a_status_and_those_that_end_say_so() -> None:
    assert set(STATUS) == set(State)
    assert {s for s in State if STATUS[s] not in ("pending", "running")} == TERMINAL


def test_a_backtest_s_figures_are_at_the_top() -> None:
    view = TaskView(id="a", kind="backtest", state=State.SUCCEEDED, progress=1.0)
    told = operation_of(view, {"symbol": "AAPL", "strategy": {"total_return": 0.5}})
    assert told.results["total_return"] == 0.5
    assert told.result == {"symbol": "AAPL", "strategy": {"total_return": 0.5}}
    assert operation_of(view, [1]).results == [1]
