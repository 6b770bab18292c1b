"""The module `drain` with a real broker and a real worker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.client import Client
from tests.fleet.collection.operator import Answer, Operator
from tests.fleet.lab.process import LabProcess
from tests.support.daemon import BrokerDaemon

WAIT_SECONDS = 30


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerDaemon]:
    with BrokerDaemon(tmp_path / "broker") as daemon:
        yield daemon


@pytest.fixture
def worker(broker: BrokerDaemon, tmp_path: Path) -> Iterator[str]:
    """The name of a worker that has registered."""
    command = [
        sys.executable, "-m", "worker", "--broker", broker.endpoint,
        "--name", "worker-1", "--data", str(tmp_path / "worker"), "--slots", "1",
    ]  # fmt: skip
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + WAIT_SECONDS
        with Client(broker.endpoint) as client:
            while not any(one.status == "available" for one in client.workers()):
                assert time.monotonic() < until, (tmp_path / "worker.log").read_text()
                time.sleep(0.1)
        yield "worker-1"
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    lab = LabProcess(tmp_path / "no-lab")
    lab.info = {
        "host": "", "port": 0, "ca_file": "", "tokens": {"deploy": {"id": "", "secret": ""}}
    }  # fmt: skip
    return Operator(lab, tmp_path / "operator")


def drain(operator: Operator, broker: BrokerDaemon, *flags: str, **given: object) -> Answer:
    return operator.module("drain", {"broker": [broker.endpoint], **given}, *flags)


def test_a_worker_is_drained_and_given_work_again(
    operator: Operator, broker: BrokerDaemon, worker: str
) -> None:
    with Client(broker.endpoint) as client:
        task = client.submit("sleep", seconds=12)
        until = time.monotonic() + WAIT_SECONDS
        while not client.workers()[0].tasks:
            assert time.monotonic() < until
            time.sleep(0.05)
        listed = drain(operator, broker, state="listed")
        assert listed["idle_first"] == [worker]

        assert drain(operator, broker, "--check", workers=[worker]).changed
        assert client.workers()[0].admission == "open"
        slow = drain(operator, broker, workers=[worker], timeout=0.2, reason="update to 2")
        assert "worker-1 runs" in slow.message
        assert "They stay fenced" in slow.message
        drained = drain(operator, broker, workers=[worker])
        assert not drained.changed  # it was fenced already
        assert drained["workers"][0]["admission"] == "drained"
        assert drained["workers"][0]["drain_reason"] == "update to 2"
        assert drained["workers"][0]["running"] == 0
        assert client.outcome(task, 20).state == "succeeded"

    assert drain(operator, broker, state="resumed", workers=[worker]).changed
    assert not drain(operator, broker, state="resumed", workers=[worker]).changed


def test_what_is_wrong_is_said(operator: Operator, broker: BrokerDaemon, worker: str) -> None:
    unknown = drain(operator, broker, workers=["worker-9"])
    assert "knows no worker worker-9; it knows worker-1" in unknown.message
    assert not drain(operator, broker, workers=["worker-9"], missing="ignore").changed
    early = drain(operator, broker, workers=[worker], policy="kill")
    assert "policy kill needs a deadline" in early.message
    alone = operator.module("drain", {"broker": ["tcp://127.0.0.1:1"], "state": "listed"})
    assert "corral doctor" in alone.message or "broker" in alone.message
