"""The broker dies at any moment under load: what was acknowledged happens once, and nothing twice.

While clients submit, resend, cancel and collect, and at least 20 attempts of 5 s run, the broker is
killed again and again. No worker dies, so every task has exactly one start: each attempt writes its
start to a file of its own. Then the broker ends and begins in order, under the same load.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.chaos.fleet import LEASE, Fleet, seeded, short_leases, until
from tests.chaos.load import AT_LEAST, LONG, Load, put_to_rest, staffed
from tests.evidence import Evidence, Scale


@pytest.mark.timeout(600)
def test_a_killed_broker_loses_nothing_and_starts_nothing_twice(
    fleet: Callable[..., Fleet], scale: Scale, evidence: Evidence
) -> None:
    here = staffed(fleet())
    chance = seeded("kill_broker")
    load = Load(here, chance)
    least = 1_000_000
    took = 0.0

    async def chaos() -> None:
        nonlocal least, took
        await load.enough()
        began = time.monotonic()
        for kill in range(scale.kills):
            await asyncio.sleep(chance.choice([0.5, 2.0, 6.0]) * chance.random())
            moment = [load.rest, load.busy, load.heavy][kill % 3]
            await load.enough()
            await moment()
            while (running := load.running()) < AT_LEAST:
                await load.enough()
                await moment()
            here.broker.kill()
            least = min(least, running)
            if kill % 7 == 3:
                here.audit()
            here.broker.start()
        took = time.monotonic() - began

    asyncio.run(load.run(chaos))
    put_to_rest(here, load)
    evidence.record(
        "kill -9 of the broker under load",
        kills=scale.kills,
        seconds=took,
        attempts_of_5_s_running_at_each=least,
        tasks_acknowledged=len(load.acknowledged),
        of_5_s=len(list(load.long)),
        requests_sent_again=load.resent,
        tasks_lost=0,
        starts_repeated=0,
    )
    assert least >= AT_LEAST
    assert load.resent > scale.kills


@pytest.mark.timeout(300)
def test_a_broker_that_is_restarted_in_order_finds_all_that_runs(
    fleet: Callable[..., Fleet], evidence: Evidence
) -> None:
    here = staffed(fleet())
    load = Load(here, seeded("restart_broker"))
    outages = (0.0, 1.5 * LONG, 0.0)

    async def chaos() -> None:
        for away in outages:
            await load.enough()
            welcomes = sum(map(len, adoptions(here)))
            assert here.broker.stop() == 0
            await asyncio.sleep(away)
            here.broker.start()
            back = partial(all_are_back, here, welcomes + len(here.workers))
            await asyncio.to_thread(until, "all workers are back", back)
            if not away:
                assert sum(each[-1] for each in adoptions(here)) >= AT_LEAST / 2

    asyncio.run(load.run(chaos))
    put_to_rest(here, load)
    evidence.record(
        "restart of the broker under load",
        restarts=len(outages),
        longest_outage_seconds=max(outages),
        tasks_acknowledged=len(load.acknowledged),
        starts_repeated=0,
    )


@pytest.mark.timeout(300)
def test_a_broker_that_stands_still_blames_nobody(
    fleet: Callable[..., Fleet], evidence: Evidence
) -> None:
    """Longer than the leases it gives: neither it nor its workers may take that for silence."""
    lease = 2 * LEASE
    here = staffed(fleet(settings=short_leases(lease=lease)))
    load = Load(here, seeded("freeze_broker"))
    freezes = 2

    async def chaos() -> None:
        for _ in range(freezes):
            await load.enough()
            here.broker.signal(signal.SIGSTOP)
            await asyncio.sleep(1.5 * lease)
            here.broker.signal(signal.SIGCONT)

    asyncio.run(load.run(chaos))
    put_to_rest(here, load)
    evidence.record(
        "SIGSTOP of the broker under load",
        freezes=freezes,
        tasks_acknowledged=len(load.acknowledged),
        starts_repeated=0,
    )


def adoptions(fleet: Fleet) -> list[list[int]]:
    """For each worker: how many of its attempts were adopted, at each welcome."""
    logs = [worker.said() for worker in fleet.workers.values()]
    return [[int(n) for n in re.findall(r"; (\d+) attempts adopted", log)] for log in logs]


def all_are_back(fleet: Fleet, welcomes: int) -> bool:
    return sum(map(len, adoptions(fleet))) >= welcomes
