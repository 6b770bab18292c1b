"""The module `drain` with a real broker and a real worker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from corral.client import Client
from tests.fleet.collection.operator import Answer, Operator, without_lab
from tests.support.daemon import BrokerDaemon

WAIT_SECONDS = 30


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerDaemon]:
    with BrokerDaemon(tmp_path / "broker") as daemon:
        yield daemon


@contextmanager
def started(broker: BrokerDaemon, name: str, folder: Path) -> Iterator[None]:
    """A worker that has registered."""
    command = [
        sys.executable, "-m", "worker", "--broker", broker.endpoint,
        "--name", name, "--data", str(folder / name), "--slots", "1",
    ]  # fmt: skip
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + WAIT_SECONDS
        with Client(broker.endpoint) as client:
            while not any(
                one.name == name and one.status == "available" for one in client.workers()
            ):
                assert time.monotonic() < until, (folder / f"{name}.log").read_text()
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture
def worker(broker: BrokerDaemon, tmp_path: Path) -> Iterator[str]:
    """The name of a worker that has registered."""
    with started(broker, "worker-1", tmp_path):
        yield "worker-1"


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return without_lab(tmp_path / "operator")


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
        assert "give them work again (state: resumed)" in slow.message
        drained = drain(operator, broker, workers=[worker])
        assert not drained.changed  # it was fenced already
        assert drained["workers"][0]["admission"] == "drained"
        assert drained["workers"][0]["drain_reason"] == "update to 2"
        assert drained["workers"][0]["running"] == 0
        assert client.outcome(task, 20).state == "succeeded"

    assert drain(operator, broker, state="resumed", workers=[worker]).changed
    assert not drain(operator, broker, state="resumed", workers=[worker]).changed


def test_what_runs_is_let_go_of_at_a_deadline_that_is_given_later(
    operator: Operator, broker: BrokerDaemon, worker: str
) -> None:
    """As the message of a drain that took too long advises."""
    with Client(broker.endpoint) as client:
        task = client.submit("sleep", seconds=100)
        until = time.monotonic() + WAIT_SECONDS
        while not client.workers()[0].tasks:
            assert time.monotonic() < until
            time.sleep(0.05)
        slow = drain(operator, broker, workers=[worker], timeout=0.2, reason="update to 2")
        assert "let go of what runs (deadline and policy)" in slow.message
        assert not drain(operator, broker, "--check", workers=[worker], deadline=0.5).changed
        later = {"deadline": 0.5, "policy": "requeue", "timeout": WAIT_SECONDS}
        assert drain(operator, broker, "--check", workers=[worker], **later).changed
        assert client.workers()[0].admission == "draining"
        drained = drain(operator, broker, workers=[worker], **later)
        assert drained.changed
        assert drained["workers"][0]["admission"] == "drained"
        assert drained["workers"][0]["drain_reason"] == "update to 2"
        assert client.show([task.id])[0].state == "queued"
        assert not drain(operator, broker, workers=[worker], **later).changed


def test_the_last_worker_at_work_is_not_drained(
    operator: Operator, broker: BrokerDaemon, worker: str
) -> None:
    refused = drain(operator, broker, workers=[worker], leave=1)
    assert "Without worker-1 there would be 0 workers at work, and 1 must be" in refused.message
    assert "Nobody was drained" in refused.message
    with Client(broker.endpoint) as client:
        assert client.workers()[0].admission == "open"
        assert drain(operator, broker, workers=[worker], leave=0).changed
        # It does no work any more, so nothing is taken away.
        assert not drain(operator, broker, workers=[worker], leave=1).changed


def test_workers_are_waited_for_until_they_are_well(
    operator: Operator, broker: BrokerDaemon, worker: str
) -> None:
    def wait(*names: str, **given: object) -> Answer:
        return drain(operator, broker, state="live", workers=names, timeout=0.5, **given)

    well = drain(operator, broker, state="live", workers=[worker], steady=2, timeout=20)
    assert not well.changed
    assert well["workers"][0]["health"] == "live"
    assert not wait(worker, release=version("corral")).changed
    other = wait(worker, release="9.9")
    assert f"worker-1 runs release {version('corral')} and not 9.9" in other.message
    assert "journalctl -u corral-worker" in other.message
    assert "worker-2 has not registered" in wait(worker, "worker-2").message
    assert "does not stay" in wait(worker, steady=3600).message


def test_those_that_get_no_work_are_listed_first(
    operator: Operator, broker: BrokerDaemon, worker: str, tmp_path: Path
) -> None:
    with started(broker, "worker-0", tmp_path), Client(broker.endpoint) as client:
        assert drain(operator, broker, state="listed")["idle_first"] == ["worker-0", worker]
        client.drain(worker)
        assert drain(operator, broker, state="listed")["idle_first"] == [worker, "worker-0"]


def test_what_is_wrong_is_said(operator: Operator, broker: BrokerDaemon, worker: str) -> None:
    unknown = drain(operator, broker, workers=["worker-9"])
    assert "knows no worker worker-9; it knows worker-1" in unknown.message
    assert not drain(operator, broker, workers=["worker-9"], missing="ignore").changed
    early = drain(operator, broker, workers=[worker], policy="kill")
    assert "policy kill needs a deadline" in early.message
    alone = operator.module("drain", {"broker": ["tcp://127.0.0.1:1"], "state": "listed"})
    assert "corral doctor" in alone.message or "broker" in alone.message
