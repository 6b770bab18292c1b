"""GPUs that the management library shows. The library is a stand-in; declared GPUs need none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from corral.messages import Resources
from tests.integration.worker.conftest import Starter
from tests.support.kinds import environment
from tests.support.scripted_broker import ScriptedBroker, item

NVML = Path(__file__).parents[2] / "support" / "nvml"


def card(uuid: str, used: dict[int, float] | None = None) -> dict[str, Any]:
    return {"uuid": uuid, "name": "H100", "gib": 80, "used": used or {}}


def test_cards_are_announced_and_their_foreign_use_is_followed(
    start: Starter, broker: ScriptedBroker, tmp_path: Path
) -> None:
    cards = tmp_path / "cards.json"
    cards.write_text(json.dumps([card("GPU-a", {os.getpid(): 10.0}), card("lost"), card("GPU-b")]))
    path = os.pathsep.join([str(NVML), environment()["PYTHONPATH"]])
    worker = start("--gpu", "GPU-b=40GB", PYTHONPATH=path, FAKE_NVML=str(cards))
    seen = {gpu.uuid: gpu for gpu in broker.welcome().gpus}
    assert set(seen) == {"GPU-a", "GPU-b"}  # the lost one is left out
    assert (seen["GPU-a"].memory_gb, seen["GPU-a"].name) == (80.0, "H100")
    assert (seen["GPU-a"].foreign_gb, seen["GPU-a"].declared) == (10.0, False)
    assert (seen["GPU-b"].memory_gb, seen["GPU-b"].declared) == (40.0, True)  # as declared

    broker.assign("stubborn", item(1, {"seconds": 14}), gpus=["GPU-a"])
    broker.started(1)
    (child,) = worker.children()
    # Our own attempt uses the card too, once under the id that the host knows it by; and somebody
    # else uses more of it than before.
    hidden = (1 << 22) + 1  # larger than any id here
    used = {child.pid: 30.0, hidden: 5.0, os.getpid(): 25.0}
    cards.write_text(json.dumps([card("GPU-a", used)]))
    told = broker.wait_for(Resources)
    assert {gpu.uuid: gpu.foreign_gb for gpu in told.gpus} == {"GPU-a": 25.0, "GPU-b": 0.0}
