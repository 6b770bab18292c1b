"""`/metrics`: the broker is asked when Prometheus asks, and every figure is written.

What the figures are, and where each is read, is a table in `figures`; what is counted between two
scrapes is in `tally`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corral.errors import BrokerUnreachable
from corral.gateway.figures import FIGURES, Figure, Seen
from corral.gateway.problems import BrokerAway
from corral.gateway.routes import Ask, Resource, Stream
from corral.gateway.tally import BOUNDS, Histogram, Tally
from corral.gateway.upstream import Upstream
from corral.messages import BrokerView, WorkerView

PATIENCE = 5.0  # seconds that the broker has to answer; Prometheus itself waits 10

#: what the library tells of the gateway's own process
PROCESS = ProcessCollector(registry=CollectorRegistry())


class _Told(Collector):
    """Everything, as the library wants it."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterable[Metric]:
        for figure in FIGURES:
            yield _family(figure, self._seen)
        yield from PROCESS.collect()


def _family(figure: Figure, seen: Seen) -> Metric:
    name, tells, labels = figure.name, figure.tells, figure.labels
    samples = figure.read(seen)
    if figure.histogram:
        histograms = HistogramMetricFamily(name, tells, labels=labels)
        for label, value in samples:
            assert isinstance(value, Histogram)
            histograms.add_metric(label, _buckets(value), value.sum)
        return histograms
    family = (CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily)(
        name, tells, labels=labels
    )
    for label, value in samples:
        assert not isinstance(value, Histogram)
        family.add_metric(label, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, BOUNDS), "+Inf"], histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


async def _look(upstream: Upstream, streams: int) -> Seen:
    """Ask the broker how things are; it has not answered when it is away."""
    began = time.monotonic()
    broker: BrokerView | None = None
    workers: list[WorkerView] = []
    answered = 0.0
    with suppress(BrokerAway, BrokerUnreachable, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            view = await upstream.client.status()
            answered = time.monotonic() - began
            workers = await upstream.client.workers()
            broker = view
    expected = upstream.expected.names() if upstream.expected is not None else []
    return Seen(time.time(), upstream.tally, streams, broker, workers, expected, answered)


async def tell(ask: Ask) -> ASGIApp:
    """Tell every figure, as Prometheus reads it."""
    seen = await _look(ask.upstream, ask.upstream.watched)
    return Response(generate_latest(_Told(seen)), media_type=CONTENT_TYPE_PLAIN_0_0_4)


RESOURCE = Resource("GET", "/metrics", tell, Stream(CONTENT_TYPE_PLAIN_0_0_4, "Every figure."))


class Counted:
    """Stands before the gateway and counts what it answers."""

    def __init__(self, app: ASGIApp, tally: Tally) -> None:
        self._app = app
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._tally.requests[str(message["status"])] += 1
            await send(message)

        await self._app(scope, receive, counted)
