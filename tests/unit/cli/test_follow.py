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
from corral.messages import Answer, Call, Explain, Explained, Explanation, Submit
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
