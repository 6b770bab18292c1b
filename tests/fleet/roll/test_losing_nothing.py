"""Nothing is lost while everything is updated: update.yml under load, on real containers.

What was run is counted in files outside Corral; who was at work, by the broker and by those files.
"""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import pairwise

import pytest

from tests.evidence import Evidence
from tests.fleet.roll.conftest import Fleet, ended
from tests.fleet.roll.flow import Attempt, Flow, Span, at_work

TASKS = 5_000
BATCH = 2  # the default of update.yml
WINDOW = 5.0  # seconds in which whoever is at work begins or ends a task
STEP = 0.5
RESTARTS = 3  # of the broker: two updates and the test's own
ADOPTION = 30.0  # seconds in which workers have to be heard of again


@pytest.mark.timeout(1200)  # the first test pays for the site
def test_two_updates_lose_nothing(fleet: Fleet, evidence: Evidence) -> None:
    first = fleet.another()
    (second,) = set(fleet.good) - {first}
    everybody = set(fleet.workers)
    with Flow(fleet.site, TASKS) as flow:
        flow.until(lambda look: look.working == look.busy == everybody)
        began = time.time()
        with fleet.update_under_way(first) as roll:
            seen = flow.until(lambda look: look.updating == {"worker-2", "worker-3"}, roll)
            killed = time.time()
            fleet.ssh("worker-4", "systemctl kill --kill-whom=all --signal=KILL corral-worker")
            life = seen.workers["worker-4"].incarnation
            back = flow.until(lambda look: look.workers["worker-4"].incarnation != life).at
            status, output = ended(roll)
        assert status == 0, output
        assert fleet.all_on(first)

        # On one machine of the second batch the new release does not start.
        fleet.dress("worker-3", "trouble", refuses(second))
        with fleet.update_under_way(second) as roll:
            flow.until(lambda look: look.updating == {"worker-1"}, roll)
            fleet.ssh("broker", "systemctl restart corral-broker")
            status, output = ended(roll)
        assert status == 2, output
        assert f"worker-3 did not pass with {second}" in output
        assert "is at work with the release before" in output
        assert "run update.yml again: it goes on with the rest" in output
        assert fleet.releases() == {
            "worker-1": second, "worker-2": second, "worker-3": first, "worker-4": first,
        }  # fmt: skip

        fleet.dress("worker-3", "trouble", "")
        status, output = fleet.update(second)
        assert status == 0, output
        assert fleet.all_on(second)
        over = time.time()
    assert flow.began < began < over < flow.ended  # tasks came all the time

    attempts = [one for one in flow.witness.attempts() if one.task in flow.accepted]
    lost = flow.accepted - {one.task for one in attempts if one.ended is not None}
    assert not lost
    assert len(flow.accepted) >= TASKS
    assert flow.outcomes == dict.fromkeys(flow.accepted, "succeeded")
    cut = [one for one in attempts if one.ended is None]
    assert {one.host for one in cut} <= {"worker-4"}
    assert all(one.began < killed + STEP for one in cut)
    twice = recorded_twice(attempts, killed)
    assert not twice

    away = flow.away(everybody)
    assert len(away) == RESTARTS
    assert max(back - gone for gone, back in away) < ADOPTION
    by_broker = fewest_open(flow, away, killed, back)
    by_files = fewest_at_work(away, attempts, (began, over), killed, back)
    evidence.record(
        "rolling update of 4 workers, twice, in batches of 2; a worker killed, the broker"
        " restarted, one gate failed",
        tasks=len(flow.accepted), attempts=len(attempts), lost=len(lost), recorded_twice=len(twice),
        cut_short_by_the_kill=len(cut), fewest_workers_open=by_broker,
        fewest_at_work=by_files, seconds=round(over - began),
        seconds_without_work_for_each=round(out_of_work(flow, began, over), 1),
    )  # fmt: skip


def refuses(release: str) -> str:
    """A drop-in with which one release does not start on a machine."""
    other = f'test "$(readlink /opt/corral/current)" != /opt/corral/releases/{release}'
    return f"[Service]\nExecStartPre=/bin/sh -c '{other}'\n"


def recorded_twice(attempts: list[Attempt], killed: float) -> list[str]:
    """Tasks of which two attempts came to their end.

    What ended on the killed worker in its last second may not have been told: that one counts not.
    """
    whole: dict[str, int] = defaultdict(int)
    for one in attempts:
        untold = one.host == "worker-4" and killed - 1 < (one.ended or 0) < killed + STEP
        whole[one.task] += one.ended is not None and not untold
    return [task for task, times in whole.items() if times > 1]


def fewest_open(flow: Flow, away: list[Span], killed: float, back: float) -> int:
    """The fewest workers that the broker would have given work; never too few."""
    judged = [look for look in flow.looks if not any(gap[0] < look.at < gap[1] for gap in away)]
    assert len(judged) > len(flow.looks) / 2
    for look in judged:
        taken = {"worker-4"} if killed <= look.at <= back else set()
        assert len(look.working | taken) >= len(Fleet.workers) - BATCH, look
    return min(len(look.working) for look in judged)


def fewest_at_work(
    away: list[Span], attempts: list[Attempt], span: Span, killed: float, back: float
) -> int:
    """The fewest containers in which tasks ran; never too few. Without the broker none need."""
    fewest, judged, seen = len(Fleet.workers), 0, 0
    for at, ran in at_work(attempts, *span, STEP, WINDOW):
        seen += 1
        if any(gap[0] < at + WINDOW and at < gap[1] for gap in away):
            continue
        judged += 1
        taken = {"worker-4"} if killed < at + WINDOW and at < back else set()
        assert len(ran | taken) >= len(Fleet.workers) - BATCH, (at, ran)
        fewest = min(fewest, len(ran))
    assert judged > seen / 2
    return fewest


def out_of_work(flow: Flow, began: float, over: float) -> float:
    """Seconds that a worker got no work for one update: the mean."""
    looks = [look for look in flow.looks if began <= look.at <= over]
    out = sum(
        (after.at - look.at) * sum(one.admission != "open" for one in look.workers.values())
        for look, after in pairwise(looks)
    )
    updates = 2 * len(Fleet.workers) + 1  # one of them in vain
    return out / updates
