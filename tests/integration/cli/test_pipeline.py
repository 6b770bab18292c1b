"""`corral pipeline`: a graph is shown, run on a private fleet, reused, and run on a shared one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from corral.messages import TaskView
from tests.integration.cli.conftest import Cli, Started

SMALL = """\
name: small
symbols: [IBM]
targets: [up_20d]
families: [ridge]
"""


@pytest.fixture
def small(alone: Cli) -> Cli:
    (alone.folder / "small.yaml").write_text(SMALL)
    return alone


def test_show_draws_the_graph_and_counts(small: Cli) -> None:
    page = small("pipeline", "show", "small.yaml").out
    assert "4 tasks: 1 rank_target, 1 select_features, 1 train_model, 1 backtest" in page
    for word in ("IBM", "up_20d", "ridge", "train", "backtest"):
        assert word in page
    planned: list[dict[str, Any]] = small("pipeline", "show", "small.yaml", "-o", "json").json()
    assert [one["kind"] for one in planned] == [
        "rank_target", "select_features", "train_model", "backtest",
    ]  # fmt: skip
    assert planned[3]["after"] == {"model": planned[2]["name"]}
    assert "136 tasks" in small("pipeline", "show", "demo").out


def test_run_local_writes_a_report_and_reuses_every_result(small: Cli) -> None:
    first = small("pipeline", "run", "small.yaml", "--local", "--data", "work")
    assert first.status == 0, first
    assert "4 succeeded" in first.err
    assert "0 reused; report: work/report.html" in first.err
    assert "ridge" in first.out  # the leaderboard is data
    report = (small.folder / "work" / "report.html").read_text()
    assert "<svg" in report
    again = small(
        "pipeline", "run", "small.yaml", "--local", "--data", "work", "--report", "new/page.html"
    )
    assert again.status == 0, again
    assert "4 reused; report: new/page.html" in again.err
    assert again.out == first.out
    assert (small.folder / "new" / "page.html").exists()


def test_submit_leaves_and_run_comes_back(corral: Cli) -> None:
    (corral.folder / "small.yaml").write_text(SMALL)
    submitted = corral("pipeline", "submit", "small.yaml")
    assert submitted.status == 0
    ids = submitted.out.split()
    assert len(ids) == 4
    assert "corral pipeline run small.yaml" in submitted.err
    followed = corral("pipeline", "run", "small.yaml")
    assert followed.status == 0, followed
    assert (corral.folder / "report.html").exists()
    views = corral("task", "list", "--project", "small", "-o", "json").json(list[TaskView])
    assert {view.id for view in views} == set(ids)


def test_ctrl_c_leaves_no_process_and_says_how_to_go_on(
    small: Cli, started: Callable[[Started], Started]
) -> None:
    run = started(small.start("pipeline", "run", "demo", "--local", "--data", "work"))
    run.until(lambda: "tasks submitted" in run.err)
    ended = run.end(signal.SIGINT)
    assert ended.status == 130
    assert "what was done is kept" in ended.err
    assert small("broker", "fsck", "--data", "work/broker").status == 0  # nobody leads it any more
