"""What a real Proxmox VE 9.2 answered, the lab answers too.

recordings.jsonl are requests to a real node with its answers; excluded.json names those that are
not compared (they are played all the same, for what they change), each with its reason.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fleet.lab.process import LabProcess
from tests.fleet.lab.replay import HERE, Player, difference, recordings
from tests.fleet.lab.unrecorded import BEFORE

BRIDGES = {"vmbr0": "10.88.0.2/24", "vmbr1": "10.89.0.1/24"}
LEAST = 800  # recordings that are compared


@pytest.mark.timeout(240)
def test_every_recording_is_answered_as_the_real_one_did(tmp_path: Path) -> None:
    excluded = json.loads((HERE / "excluded.json").read_bytes())
    differing, same, needless = [], 0, []
    lab = LabProcess(tmp_path / "lab", nodes=1, cores=2, bridges=BRIDGES)
    lab.start()
    try:
        player = Player(lab)
        for recording in recordings():
            for step in BEFORE.get(recording.id, ()):
                step(player)
            found = difference(player, recording, player.play(recording))
            if found and recording.id not in excluded:
                differing.append(f"{recording.id} {recording.name}: {found}")
            elif not found and recording.id in excluded:
                needless.append(recording.id)
            same += not found
    finally:
        lab.stop()
    assert not differing, "\n".join(differing)
    assert not needless, "excluded, but equal"
    assert same >= LEAST
