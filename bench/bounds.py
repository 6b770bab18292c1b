"""What the figures have to reach, as one table, and the verdict on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.processes import ROOT
from bench.results import Run

BASELINE = ROOT / "bench" / "peers" / "plain_broker.py"


@dataclass(frozen=True)
class Bound:
    """One line that has to be reached."""

    what: str
    unit: str
    goal: float
    # what it is about, by round; empty when the run did not measure it
    series: Callable[[Run], list[float]]
    at_least: bool = False
    # short of this the work is not done at all; None where there is no softer line
    floor: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A bound, and how far a run came."""

    what: str
    unit: str
    goal: float
    at_least: bool
    value: float
    # 1 is the goal, more is better
    ratio: float
    word: str


BOUNDS = (
    Bound(
        "batch=1 against the plain pyzmq broker", "x", 2.0,
        lambda run: run.ratios("corral-1", "plain", "tasks_per_s"), at_least=True, floor=1.2,
    ),
    Bound(
        "batch=1 against the best peer that syncs always", "x", 40.0,
        lambda run: run.over_best_durable("corral-1"), at_least=True, floor=20.0,
    ),
    Bound(
        "batch=100 against the plain pyzmq broker", "x", 4.0,
        lambda run: run.ratios("corral-100", "plain", "tasks_per_s"), at_least=True, floor=2.0,
    ),
    Bound(
        "round trip of one task, synced, median", "us", 1000.0,
        lambda run: run.series("corral-1", "p50_us"),
    ),
    Bound(
        "the same against Huey that syncs always", "x", 0.5,
        lambda run: run.ratios("corral-1", "huey", "p50_us"),
    ),
    Bound(
        "memory per queued task, 256 B each, 100,000 queued", "B", 1200.0,
        lambda run: run.figure("queue", "bytes_per_task"),
    ),
    Bound(
        "recovery of 100,000 queued tasks after kill -9", "s", 1.0,
        lambda run: run.figure("queue", "recovery_s"),
    ),
    Bound(
        "throughput at 1,000,000 queued against 1,000", "x", 0.9,
        lambda run: run.figure("depth", "ratio"), at_least=True,
    ),
    Bound(
        "1,000 idle workers heartbeating, share of one core", "%", 5.0,
        lambda run: run.figure("heartbeats", "percent_of_core"),
    ),
    Bound(
        "placement per task: 1,000 workers, 100,000 queued, 20 classes", "ms", 1.0,
        lambda run: run.figure("placement", "ms_per_task"),
    ),
    Bound(
        "baseline, CPU of the plain broker per task", "us", 30.0,
        lambda run: run.series("plain", "cpu_us"),
    ),
    Bound(
        "baseline, lines of the plain broker", "", 60.0,
        lambda run: [float(len(BASELINE.read_text().splitlines()))] if "plain" in run.peers else [],
    ),
)  # fmt: skip


def judged(run: Run) -> list[Verdict]:
    """Returns a verdict on every bound that this run can judge, by the median of its rounds."""
    found = []
    for bound in BOUNDS:
        if series := bound.series(run):
            value = median(series)
            ratio = value / bound.goal if bound.at_least else bound.goal / value
            hopeless = bound.floor is not None and value < bound.floor
            word = "met" if ratio >= 1 else "MISSED, below the floor" if hopeless else "MISSED"
            found.append(
                Verdict(bound.what, bound.unit, bound.goal, bound.at_least, value, ratio, word)
            )
    return found
