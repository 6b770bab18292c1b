"""The figures that `corral top` shows beside workers and tasks: what Prometheus is told, for now.

Pure functions of the API's structs. Times are those of the tasks that ended last; how they were
before is Prometheus' matter (`corral.gateway.metrics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from corral.cli.options import span
from corral.messages import BrokerView, KindView, TaskView, WorkerView
from corral.tasks import State

SLOW = 2.0  # times as long as expected: from then on there is an alert
_GIB = 1 << 30


class KindFigures(NamedTuple):
    """One kind: what the broker tells of it, and its tasks that ended last."""

    view: KindView
    waits: Sequence[float]  #: seconds until they began
    runs: Sequence[float]  #: seconds from then on
    failed: int
    ended: int


def kind_figures(kinds: Iterable[KindView], ended: Iterable[TaskView]) -> list[KindFigures]:
    """Every kind of which something is queued, runs long, or has ended lately; by name."""
    tasks: dict[str, list[TaskView]] = {}
    for task in ended:
        tasks.setdefault(task.kind, []).append(task)
    figures = [_figures(kind, tasks.get(kind.kind, [])) for kind in kinds]
    busy = [one for one in figures if one.ended or one.view.queued or one.view.slowest]
    return sorted(busy, key=lambda one: one.view.kind)


def _figures(kind: KindView, tasks: Sequence[TaskView]) -> KindFigures:
    began = [(task, task.started) for task in tasks if task.started is not None]
    return KindFigures(
        kind,
        [max(0.0, started - task.submitted) for task, started in began],
        [max(0.0, task.ended - started) for task, started in began if task.ended is not None],
        sum(task.state is State.FAILED for task in tasks),
        len(tasks),
    )


def _usual(seconds: Sequence[float]) -> str:
    return span(median(seconds)) if seconds else ""


KIND_COLUMNS: Mapping[str, Callable[[KindFigures], Any]] = {
    "kind": lambda one: one.view.kind,
    "workers": lambda one: str(one.view.workers),
    "queued": lambda one: one.view.queued or "",
    "usual wait": lambda one: _usual(one.waits),
    "usual run": lambda one: _usual(one.runs),
    "longest run": lambda one: span(max(one.runs)) if one.runs else "",
    "runs now": lambda one: f"{one.view.slowest:.1f} x expected" if one.view.slowest else "",
    "failed": lambda one: f"{one.failed} of {one.ended}" if one.failed else "",
}


def fleet_text(broker: BrokerView, workers: Sequence[WorkerView]) -> str:
    """What is busy, how long the queue waits, and what the disk still gives, on one line."""
    gpus = [gpu for worker in workers for gpu in worker.gpus]
    slots = sum(worker.slots for worker in workers)
    used = sum(worker.slots_used for worker in workers)
    parts = [
        f"slots: {used}/{slots} busy",
        f"GPUs: {sum(bool(gpu.holder) for gpu in gpus)}/{len(gpus)} busy" if gpus else "",
        f"longest wait: {span(broker.waited)}" if broker.waited is not None else "",
        f"disk: {broker.store.free / _GIB:.1f} GiB free" if broker.store else "",
    ]
    return "  ".join(part for part in parts if part)
