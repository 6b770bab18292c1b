"""`/metrics`: what Prometheus reads is what happened, and nothing is told that is not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from corral.gateway.figures import FIGURES
from corral.tasks import Retry, Task
from tests.integration.conftest import Fleet, until
from tests.integration.gateway.conftest import House
from tests.support.gateway import Gateway

Figures = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(gateway: Gateway, token: str = "") -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    address = f"http://{gateway.bind}/metrics"
    return httpx.get(address, headers=headers, timeout=10.0)  # as long as Prometheus waits


def figures(gateway: Gateway) -> Figures:
    answer = scraped(gateway)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(found: Figures, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


@pytest.fixture
def before(house: House) -> Iterator[Figures]:
    """What was counted before: the house is the whole module's."""
    until("the gateway has heard of kinds", lambda: of_kinds(house.gateway))
    return figures(house.gateway)


def of_kinds(gateway: Gateway) -> bool:
    return of(figures(gateway), "corral_tasks_submitted_total", kind="echo") is not None


def test_what_tasks_did_is_counted(house: House, before: Figures) -> None:
    client = house.fleet.client()
    never = Retry(limit=0)
    client.submit_many([Task("echo", {"n": n}) for n in range(5)])
    client.submit("sleep", seconds=0.3)
    client.submit("fail", retry=never)
    client.submit("fail", retry=Retry(limit=1, delay=0.1))

    def rise(name: str, **labels: str) -> float:
        after = of(figures(house.gateway), name, **labels) or 0.0
        return after - (of(before, name, **labels) or 0.0)

    ended = "corral_tasks_ended_total"
    until("all has ended", lambda: rise(ended, kind="fail", state="failed") == 2)
    until("all is counted", lambda: rise(ended, kind="sleep", state="succeeded") == 1)
    assert rise(ended, kind="echo", state="succeeded") == 5
    assert rise("corral_tasks_submitted_total", kind="echo") == 5
    assert rise("corral_task_retries_total", kind="fail") == 1
    assert rise("corral_task_run_seconds_count", kind="fail", device="cpu") == 3
    assert rise("corral_task_run_seconds_count", kind="sleep", device="cpu") == 1
    assert 0.3 <= rise("corral_task_run_seconds_sum", kind="sleep", device="cpu") < 10
    assert rise("corral_task_wait_seconds_count", kind="echo", device="cpu") == 5


def test_broker_and_workers_are_told_as_they_are(house: House) -> None:
    client = house.fleet.client()
    client.submit("sleep", seconds=1.0)
    until("it runs", lambda: client.status().tasks["running"])
    found = figures(house.gateway)
    view = client.status()
    [worker] = client.workers()
    assert of(found, "corral_broker_up") == 1
    assert of(found, "corral_broker_build_info", version=view.version) == 1
    assert of(found, "corral_worker_up", worker="w1") == 1
    assert of(found, "corral_worker_slots", worker="w1") == 2
    assert of(found, "corral_worker_slots_used", worker="w1") == 1
    assert of(found, "corral_worker_memory_bytes", worker="w1") == worker.memory_gb * 2**30
    assert of(found, "corral_tasks", state="running") == 1
    assert of(found, "corral_workers", status="available") == 1
    assert of(found, "corral_kind_workers", kind="sleep") == 1
    age = of(found, "corral_worker_heartbeat_age_seconds", worker="w1")
    assert age is not None
    assert age < 4
    assert of(found, "corral_store_full") == 0
    free, tables = (
        of(found, "corral_store_free_bytes"), of(found, "corral_store_bytes", part="tables")
    )  # fmt: skip
    assert free
    assert tables
    assert of(found, "process_resident_memory_bytes")


def test_every_figure_of_the_table_is_there_and_nothing_else(house: House) -> None:
    """Those that tell of no more than there is have at least their type."""
    told = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(scraped(house.gateway).text)
    }
    ours = {name: kind for name, kind in told.items() if not name.startswith("process_")}
    assert ours == {figure.name: figure.kind for figure in FIGURES}


def test_how_long_the_queue_waits_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("waits")
    fleet = Fleet(folder)
    try:
        fleet.start_worker("w1", 1)
        with Gateway(folder, fleet.endpoint) as gateway:
            assert of(figures(gateway), "corral_queue_wait_seconds") is None
            client = fleet.client()
            client.submit_many([Task("sleep", {"seconds": 60.0}), Task("echo"), Task("echo")])
            until(
                "the wait is told",
                lambda: (of(figures(gateway), "corral_queue_wait_seconds") or 0.0) > 0.2,
            )
            assert of(figures(gateway), "corral_queue_tasks", kind="echo") == 2
    finally:
        fleet.close()


def test_while_the_broker_is_away_only_the_gateway_is_told_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("away")
    fleet = Fleet(folder)
    try:
        with Gateway(folder, fleet.endpoint) as gateway:
            assert of(figures(gateway), "corral_broker_up") == 1
            fleet.broker.kill()
            until("it is noticed", lambda: of(figures(gateway), "corral_broker_up") == 0)
            gone = {name for name, _ in figures(gateway)}
            assert not gone & {"corral_tasks", "corral_workers", "corral_store_free_bytes"}
            assert of(figures(gateway), "corral_gateway_requests_total", status="200")
            fleet.broker.start()
            until("it is back", lambda: of(figures(gateway), "corral_broker_up") == 1)
    finally:
        fleet.close()
