"""Ctrl-C may come at any moment: nothing is left half done, and the client goes on."""

from __future__ import annotations

import asyncio
import gc

import pytest

from corral import Client
from tests.unit.client.scripted import ScriptedBroker, echo


def test_ctrl_c_before_a_call_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with ScriptedBroker(lambda call: list(echo(call))) as broker, Client(broker.endpoint) as corral:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
            with pytest.raises(KeyboardInterrupt):
                corral.submit("echo", i=1)
            gc.collect()  # a coroutine that was never awaited would warn, and warnings are errors
        assert corral.submit("echo", i=2).result(timeout=10) == {"i": 2}
