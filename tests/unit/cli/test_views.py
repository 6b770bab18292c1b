"""What a person sees of a task, a worker and an explanation."""

from __future__ import annotations

import time

import pytest

from corral.cli import views
from corral.cli.output import console, table
from corral.messages import (
    AttemptView,
    Explanation,
    GpuView,
    Part,
    Step,
    TaskView,
    Verdict,
    WorkerVerdict,
    WorkerView,
)
from corral.tasks import Failure, State, Variant, force_gpu, prefer_gpu

NOW = time.time()
TASK = TaskView(
    id="abc123",
    kind="train_model",
    state=State.RUNNING,
    name="AAPL/mlp",
    params={"symbol": "AAPL"},
    after={"select": "def456"},
    needs=prefer_gpu(cpus=4, memory_gb=8),
    worker="w1",
    progress=0.5,
    metrics={"loss": 0.25},
    submitted=NOW - 90,
    started=NOW - 60,
    attempts=[AttemptView(number=1, worker="w1", started=NOW - 60)],
    failure=Failure("ValueError", "no such symbol", "Traceback\n  line 7"),
    story=[Step(NOW - 60, State.RUNNING, "assign", "the GPU was free", "w1", 1)],
)


def shown(capsys: pytest.CaptureFixture[str], page: object) -> str:
    console().print(page)
    return capsys.readouterr().out


def test_a_page_of_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, views.task_page(TASK))
    for text in (
        "abc123", "train_model", "AAPL/mlp", "● running", "50%", "loss 0.25", "w1",
        '{"symbol":"AAPL"}', "select: def456", "1 GPU + 4 cores + 8 GiB, else 4 cores + 8 GiB",
        "assign", "the GPU was free", "ValueError: no such symbol", "line 7",
    ):  # fmt: skip
        assert text in page, page
    assert "retries at" not in page  # what is empty is left out


def test_a_list_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, table([TASK], views.task_columns(NOW)))
    head, row = page.splitlines()
    assert head.split() == [
        "ID", "KIND", "NAME", "STATE", "DONE", "WORKER", "SUBMITTED", "RAN",
    ]  # fmt: skip
    for text in ("abc123", "● running", "50%", "w1", "90 s ago", "60 s"):
        assert text in row


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_mark_of_its_own_word(state: State) -> None:
    text = views.state_text(state.value).plain
    assert text.endswith(f" {state.value}")
    assert text != f" {state.value}"


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        ((), "nothing"),
        ((Variant(),), "nothing"),
        (force_gpu(cpus=2), "1 GPU + 2 cores"),
        ((Variant(gpus=2, gpu_memory_gb=24),), "2 GPUs + 24 GiB on each GPU"),
        ((Variant(cpus=1, memory_gb=23.541),), "1 core + 23.5 GiB"),
        ((Variant(memory_gb=0.25),), "256 MiB"),
        (
            (Variant(cpus=0.5, named={"ib_gateway": 1}, labels={"zone": "a"}),),
            "0.5 cores + 1 ib_gateway + label zone=a",
        ),
    ],
)
def test_needs_in_words(needs: tuple[Variant, ...], text: str) -> None:
    assert views.needs_text(needs) == text


def test_an_explanation_shows_each_need_of_each_worker_and_the_cure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = Explanation(
        id="abc123",
        state=State.QUEUED,
        summary="It is queued.",
        reasons=["two tasks of higher priority are before it"],
        workers=[
            WorkerVerdict(
                worker="w1",
                variant=0,
                verdicts=[
                    Verdict(need="gpus", wanted="1", has="0", met=False),
                    Verdict(need="cpus", wanted="4", has="16", met=True),
                ],
                fits=False,
            ),
            WorkerVerdict(worker="w2", variant=0, verdicts=[], fits=True),
        ],
        cure=[Part(action="free_gpu", subject="w1", text="1 GPU on w1 becomes free")],
    )
    page = shown(capsys, views.explanation_page(told)).splitlines()
    assert "○ queued" in page[0]
    assert "It is queued." in page
    assert "- two tasks of higher priority are before it" in page
    rows = {line.split()[0]: line.split() for line in page if line.startswith(("w1", "w2"))}
    assert rows["w1"] == ["w1", "1", "gpus", "1", "0", "✘", "not", "met", "cpus"]
    assert rows["w2"] == ["w2", "1", "✔", "met"]
    assert not any("16" in line for line in page)  # what is met is named, no more
    assert page[-1] == "1. 1 GPU on w1 becomes free"


def test_a_worker_says_what_is_declared_and_why_it_is_drained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = WorkerView(
        name="w1",
        status="draining",
        health="live",
        admission="draining",
        slots=2,
        slots_used=1,
        cpus=8,
        gpus=[GpuView(uuid="GPU-1", memory_gb=24, declared=True, holder="abc123")],
        drained_by="ann",
        drain_reason="a new driver",
        drain_since=NOW - 5,
        seen=NOW,
    )
    row = shown(capsys, table([worker], views.worker_columns(NOW))).splitlines()[1]
    for text in ("draining", "1/2", "1/1 declared", "by ann for 5.0 s: a new driver"):
        assert text in row, row
    page = shown(capsys, views.worker_page(worker))
    for text in ("GPU-1", "declared", "24 GiB", "abc123", "a new driver"):
        assert text in page, page
