"""Figures of Corral alone: a queued task, a broker that comes back, a deep queue, a large fleet.

Each is a module `bench.figures.NAME` with `measure(folder, share)`, which returns its numbers by
name; `share` is the part of the full amount of work to do, 1 for a result.
"""

from __future__ import annotations

# module -> what it measures, in the order in which they run
FIGURES = {
    "queue": "100,000 queued tasks, no worker; then kill -9",
    "depth": "a burst ahead of 1,000,000 queued tasks, and of 1,000",
    "heartbeats": "1,000 idle workers for 20 s",
    "placement": "1,000 workers, 100,000 queued tasks, 20 request classes, in process",
    "pages": "10,000 events/s offered, and a burst: no gateway, a gateway, 20 open pages",
}
