"""Virtual time: a heap of what happens when, and the one source of randomness.

Nothing here knows what is simulated.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any


class Engine:
    """The clock. `now` is seconds since the world began; equal seeds make equal runs."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.events = 0  #: happenings so far
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Call `action(*args)` at `when`; what was asked for first happens first."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, action, args))

    def after(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        """Call `action(*args)` so many seconds from now."""
        self.at(self.now + delay, action, *args)

    def run(self, until: float) -> None:
        """Let everything happen that happens before `until`."""
        heap = self._heap
        pop = heapq.heappop
        while heap and heap[0][0] < until:
            self.now, _, action, args = pop(heap)
            self.events += 1
            action(*args)
        self.now = until

    def chance(self, share: float) -> bool:
        """True in that share of cases."""
        return self.random.random() < share

    def between(self, low: float, high: float) -> float:
        """A number between two, all equally likely."""
        return low + (high - low) * self.random.random()
