"""Every figure that Prometheus is told: what it is called, what it means, where it is read.

One table, by the conventions of Prometheus. docs/reference/metrics.md is made from it; alert
rules and dashboards (templates/prometheus, templates/grafana) use its names, and a test holds them
together. How the figures are gathered and written is told in `metrics`.

While the broker is away its figures are left out, not told as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import NamedTuple

from corral.gateway.tally import KINDS, Histogram, Tally
from corral.messages import BrokerView, KindView, WorkerView

GIB = 1 << 30


class Seen(NamedTuple):
    """All that is read at one time."""

    now: float
    tally: Tally
    streams: int
    broker: BrokerView | None
    workers: list[WorkerView]
    expected: list[str]  #: workers that ought to be there
    answered: float  #: seconds that the broker took to answer


Sample = tuple[tuple[str, ...], float | Histogram]


class Figure(NamedTuple):
    """One line of the table."""

    name: str  #: the ending tells the type: `_total` is a counter, a histogram has `Histogram`s
    labels: tuple[str, ...]
    tells: str
    read: Callable[[Seen], Iterable[Sample]]
    histogram: bool = False

    @property
    def kind(self) -> str:
        """The type, as Prometheus calls it."""
        if self.histogram:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"


# --- how figures are read -----------------------------------------------------------------


def _of_broker(
    read: Callable[[BrokerView], float | None],
) -> Callable[[Seen], Iterable[Sample]]:
    """One figure of the broker."""

    def samples(seen: Seen) -> Iterator[Sample]:
        if seen.broker is not None and (value := read(seen.broker)) is not None:
            yield (), value

    return samples


def _by_broker(
    read: Callable[[BrokerView], Mapping[str, float]],
) -> Callable[[Seen], Iterable[Sample]]:
    """Figures of the broker by one label."""

    def samples(seen: Seen) -> Iterator[Sample]:
        if seen.broker is not None:
            for label, value in read(seen.broker).items():
                yield (label,), value

    return samples


def _by_worker(read: Callable[[WorkerView, float], float]) -> Callable[[Seen], Iterable[Sample]]:
    """A figure of each worker."""
    return lambda seen: (((one.name,), read(one, seen.now)) for one in seen.workers)


def _by_gpu(
    read: Callable[[WorkerView, int], float],
) -> Callable[[Seen], Iterable[Sample]]:
    """A figure of each GPU."""
    return lambda seen: (
        ((one.name, gpu.uuid), read(one, index))
        for one in seen.workers
        for index, gpu in enumerate(one.gpus)
    )


def _by_known_kind(read: Callable[[KindView], float]) -> Callable[[Seen], Iterable[Sample]]:
    """What the broker tells of each kind, as far as they have names of their own."""
    return _by_broker(lambda broker: {kind.kind: read(kind) for kind in broker.kinds[:KINDS]})


def _by_kind(read: Callable[[Tally], Counter[str]]) -> Callable[[Seen], Iterable[Sample]]:
    """What was counted by kind."""
    return lambda seen: (((kind,), count) for kind, count in read(seen.tally).items())


def _store(broker: BrokerView) -> Mapping[str, float]:
    if broker.store is None:
        return {}
    store = broker.store
    return {"journal": store.journal, "tables": store.tables, "blobs": store.blobs}


FIGURES: tuple[Figure, ...] = (
    Figure(
        "corral_build_info", ("version",),
        "1; the version of the gateway.",
        lambda seen: [((version("corral"),), 1)],
    ),
    Figure(
        "corral_broker_up", (),
        "Whether the broker answers the gateway. While it is 0, all that the broker would "
        "tell is left out.",
        lambda seen: [((), seen.broker is not None)],
    ),
    Figure(
        "corral_broker_build_info", ("version",),
        "1; the version of the broker.",
        _by_broker(lambda broker: {broker.version: 1}),
    ),
    Figure(
        "corral_broker_start_time_seconds", (),
        "When the broker started, in seconds since the epoch.",
        _of_broker(lambda broker: broker.started),
    ),
    Figure(
        "corral_broker_answer_seconds", (),
        "How long the broker took to answer this time: the way there and back, and one turn "
        "of its loop.",
        lambda seen: [((), seen.answered)] if seen.broker else [],
    ),
    Figure(
        "corral_broker_resident_memory_bytes", (),
        "Memory that the broker's process has.",
        _of_broker(lambda broker: broker.rss_bytes),
    ),
    Figure(
        "corral_broker_refused_total", ("reason",),
        "Messages that the broker turned away, malformed ones too.",
        _by_broker(lambda broker: broker.refused),
    ),
    Figure(
        "corral_store_bytes", ("part",),
        "The broker's store on its disk: `journal` (not folded yet), `tables`, `blobs` (large"
        " results and checkpoints).",
        _by_broker(_store),
    ),
    Figure(
        "corral_store_free_bytes", (),
        "What the broker's disk still gives.",
        _of_broker(lambda broker: broker.store.free if broker.store else None),
    ),
    Figure(
        "corral_store_full", (),
        "Whether the broker refuses new work because its disk is full.",
        _of_broker(lambda broker: broker.store_full),
    ),
    Figure(
        "corral_tasks", ("state",),
        "Tasks that the broker has at hand, by state. Ended ones leave it with time: count "
        "those by `corral_tasks_ended_total`.",
        _by_broker(lambda broker: broker.tasks),
    ),
    Figure(
        "corral_queue_tasks", ("kind",),
        "Tasks that may start as soon as a worker fits.",
        _by_known_kind(lambda kind: kind.queued),
    ),
    Figure(
        "corral_queue_wait_seconds", (),
        "How long the next task in line has waited, in the line where that is longest; "
        "nothing while nothing is queued.",
        _of_broker(lambda broker: broker.waited),
    ),
    Figure(
        "corral_kind_workers", ("kind",),
        "Live, open workers that serve the kind.",
        _by_known_kind(lambda kind: kind.workers),
    ),
    Figure(
        "corral_task_slowness_ratio", ("kind",),
        "Of the attempts that run: how many times as long as expected the slowest has run. "
        "What is expected is learned from tasks of the same kind and needs, five at least; "
        "less than 1 s counts as 1 s.",
        _by_known_kind(lambda kind: kind.slowest),
    ),
    Figure(
        "corral_named_resources", ("resource",),
        "Fleet-wide counted resources that there are.",
        _by_broker(lambda broker: {name: total for name, (_, total) in broker.named.items()}),
    ),
    Figure(
        "corral_named_resources_used", ("resource",),
        "Those of them that are booked.",
        _by_broker(lambda broker: {name: used for name, (used, _) in broker.named.items()}),
    ),
    Figure(
        "corral_workers", ("status",),
        "Workers in the registry, by the word that `corral worker list` shows.",
        _by_broker(lambda broker: broker.workers),
    ),
    Figure(
        "corral_worker_up", ("worker",),
        "Whether the broker hears the worker: 1 while it is live. One that left in order, or "
        "was silent for `gone_after`, has none.",
        _by_worker(lambda worker, _: worker.health == "live"),
    ),
    Figure(
        "corral_worker_open", ("worker",),
        "Whether it is given work: 1 while it is live and neither draining nor drained.",
        _by_worker(lambda worker, _: worker.health == "live" and worker.admission == "open"),
    ),
    Figure(
        "corral_worker_expected", ("worker",),
        "1 for each worker that ought to be there, registered or not: those of the gateway's file "
        "`expect`.",
        lambda seen: (((name,), 1) for name in seen.expected),
    ),
    Figure(
        "corral_worker_heartbeat_age_seconds", ("worker",),
        "Since its last sign of life. The clocks of broker and gateway are compared, so they "
        "should agree.",
        _by_worker(lambda worker, now: max(0.0, now - worker.seen)),
    ),
    Figure(
        "corral_worker_slots", ("worker",),
        "Attempts that it runs at once.",
        _by_worker(lambda worker, _: worker.slots),
    ),
    Figure(
        "corral_worker_slots_used", ("worker",),
        "Slots that are booked.",
        _by_worker(lambda worker, _: worker.slots_used),
    ),
    Figure(
        "corral_worker_cpus", ("worker",),
        "Cores that it has.",
        _by_worker(lambda worker, _: worker.cpus),
    ),
    Figure(
        "corral_worker_cpus_used", ("worker",),
        "Cores that are booked.",
        _by_worker(lambda worker, _: worker.cpus_used),
    ),
    Figure(
        "corral_worker_memory_bytes", ("worker",),
        "Memory that it has.",
        _by_worker(lambda worker, _: worker.memory_gb * GIB),
    ),
    Figure(
        "corral_worker_memory_used_bytes", ("worker",),
        "Memory that is booked.",
        _by_worker(lambda worker, _: worker.memory_gb_used * GIB),
    ),
    Figure(
        "corral_gpu_busy_ratio", ("worker", "gpu"),
        "1 while a task has the GPU, else 0; its average over time is how busy the GPU was.",
        _by_gpu(lambda worker, index: bool(worker.gpus[index].holder)),
    ),
    Figure(
        "corral_gpu_foreign_memory_bytes", ("worker", "gpu"),
        "Memory of the GPU that programs outside Corral use.",
        _by_gpu(lambda worker, index: worker.gpus[index].foreign_gb * GIB),
    ),
    Figure(
        "corral_tasks_submitted_total", ("kind",),
        "Tasks that were accepted.",
        _by_kind(lambda tally: tally.submitted),
    ),
    Figure(
        "corral_tasks_ended_total", ("kind", "state"),
        "Runs of tasks that ended, by how: `succeeded`, `failed`, `cancelled`, `aborted`, "
        "`expired`.",
        lambda seen: seen.tally.ended.items(),
    ),
    Figure(
        "corral_task_retries_total", ("kind",),
        "Attempts that failed and are followed by another.",
        _by_kind(lambda tally: tally.retried),
    ),
    Figure(
        "corral_task_requeues_total", ("kind",),
        "Attempts that were lost through no fault of their task, which is queued again: a "
        "lost worker, a drain, a recall.",
        _by_kind(lambda tally: tally.requeued),
    ),
    Figure(
        "corral_task_wait_seconds", ("kind", "device"),
        "How long tasks were queued before an attempt was given to a worker. `device` is what"
        " they got: `gpu` or `cpu`.",
        lambda seen: seen.tally.waits.items(),
        histogram=True,
    ),
    Figure(
        "corral_task_run_seconds", ("kind", "device"),
        "How long attempts took that ended, well or not, from when they were given to a worker.",
        lambda seen: seen.tally.runs.items(),
        histogram=True,
    ),
    Figure(
        "corral_last_placement_timestamp_seconds", (),
        "When a task was given to a worker last, in seconds since the epoch.",
        lambda seen: [] if seen.tally.placed is None else [((), seen.tally.placed)],
    ),
    Figure(
        "corral_gateway_loop_lag_seconds", (),
        "By how much a turn of the gateway's loop came late, at worst in the last minute.",
        lambda seen: [((), max(seen.tally.lags))],
    ),
    Figure(
        "corral_gateway_streams", (),
        "Live streams that are open: pages, mostly.",
        lambda seen: [((), seen.streams)],
    ),
    Figure(
        "corral_gateway_requests_total", ("status",),
        "Requests that the gateway answered, by HTTP status.",
        _by_kind(lambda tally: tally.requests),
    ),
)  # fmt: skip
