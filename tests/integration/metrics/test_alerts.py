"""A real Prometheus over a real fleet: alerts fire when their cause is made, and the phone rings.

Expressions, routes and configuration are those that are shipped; only times are shorter. What needs
a small disk runs in a process of its own, where that disk is mounted.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import httpx
import pytest

from corral.tasks import Retry, Task, Variant
from tests.chaos.fleet import Fleet as Cruel
from tests.integration.conftest import until
from tests.integration.metrics.conftest import Watched
from tests.support.gateway import Gateway
from tests.support.prometheus import ROOT, Watch, run, watching
from tests.unit.store.small_disk import on_small_disk
from tests.unit.store.test_full_disk import fill

MIB = 1 << 20
BOARDS = sorted((ROOT / "templates" / "grafana").glob("*.json"))


def firing(watch: Watch) -> set[str]:
    """The alerts that fire; others may write much on the disk of this machine meanwhile."""
    return {*watch.firing()} - {"CorralStoreFilling"}


def test_figures_are_as_prometheus_wants_them(house: Watched) -> None:
    headers = {"authorization": f"Bearer {house.token}"}
    url = f"http://{house.gateway.bind}/metrics"
    assert httpx.get(url).status_code == 401
    told = httpx.get(url, headers=headers).text
    assert "corral_worker_up" in told
    assert run("promtool", "check", "metrics", stdin=told) == ""


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_prometheus_understands_what_a_dashboard_asks(house: Watched, board: Path) -> None:
    panels = json.loads(board.read_text())["panels"]
    house.watch.fires("CorralWorkerMissing")  # so it has scraped
    silent = []
    for panel in panels:
        for target in panel["targets"]:
            query = re.sub(r'"\$\w+"', '".*"', target["expr"]).replace("$__rate_interval", "1m")
            if not house.watch.answers(query):
                silent.append(query)
    # What has not happened yet, or is not there, has no figure.
    lacking = r"corral_(task_(wait|run)_seconds|gpu_|named_|last_|broker_refused)|failed"
    assert [query for query in silent if not re.search(lacking, query)] == []


@pytest.mark.timeout(240)
def test_each_alert_fires_when_its_cause_is_made(house: Watched) -> None:
    """In an order in which one cause does not hide the next."""
    fleet, watch = house.fleet, house.watch
    client = fleet.client()
    watch.fires("CorralWorkerMissing", worker="w9")
    assert firing(watch) == {"CorralWorkerMissing"}

    # A task that takes much longer than its like, and has all the memory; and a queue behind it.
    [w1] = [one for one in client.workers() if one.name == "w1"]
    needs = (Variant(cpus=1.0, memory_gb=round(w1.memory_gb * 0.97, 1), labels={"at": "w1"}),)
    for handle in client.submit_many([Task("sleep", {"seconds": 0.01}, needs=needs)] * 6):
        handle.result(60)
    slow = client.submit("sleep", seconds=300.0, needs=needs)
    client.submit_many(Task("sleep", {"seconds": 0.0}, needs=needs) for _ in range(101))
    watch.fires("CorralTaskSlow", kind="sleep")
    watch.fires("CorralQueueDeep")

    for handle in client.submit_many([Task("fail", retry=Retry(limit=0))] * 3):
        assert client.outcome(handle, 60).failure is not None
    watch.fires("CorralTasksFail")
    until("the phone rings", lambda: ("CorralTasksFail", "firing") in house.phone.rang)

    # Of three workers one is drained, which alone serves a kind; then another falls silent.
    client.drain("w2")
    client.submit("mark", folder=str(fleet.folder / "marks"))
    watch.fires("CorralKindUnserved", kind="mark")
    assert "CorralWorkerLost" not in watch.firing()
    fleet.kill("w3")
    watch.fires("CorralWorkerLost", worker="w3")
    watch.fires("CorralFewWorkers")
    watch.fires("CorralMemoryExhausted")  # of those that are given work
    until("the phone rings", lambda: ("CorralWorkerLost", "firing") in house.phone.rang)

    # What is well again is told so.
    client.resume("w2")
    client.cancel([slow.id])
    fleet.start_worker("w3", 1, "--kinds", "fail")
    until("all else is well", lambda: firing(watch) == {"CorralWorkerMissing"})
    until("the phone is told", lambda: ("CorralWorkerLost", "resolved") in house.phone.rang)

    fleet.broker.kill()
    watch.fires("CorralBrokerDown")
    house.gateway.stop()
    watch.fires("CorralSilent")
    until("the phone rings", lambda: ("CorralSilent", "firing") in house.phone.rang)
    quiet = {"CorralWorkerMissing", "CorralTaskSlow", "CorralQueueDeep", "CorralFewWorkers"}
    assert not quiet & {alert for alert, _ in house.phone.rang}, "warnings wait for the morning"


@pytest.mark.timeout(240)
def test_a_disk_that_fills_is_told_before_it_is_full_and_then() -> None:
    on_small_disk(fill_the_disk, megabytes=256, seconds=200)


def fill_the_disk(disk: Path) -> None:
    with (
        redirect_stdout(sys.stderr),
        tempfile.TemporaryDirectory() as elsewhere,
        Cruel(Path(elsewhere), data=disk / "data") as fleet,
    ):
        fleet.start_broker()
        with (
            Gateway(Path(elsewhere), fleet.endpoint) as gateway,
            watching(Path(elsewhere, "prometheus"), gateway.bind) as watch,
        ):
            until("it is watched", lambda: watch.answers("corral_store_full") == [0])
            until("its start is over", lambda: not watch.firing())
            with (disk / "theirs").open("wb", buffering=0) as theirs:
                while "CorralStoreFilling" not in watch.firing():
                    theirs.write(bytes(MIB))
                    time.sleep(0.2)
            assert "CorralStoreFull" not in watch.firing()
            fill(disk / "more", leave=0)
            watch.fires("CorralStoreFull")
            (disk / "more").unlink()
            (disk / "theirs").unlink()
            until("it is well again", lambda: "CorralStoreFull" not in watch.firing())
