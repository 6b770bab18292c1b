"""One measurement of one peer: this process is the client. Prints the figures as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from bench import private_redis
from bench.measure import collect_all, payloads, round_trips, throughput
from bench.peers import PEERS

WARM_UP = 200


def main(name: str, folder: str, share: str) -> None:
    """Measures one peer once, with that share of its tasks."""
    private_redis.choose_url()
    peer = PEERS[name]
    module = importlib.import_module(peer.module)
    with module.start(Path(folder), **peer.options) as session:
        collect_all(session, payloads(WARM_UP))
        figures = throughput(session, int(peer.tasks * float(share)))
        if peer.trips:
            figures |= round_trips(session, max(100, int(peer.trips * float(share))))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
