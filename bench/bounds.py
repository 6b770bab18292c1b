"""What the figures have to reach, as one table, and the verdict on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench import ROOT
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
    # the measurement whose profile says where the time went, if time is what it is about
    culprit: str = ""
    at_least: bool = False
    # short of this the work is not done at all; None where there is no softer line
    floor: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A bound, and what a run reached: the median of its rounds."""

    bound: Bound
    value: float

    @property
    def ratio(self) -> float:
        """How far it came: 1 is the goal, more is better."""
        upper, lower = self.value, self.bound.goal
        return upper / lower if self.bound.at_least else lower / upper

    @property
    def word(self) -> str:
        """`met`, or how it was missed."""
        if self.ratio >= 1:
            return "met"
        hopeless = self.bound.floor is not None and self.value < self.bound.floor
        return "MISSED, below the floor" if hopeless else "MISSED"


BOUNDS = (
    Bound(
        "batch=1 against the plain pyzmq broker", "x", 2.0,
        lambda run: run.ratios("corral-1", "plain", "tasks_per_s"),
        "corral-1", at_least=True, floor=1.2,
    ),
    Bound(
        "batch=1 against the best peer that syncs always", "x", 40.0,
        lambda run: run.over_best_durable("corral-1"), "corral-1", at_least=True, floor=20.0,
    ),
    Bound(
        "batch=100 against the plain pyzmq broker", "x", 4.0,
        lambda run: run.ratios("corral-100", "plain", "tasks_per_s"),
        "corral-100", at_least=True, floor=2.0,
    ),
    Bound(
        "round trip of one task, synced, median", "us", 1000.0,
        lambda run: run.series("corral-1", "p50_us"), "corral-1",
    ),
    Bound(
        "the same against Huey that syncs always", "x", 0.5,
        lambda run: run.ratios("corral-1", "huey", "p50_us"), "corral-1",
    ),
    Bound(
        "memory per queued task, 256 B each, 100,000 queued", "B", 1200.0,
        lambda run: run.figure("queue", "bytes_per_task"),
    ),
    Bound(
        "recovery of 100,000 queued tasks after kill -9", "s", 1.0,
        lambda run: run.figure("queue", "recovery_s"), "queue",
    ),
    Bound(
        "throughput at 1,000,000 queued against 1,000", "x", 0.9,
        lambda run: run.figure("depth", "ratio"), "depth", at_least=True,
    ),
    Bound(
        "1,000 idle workers heartbeating, share of one core", "%", 5.0,
        lambda run: run.figure("heartbeats", "percent_of_core"), "heartbeats",
    ),
    Bound(
        "placement per task: 1,000 workers, 100,000 queued, 20 classes", "ms", 1.0,
        lambda run: run.figure("placement", "ms_per_task"), "placement",
    ),
    Bound(
        "10,000 events/s: throughput with 20 open pages against no gateway", "x", 0.95,
        lambda run: run.figure("pages", "offered_ratio"), "pages", at_least=True,
    ),
    Bound(
        "memory of a gateway with 20 open pages, at its peak", "MiB", 128.0,
        lambda run: run.figure("pages", "gateway_mib_peak"),
    ),
    Bound(
        "baseline, CPU of the plain broker per task", "us", 30.0,
        lambda run: run.series("plain", "broker_cpu_us"),
    ),
    Bound(
        "baseline, lines of the plain broker", "", 60.0,
        lambda run: [float(len(BASELINE.read_text().splitlines()))] if "plain" in run.peers else [],
    ),
)  # fmt: skip


def judged(run: Run) -> list[Verdict]:
    """Returns a verdict on every bound that this run can judge."""
    measured = ((bound, bound.series(run)) for bound in BOUNDS)
    return [Verdict(bound, median(series)) for bound, series in measured if series]
