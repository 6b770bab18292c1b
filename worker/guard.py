"""Kills what an agent started when the agent itself is killed.

Runs as a process of its own, so that it outlives `kill -9`; it waits for the end of a pipe that
only the agent holds. Started by the agent as `python -P -m worker.guard MARK`.
"""

from __future__ import annotations

import os
import sys

from worker.processes import kill_all, marked

PATIENCE = 30.0  # seconds that processes may take to die


def main() -> None:
    """Wait for the agent's end, then kill whatever carries its mark."""
    mark = os.fsencode(sys.argv[1])
    while sys.stdin.buffer.read(1):
        pass
    kill_all(lambda: marked(mark), PATIENCE)


if __name__ == "__main__":
    main()
