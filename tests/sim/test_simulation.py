"""Simulated cluster-hours, each judged by the checker. A failure names its seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.evidence import Evidence, Scale

LEAST_EVENTS, LEAST_FAULTS = 150_000, 100  # in every hour
FIRST_SEED = 1
PROCESSES = 2
SIMULATE = [sys.executable, "-m", "tests.sim"]


@pytest.mark.timeout(1200)
def test_every_promise_holds_in_every_simulated_hour(scale: Scale, evidence: Evidence) -> None:
    share = scale.sim_hours // PROCESSES
    # The order of sets of strings is part of what a seed stands for.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    running = [
        subprocess.Popen(
            [*SIMULATE, "--seed", str(FIRST_SEED + share * number), "--hours", str(share)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(PROCESSES)
    ]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, "\n".join(told)
    hours = [json.loads(line) for text in told for line in text.splitlines()]
    assert len(hours) == share * PROCESSES
    for hour in hours:
        assert hour["events"] >= LEAST_EVENTS, hour
        assert hour["faults"] >= LEAST_FAULTS, hour
    evidence.record(
        "simulated cluster",
        hours=len(hours),
        events=sum(hour["events"] for hour in hours),
        faults=sum(hour["faults"] for hour in hours),
        broker_deaths=sum(hour["broker_deaths"] for hour in hours),
        tasks=sum(hour["tasks"] for hour in hours),
        cpu_seconds_an_hour=sum(hour["cpu"] for hour in hours) / len(hours),
    )
