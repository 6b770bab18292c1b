"""What the agent's mind knows of a lane and of a child process. Pure data with a little sense.

A lane is one booking: attempts that run one after the other, in one child. What happens to lanes
and children, and when, is decided in `worker.core`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from math import ceil

from corral.messages import Item, Lane
from worker.pipe import Want

CHUNK_SECONDS = 0.005  # work that a child is fed ahead: what is in the agent can be recalled
MAX_CHUNK = 1000
SOFT_SHARE, SOFT_SECONDS = 0.9, 30.0


class Child:
    """A child process, from its start until it is dead."""

    __slots__ = ("finished", "gpus", "lane", "leaving", "number", "purpose", "ready", "since")

    def __init__(self, number: int, purpose: Purpose, now: float) -> None:
        self.number = number
        self.purpose = purpose
        self.gpus = frozenset(purpose[1])
        self.ready = False  #: it can take work
        self.leaving = False  #: told to end, or killed
        self.lane: Booked | None = None
        self.finished = 0  #: attempts it reported in its life
        self.since = now  #: when it was started, became idle, or was told to end


#: kind, GPU UUIDs, threads: a child serves lanes of one purpose only
Purpose = tuple[str, tuple[str, ...], int]


class Booked:
    """A lane: the attempts that wait in the agent, and those that its child has."""

    __slots__ = (
        "arrived",
        "asked",
        "began",
        "booking",
        "cancelled",
        "child",
        "cores",
        "cpus",
        "due",
        "fed",
        "gpus",
        "kill_at",
        "kind",
        "late",
        "memory_gb",
        "queue",
        "recalled",
        "recounting",
        "run_limit",
        "running",
        "softened",
        "told",
        "verdict",
    )  # fmt: skip

    def __init__(self, lane: Lane, now: float) -> None:
        self.booking = lane.booking
        self.kind = lane.kind
        self.cpus = lane.cpus
        self.memory_gb = lane.memory_gb
        self.gpus = frozenset(lane.gpus)
        self.run_limit = lane.run_limit
        self.cores: tuple[int, ...] = ()
        self.arrived = now  #: when the first of `queue` came
        self.queue: deque[Item] = deque()  #: not yet with the child
        self.fed: deque[Item] = deque()  #: with the child; the first one runs, or is about to
        self.child: Child | None = None
        self.recounting = False  #: the child was asked what it has not begun
        self.recalled: set[bytes] = set()  #: the broker wants these back if they have not begun
        self.cancelled: dict[bytes, tuple[str, float]] = {}  #: token -> why, grace in seconds
        self.verdict: tuple[str, str] | None = None  #: why the child was killed: outcome, message
        self.follow(0.0)

    def follow(self, now: float) -> None:
        """Another attempt may run now: forget what was known of the one before."""
        self.running = b""  #: its token, when it is known which one runs
        self.began = now  #: when it began; no later, when that is not known
        self.due = now  #: when the child last said or got something
        self.late = False  #: it takes longer than was thought: nothing is fed behind it
        self.told = False  #: the broker knows that it runs
        self.asked: Want | None = None  #: it was told to stop, or to hand back
        self.softened = False  #: it was told that its limit is near
        self.kill_at: float | None = None

    @property
    def purpose(self) -> Purpose:
        """What a child must be for, to serve this lane."""
        return self.kind, tuple(sorted(self.gpus)), max(1, ceil(self.cpus))

    @property
    def soft_at(self) -> float | None:
        """When the running attempt, if it is known, is warned of its limit; None: never or done."""
        if self.run_limit is None or self.softened or not self.running:
            return None
        return self.began + max(self.run_limit * SOFT_SHARE, self.run_limit - SOFT_SECONDS)

    def take(self, tokens: Container[bytes]) -> list[Item]:
        """Remove those of `tokens` that wait in the agent."""
        taken = [item for item in self.queue if item.token in tokens]
        if taken:
            self.queue = deque(item for item in self.queue if item.token not in tokens)
        return taken


class Pace:
    """How long attempts of each kind take, to see how many a child can be fed ahead."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def learn(self, kind: str, count: int, busy: float) -> None:
        """`count` attempts took `busy` seconds. Slower is believed at once, faster by and by."""
        seen = busy / count
        known = self._seconds.get(kind, seen)
        self._seconds[kind] = seen if seen > known else 0.7 * known + 0.3 * seen

    def chunk(self, kind: str) -> int:
        """How many a child may have at once: one, until its kind is known to be fast."""
        seconds = self._seconds.get(kind)
        if seconds is None:
            return 1
        return max(1, min(MAX_CHUNK, int(CHUNK_SECONDS / max(seconds, 1e-9))))


def least_used(cores: Sequence[int], use: dict[int, int], cpus: float) -> tuple[int, ...]:
    """The cores that a lane with `cpus` is bound to: those that the fewest lanes use.

    Empty, which means all, for work that books less than one core.
    """
    if cpus < 1:
        return ()
    order = sorted(cores, key=lambda core: (use.get(core, 0), core))
    return tuple(sorted(order[: ceil(cpus)]))
