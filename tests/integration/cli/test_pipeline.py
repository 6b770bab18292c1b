"""`corral pipeline`: a graph is shown, run on a private fleet, reused, and run on a shared one."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import Any

import httpx
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


def test_submit_leaves_and_run_comes_back_and_reuses(corral: Cli) -> None:
    (corral.folder / "small.yaml").write_text(SMALL)
    submitted = corral("pipeline", "submit", "small.yaml")
    assert submitted.status == 0
    ids = submitted.out.split()
    assert len(ids) == 4
    assert "corral pipeline run small.yaml" in submitted.err
    followed = corral("pipeline", "run", "small.yaml")
    assert followed.status == 0, followed
    assert "4 reused; report: report.html" in followed.err
    assert "ridge" in followed.out  # the leaderboard is data
    assert "<svg" in (corral.folder / "report.html").read_text()
    again = corral("pipeline", "run", "small.yaml", "--report", "new/page.html")
    assert again.out == followed.out
    assert (corral.folder / "new" / "page.html").exists()
    views = corral("task", "list", "--project", "small", "-o", "json").json(list[TaskView])
    assert {view.id for view in views} == set(ids)


def test_run_local_puts_the_report_beside_its_data(small: Cli) -> None:
    (small.folder / "small.yaml").write_text(SMALL.replace("IBM", "AAPL"))
    (small.folder / "corral.yaml").write_text("key: anothers.key\n")  # its own broker has no keys
    done = small("pipeline", "run", "small.yaml", "--local", "--data", "work")
    assert done.status == 0, done
    assert "4 succeeded" in done.err
    assert done.err.rstrip().endswith("0 reused; report: work/report.html")
    assert (small.folder / "work" / "report.html").exists()


NO_GPU = "needs: {rank_target: {gpu: force}}\n"


def test_a_pipeline_that_nothing_here_can_run_ends_at_once(small: Cli) -> None:
    (small.folder / "small.yaml").write_text(SMALL + NO_GPU)
    ended = small("pipeline", "run", "small.yaml", "--local", "--data", "work")
    assert ended.status == 6
    assert "gpus 1" in ended.err
    assert "corral task explain" in ended.err


def test_a_missing_extra_is_told_before_anything_starts(small: Cli) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'jinja2'\", name='jinja2')\n"
    (small.folder / "jinja2.py").write_text(missing)
    ended = small("pipeline", "run", "small.yaml", "--local", PYTHONPATH=str(small.folder))
    assert ended.status == 2
    assert "pip install 'corral[research]'" in ended.err
    assert not (small.folder / ".corral").exists()


def test_a_local_run_can_be_watched_and_ctrl_c_leaves_no_process(
    small: Cli, started: Callable[[Started], Started]
) -> None:
    run = started(small.start("pipeline", "run", "demo", "--local", "--data", "work"))
    run.until(lambda: "tasks submitted" in run.err)
    found = re.search(r"see it live, while it runs: (\S+)", run.err)
    assert found is not None
    assert "<title>Corral</title>" in httpx.get(found[1]).text
    assert httpx.get(f"{found[1]}api/v1/tasks?project=demo").json()
    ended = run.end(signal.SIGINT)
    assert ended.status == 130
    assert "what was done is kept" in ended.err
    assert small("broker", "fsck", "--data", "work/broker").status == 0  # nobody leads it any more
