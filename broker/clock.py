"""The broker's time: the wall clock at the start, plus the time since. It never jumps.

Nor does it fall behind what the store has recorded, or retries and limits would wait for a clock
that was set back while no broker ran. Then time begins at the newest record and goes slower until
the clock has caught up.
"""

from __future__ import annotations

import time

SLOWER = 0.1  # of the rate of time: an hour ahead is made up for in ten


class Clock:
    """One broker's time, in seconds since the epoch."""

    def __init__(self) -> None:
        self.started = time.time()
        self._began = time.monotonic()
        self._ahead = 0.0

    def now(self) -> float:
        """The time now."""
        return self.at(time.monotonic())

    def at(self, moment: float) -> float:
        """The time at a moment of the monotonic clock."""
        elapsed = moment - self._began
        time = self.started + elapsed
        if self._ahead:
            time += max(0.0, self._ahead - SLOWER * elapsed)
        return time

    def begin_at(self, newest: float) -> float:
        """Let no time be before `newest`; by how much the wall clock is behind it."""
        behind = max(0.0, newest - self.now())
        self._ahead += behind
        return behind
