"""The lab's own life: it survives kill -9, is reached by the command line, and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from corral.cli.lab import lab as lab_command
from corral.errors import CorralError
from tests.fleet.lab.process import LabProcess


def test_a_lab_survives_kill_9(lab: LabProcess) -> None:
    lab.template()
    api = lab.client()
    lxc = api.nodes("pve1").lxc
    assert lab.wait(api, lxc(900).clone.post(newid=5001, hostname="w1", pool="corral")) == "OK"
    assert lab.wait(api, lxc(5001).status.start.post()) == "OK"
    before = lxc(5001).config.get()
    lab.own("POST", "/lab/faults", json={"kind": "hold", "task": "vzclone"})
    lost = lxc(900).clone.post(newid=5002)
    endpoint = lab.info["endpoint"]
    lab.kill()
    lab.start()
    assert lab.info["endpoint"] == endpoint
    api = lab.client()  # with the token that it had
    lxc = api.nodes("pve1").lxc
    assert lxc(5001).config.get() == before
    assert lxc(5001).status.current.get()["status"] == "running"
    assert lab.wait(api, lost) == "unexpected status"
    assert lxc(900).config.get()["lock"] == "disk"
    assert len(api.nodes("pve1").tasks.get(source="all", typefilter="vzclone")) == 2
    assert len(lab.own("GET", "/lab/requests")) > 10


def test_requests_are_counted_from_a_mark(lab: LabProcess) -> None:
    api = lab.client("inventory")
    mark = lab.own("POST", "/lab/requests/marks/plan")
    api.cluster.resources.get()
    lab.ask("GET", "/nodes/pve1/status", None)
    entries = lab.own("GET", f"/lab/requests?since={mark['number']}")
    assert [(entry["path"], entry["status"]) for entry in entries] == [
        ("/cluster/resources", 200),
        ("/nodes/pve1/status", 401),
    ]
    assert entries[0]["actor"] == "corral@pve!inventory"


def test_a_file_is_uploaded_and_checked(lab: LabProcess) -> None:
    api = lab.client("root")
    local = api.nodes("pve2").storage("local")
    answer = lab.ask(
        "POST",
        "/nodes/pve2/storage/local/upload",
        data={"content": "vztmpl"},
        files={"filename": ("debian.tar.zst", b"root file system" * 100_000)},
    )
    assert lab.wait(api, answer.json()["data"]) == "OK"
    (entry,) = local.content.get(content="vztmpl")
    assert (entry["volid"], entry["size"]) == ("local:vztmpl/debian.tar.zst", 1_600_000)
    refused = lab.ask(
        "POST",
        "/nodes/pve2/storage/local/upload",
        data={"content": "vztmpl"},
        files={"filename": ("debian.exe", b"")},
    )
    assert refused.json()["errors"] == {"filename": "wrong file extension"}


def test_five_hundred_containers_are_listed_in_one_quick_call(lab: LabProcess) -> None:
    lab.template()
    api = lab.client("deploy")
    lxc = api.nodes("pve1").lxc
    for vmid in range(5001, 5501):
        upid = lxc(900).clone.post(newid=vmid, pool="corral", hostname=f"w{vmid}")
        assert lab.wait(api, upid) == "OK"
    lab.own("POST", "/lab/look")
    mark = lab.own("POST", "/lab/requests/marks/list")["number"]
    found = lab.client("inventory").cluster.resources.get()
    assert sum(entry["type"] == "lxc" for entry in found) == 501
    (entry,) = lab.own("GET", f"/lab/requests?since={mark}")
    assert entry["seconds"] < 0.5


# --- the command line ------------------------------------------------------------------------


def _corral(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("corral")), "lab", *words, "--data", str(folder)]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def _json(folder: Path, *words: str) -> Any:
    done = _corral(folder, *words, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    where = tmp_path / "lab"
    yield where
    _corral(where, "down")


def test_up_status_fault_reset_and_down(folder: Path) -> None:
    made = _json(folder, "up", "--dry", "--nodes", "2", "--cores", "6", "--memory", "12")
    assert made["nodes"] == ["pve1", "pve2"]
    assert _json(folder, "up") == made  # it runs already
    told = _corral(folder, "up").stdout.splitlines()
    assert told[:2] == [f"{made['endpoint']}  nodes pve1, pve2", f"certificate {made['ca_file']}"]
    token = made["tokens"]["root"]
    nodes = requests.get(
        f"{made['endpoint']}/api2/json/nodes",
        headers={"Authorization": f"PVEAPIToken={token['id']}={token['secret']}"},
        verify=made["ca_file"],
        timeout=10,
    ).json()["data"]
    assert [(node["maxcpu"], node["maxmem"]) for node in nodes] == [(6, 12 * 1024**3)] * 2
    assert nodes[0]["ssl_fingerprint"] == made["fingerprint"]
    assert _json(folder, "fault", "set", "node", "--node", "pve2")["node"] == "pve2"
    assert _json(folder, "status")["nodes"] == {"pve1": True, "pve2": False}
    told = _corral(folder, "status").stdout.splitlines()
    assert told[0] == f"{made['endpoint']}  nodes pve1, pve2 (down)"
    assert told[1].startswith("0 containers, 0 run;")
    assert _corral(folder, "fault", "clear").returncode == 0
    assert _json(folder, "status")["faults"] == []
    again = _json(folder, "reset")
    assert again["nodes"] == ["pve1", "pve2"]
    assert again["tokens"] != made["tokens"]
    assert _corral(folder, "down").returncode == 0
    assert not folder.exists()
    assert not _runs(again["pid"])
    down = _corral(folder, "status")
    assert down.returncode != 0
    assert "corral lab up" in down.stderr


def test_down_cleans_up_after_a_lab_that_was_killed(folder: Path) -> None:
    made = _json(folder, "up", "--dry")
    psutil.Process(made["pid"]).kill()
    assert _corral(folder, "down").returncode == 0
    assert not folder.exists()


def test_down_tells_what_it_could_not_undo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _json(folder, "up", "--dry")
    process = psutil.Process(made["pid"])
    state = folder / "dry.json"
    state.unlink()
    (state / "in the way").mkdir(parents=True)
    monkeypatch.setattr("corral.cli.lab.STOP_SECONDS", 0.2)
    process.suspend()
    try:
        with pytest.raises(CorralError, match=f"process {made['pid']} is still at work"):
            lab_command.main(["down", "--data", str(folder)], standalone_mode=False)
    finally:
        process.resume()
    failed = _corral(folder, "down")
    assert failed.returncode != 0
    assert "Is a directory" in failed.stderr
    assert not _runs(made["pid"])
    shutil.rmtree(state)
    assert _corral(folder, "down").returncode == 0
    assert not folder.exists()


def test_an_address_that_others_reach_is_refused(folder: Path) -> None:
    done = _corral(folder, "up", "--dry", "--host", "0.0.0.0")
    assert done.returncode != 0
    assert "neither loopback nor a bridge of the lab (10.7.0.1/24)" in done.stderr


def test_a_setting_that_does_not_exist_is_named(folder: Path) -> None:
    done = _corral(folder, "up", "--dry", "--set", "colour=1")
    assert done.returncode != 0
    assert "colour" in done.stderr
