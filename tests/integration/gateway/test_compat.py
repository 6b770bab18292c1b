"""The curl examples of the documents that Corral comes from, as written but for host and data."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

import httpx
import pytest

from corral.client import Client
from tests.integration.gateway.conftest import House
from tests.support.gateway import PATIENCE

BACKTEST = {
    "model_path": "/models/ktrdr/neuro_mean_reversion/1d_v21",
    "strategy_name": "ridge",
    "symbol": "AAPL",
    "timeframe": "1d",
    "start_date": "2024-01-01",
    "end_date": "2024-12-31",
}


def ended(rest: httpx.Client, operation: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        told: dict[str, Any] = rest.get(f"/operations/{operation}").json()
        if told["status"] not in ("pending", "running"):
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.1)


def curl(house: House, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("curl")
    assert program is not None, "apt-get install curl"
    words = [word.replace("http://192.168.1.100:8000", f"http://{house.gateway.bind}")
             for word in arguments]  # fmt: skip
    return subprocess.run([program, "-sS", *words], capture_output=True, text=True, timeout=60)


def test_health_as_curl_asks_for_it(house: House) -> None:
    done = curl(house, "http://192.168.1.100:8000/api/v1/health")
    assert done.stdout.startswith('{"healthy":true,"timestamp":"20')


def test_the_network_check_of_a_worker(house: House) -> None:
    done = curl(house, "-I", "http://192.168.1.100:8000/health")
    assert done.stdout.startswith("HTTP/1.1 200")


def test_workers_are_listed(rest: httpx.Client) -> None:
    [worker] = rest.get("/workers").json()
    assert worker["worker_id"] == "w1"
    assert worker["worker_type"] == "backtesting"
    assert worker["status"] in ("AVAILABLE", "BUSY")
    assert worker["capabilities"]["gpu"] is False
    assert "current_operation" in worker["metadata"]
    assert worker["endpoint_url"] is None


def test_the_health_of_workers(rest: httpx.Client) -> None:
    assert rest.get("/workers/health").json() == {
        "total_workers": 1, "available": 1, "busy": 0, "temporarily_unavailable": 0,
        "draining": 0, "removed": 0,
    }  # fmt: skip


def test_a_backtest_is_started_and_its_result_read(rest: httpx.Client) -> None:
    answer = rest.post("/backtests/start", json=BACKTEST)
    assert answer.status_code == 200, answer.text
    started = answer.json()
    assert started["success"] is True
    assert {warning.partition(" ")[0] for warning in started["warnings"]} == {
        "model_path", "start_date", "end_date",
    }  # fmt: skip
    told = ended(rest, started["operation_id"])
    assert (told["status"], told["operation_type"]) == ("completed", "backtesting"), told
    assert told["progress"] == 100.0
    assert "total_return" in told["results"]
    assert told["result"]["symbol"] == "AAPL"
    again = rest.post("/backtests/start", json=BACKTEST).json()
    assert (again["operation_id"], again["status"]) == (started["operation_id"], "completed")
    listed = rest.get("/operations?status=completed&operation_type=backtesting").json()
    assert started["operation_id"] in {one["operation_id"] for one in listed}


def test_a_training_that_may_run_without_a_gpu(rest: httpx.Client) -> None:
    body = {
        "symbols": ["AAPL"], "timeframes": ["1d"], "strategy_name": "ridge/up_20d",
        "force_gpu": False, "prefer_gpu": False,
    }  # fmt: skip
    started = rest.post("/trainings/start", json=body).json()
    told = ended(rest, started["operation_id"])
    assert (told["status"], told["worker_id"]) == ("completed", "w1"), told
    metrics = rest.get(f"/operations/{started['operation_id']}/metrics").json()
    assert (metrics["status"], metrics["progress"]) == ("completed", 100.0)


def test_a_training_that_needs_a_gpu_waits_for_one_and_is_cancelled(rest: httpx.Client) -> None:
    body = {
        "strategy_yaml": "family: mlp\nepochs: 1\n", "symbols": ["AAPL"], "timeframe": "1d",
        "force_gpu": True,
    }  # fmt: skip
    started = rest.post("/trainings/start", json=body).json()
    assert (started["status"], started["worker_id"]) == ("queued", None)
    assert any("gpu" in warning for warning in started["warnings"])
    id = started["operation_id"]
    assert rest.get(f"/operations/{id}").json()["status"] == "pending"
    assert rest.get(f"/tasks/{id}").json()["needs"][0]["gpus"] == 1
    assert rest.delete(f"/operations/{id}/cancel").json()["status"] == "cancelled"
    assert rest.delete(f"/operations/{id}/cancel").status_code == 200
    assert ended(rest, id)["error"] is not None


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("/backtests/start", {"timeframe": "1h"}, "daily"),
        ("/backtests/start", {"symbol": "EURUSD"}, "symbol"),
        ("/backtests/start", {"strategy_name": "neuro_mean_reversion"}, "family"),
        ("/backtests/start", {"surplus": 1}, "surplus"),
        ("/trainings/start", {"symbols": ["AAPL", "IBM"]}, "each symbol"),
        ("/trainings/start", {"strategy_yaml": "..."}, "strategy_yaml"),
        ("/trainings/start", {"strategy_yaml": "[" * 5000}, "strategy_yaml"),
        ("/trainings/start", {"strategy_yaml": "family: mlp\nodd: 1"}, "odd"),
        ("/trainings/start", {"strategy_name": "mlp", "strategy_yaml": "family: mlp"}, "give"),
        ("/trainings/start", {"training_config": {"force_gpu": "yes"}}, "true or false"),
    ],
)
def test_what_cannot_be_started_says_why(
    rest: httpx.Client, path: str, change: dict[str, Any], words: str
) -> None:
    base = BACKTEST if "backtests" in path else {"symbols": ["AAPL"], "timeframe": "1d"}
    if "trainings" in path and "strategy_yaml" not in change:
        base = {**base, "strategy_name": "mlp"}
    answer = rest.post(path, json={**base, **change})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]


def test_workers_register_elsewhere(rest: httpx.Client) -> None:
    body = {"worker_id": "test", "worker_type": "training", "capabilities": {"gpu": True}}
    answer = rest.post("/workers/register", json=body)
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert "corral worker start" in answer.json()["next"]


def test_tasks_of_the_command_line_are_operations(house: House, rest: httpx.Client) -> None:
    with Client(house.fleet.endpoint, timeout=PATIENCE) as client:
        task = client.submit("fail", times=9, retry=0)
    told = ended(rest, task.id)
    assert (told["status"], told["operation_type"]) == ("failed", "fail")
    assert told["error"]
