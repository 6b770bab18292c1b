"""What a wait at a terminal asks of the broker meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import pytest

from corral.cli import follow
from corral.cli.output import Output
from corral.client import Client
from corral.errors import TimedOut
from corral.messages import Answer, Call, Explain, Explained, Explanation, Submit, Update
from corral.tasks import State
from tests.unit.client.scripted import ScriptedBroker, accept


def test_a_wait_looks_ever_more_seldom_why_its_task_does_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follow, "LOOK", 0.05)
    monkeypatch.setattr(follow, "LONGEST_LOOK", 0.2)
    looks: list[float] = []

    def script(call: Call) -> Sequence[Answer]:
        if isinstance(call, Submit):
            return [accept(call)]
        if isinstance(call, Explain):
            looks.append(time.monotonic())
            told = Explanation(id=call.id, state=State.QUEUED, summary="Why.", blocked="no GPU")
            return [Explained(call.request, told)]
        return []

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as client:
        handle = client.submit("echo")
        with pytest.raises(TimedOut):
            follow.wait_for(client, Output("table"), [handle], timeout=1.0, one=True)
    pauses = [later - earlier for earlier, later in pairwise(looks)]
    assert len(pauses) >= 2
    for pause, least in zip(pauses, [0.05, 0.1, 0.2, *[0.2] * 20], strict=False):
        assert pause >= least
    assert capsys.readouterr().err.count("waiting: no GPU") == 1  # and tells what is news


def progress(at: float, id: str = "a") -> Update:
    return Update(seq=0, at=at, id=id, cause="progress", progress=at / 100)


def change(at: float, state: State) -> Update:
    return Update(seq=0, at=at, id="a", cause="assign", state=state)


def test_a_watch_shows_a_line_of_progress_every_two_seconds_and_every_change() -> None:
    told = [
        change(10.0, State.RUNNING),
        *(progress(10.0 + tick / 5) for tick in range(1, 26)),
        change(15.1, State.RETRYING),
        change(15.2, State.RUNNING),
        change(15.3, State.SUCCEEDED),
    ]
    shown = list(follow.calmed(told))
    assert [one.at for one in shown] == [10.0, 12.0, 14.0, 15.1, 15.2, 15.3]


def test_one_task_s_progress_hides_nothing_of_another_s() -> None:
    told = [progress(1.0, "a"), progress(1.1, "b"), progress(1.2, "a"), progress(3.2, "b")]
    shown = [(one.id, one.at) for one in follow.calmed(told)]
    assert shown == [("a", 1.0), ("b", 1.1), ("b", 3.2)]


def test_a_broker_s_clock_that_is_set_back_does_not_silence_progress() -> None:
    told = [progress(5000.0), progress(5000.2), progress(10.0), progress(10.2), progress(12.0)]
    assert [one.at for one in follow.calmed(told)] == [5000.0, 10.0, 12.0]
