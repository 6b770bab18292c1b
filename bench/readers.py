"""Open pages as the gateway sees them: so many HTTP clients, each of which reads its live stream.

A process of its own, since the readers of a real gateway are other people's browsers. It says
`open` once every stream has shown its first state; at SIGTERM it prints, as JSON, how many events
and bytes came.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from http.client import HTTPConnection

PATIENCE = 60.0  # seconds of silence; the gateway breaks it every 15


class Reader(threading.Thread):
    """One page."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.events = 0
        self.bytes = 0
        self.shown = threading.Event()  #: its first state has come

    def run(self) -> None:
        """Read until the process ends."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        connection.request("GET", "/api/v1/stream", headers={"accept": "text/event-stream"})
        for line in connection.getresponse():
            self.bytes += len(line)
            if line.startswith(b"data:"):
                self.events += 1
                self.shown.set()


def main(port: str, count: str) -> None:
    """Read so many streams of the gateway at a port of loopback."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    readers = [Reader(int(port)) for _ in range(int(count))]
    for reader in readers:
        reader.start()
    for reader in readers:
        if not reader.shown.wait(PATIENCE):
            sys.exit("readers: a page shows nothing")
    print("open", flush=True)
    signal.sigwait({signal.SIGTERM})
    if not all(reader.is_alive() for reader in readers):
        sys.exit("readers: a stream has ended")
    events = [reader.events for reader in readers]
    told = {"events": sum(events), "fewest": min(events), "bytes": sum(r.bytes for r in readers)}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
