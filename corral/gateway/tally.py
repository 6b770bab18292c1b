"""What happened to tasks, counted: how many of each kind, how long they waited and ran.

Pure: the changes that the broker tells are folded in, as they are into the page. Only what happens
while this gateway runs is counted, so that a new gateway begins at 0, as Prometheus expects of a
counter, and not with the broker's past. What the figures are called is in `metrics`.

Bounded: so many unfinished tasks are followed, and so many kinds have a name of their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict, deque

from corral.messages import BrokerView, TaskView, Update
from corral.tasks import TERMINAL, Cause, State

FOLLOWED = 100_000  # unfinished tasks; of those that come when so many are there, no times are told
REMEMBERED = 20_000  # ended tasks whose kind is known when they are run again
KINDS = 100  # with a name of their own; more would be more series than Prometheus should keep
UNKNOWN, OTHER = "unknown", "other"  # kinds that were not told, and those beyond the bound
BOUNDS = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
LAGS = 120  # turns of the loop whose lag is remembered: a minute
REOPENED = frozenset({Cause.REOPEN, Cause.REOPEN_WAITING})


class Histogram:
    """How many observations are at most each bound, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Take one in. A clock that was set back makes no negative time."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class Life:
    """What is known of a task that is not over."""

    __slots__ = ("device", "kind", "queued", "started")

    def __init__(self, kind: str, queued: float | None = None) -> None:
        self.kind = kind
        self.queued = queued  #: since when it waits for a worker; None: it does not, or not known
        self.started: float | None = None
        self.device = "cpu"


class Tally:
    """The figures that are counted, and what they are counted from."""

    def __init__(self) -> None:
        self.submitted: Counter[str] = Counter()  #: kind
        self.ended: Counter[tuple[str, str]] = Counter()  #: kind, state
        self.retried: Counter[str] = Counter()  #: kind: attempts that failed, and another follows
        self.requeued: Counter[str] = Counter()  #: kind: attempts lost for no fault of the task
        self.waits: dict[tuple[str, str], Histogram] = {}  #: kind, device
        self.runs: dict[tuple[str, str], Histogram] = {}  #: kind, device
        self.placed: float | None = None  #: when a task was given to a worker last
        self.requests: Counter[str] = Counter()  #: of the gateway itself, by status
        self.lags: deque[float] = deque([0.0], LAGS)  #: seconds that turns of its loop came late
        self._kinds: set[str] = set()
        self._lives: dict[str, Life] = {}
        self._over: OrderedDict[str, str] = OrderedDict()  #: id -> kind
        self._begin: int | None = None  #: the last change that is the past

    def begin(self, view: BrokerView) -> None:
        """The broker was heard. What it had done before the first time is not counted."""
        if self._begin is None or view.seq < self._begin:
            self._begin = view.seq
        for kind in view.kinds:
            self._named(kind.kind)

    def _named(self, kind: str) -> str:
        """The kind, as a label. All that is counted by kind begins at 0, so that 1 is a rise."""
        if kind in self._kinds or not kind:
            return kind or UNKNOWN
        if len(self._kinds) >= KINDS:
            return OTHER
        self._kinds.add(kind)
        self._at_zero(kind)
        return kind

    def _at_zero(self, kind: str) -> None:
        for counter in (self.submitted, self.retried, self.requeued):
            counter[kind] += 0
        for state in TERMINAL:
            self.ended[kind, state.value] += 0

    # --- what is told -------------------------------------------------------------------

    def fold(self, change: Update | TaskView) -> None:
        """Something happened to a task."""
        if isinstance(change, TaskView):
            self._found(change)
        elif change.state is not None:
            self._moved(change, self._begin is not None and change.seq > self._begin)

    def _moved(self, update: Update, counts: bool) -> None:
        id, state, cause = update.id, update.state, update.cause
        if cause == "submit":
            life = Life(self._named(update.kind))
            self._follow(id, life)
            self.submitted[life.kind] += counts
        elif cause in REOPENED:
            life = Life(self._over.pop(id, UNKNOWN))
            self._follow(id, life)
        else:
            life = self._lives.get(id) or Life(self._over.get(id, UNKNOWN))
        if state is State.QUEUED:
            self.requeued[life.kind] += counts and cause == Cause.REQUEUE
            life.queued, life.started = update.at, None
        elif state is State.RUNNING:
            self._begins(life, update, counts)
        else:
            self._ends(life, update, counts)
            if state in TERMINAL:
                self._let_go(id)

    def _begins(self, life: Life, update: Update, counts: bool) -> None:
        life.device = "gpu" if update.gpus else "cpu"
        if counts and life.queued is not None:
            _observe(self.waits, life, update.at - life.queued)
        life.queued, life.started = None, update.at
        self.placed = max(update.at, self.placed or 0.0)

    def _ends(self, life: Life, update: Update, counts: bool) -> None:
        """It has left the queue, or an attempt is over."""
        assert update.state is not None
        if counts and life.started is not None:
            _observe(self.runs, life, update.at - life.started)
        life.queued = life.started = None
        self.retried[life.kind] += counts and update.state is State.RETRYING
        if update.state in TERMINAL:
            self.ended[life.kind, update.state.value] += counts

    def _found(self, view: TaskView) -> None:
        """What it has missed is not told; this is how a task stands now."""
        life = self._lives.get(view.id)
        if view.state in TERMINAL:
            if life is not None:
                self.ended[life.kind, view.state.value] += self._begin is not None
                self._let_go(view.id)
            return
        if life is None:
            life = Life(self._named(view.kind))
            self._follow(view.id, life)
        if view.state is not State.QUEUED:
            life.queued = None
        life.started = (life.started or view.started) if view.state is State.RUNNING else None

    def _follow(self, id: str, life: Life) -> None:
        if len(self._lives) < FOLLOWED:
            self._lives[id] = life

    def _let_go(self, id: str) -> None:
        life = self._lives.pop(id, None)
        if life is not None:
            self._over[id] = life.kind
            if len(self._over) > REMEMBERED:
                self._over.popitem(last=False)


def _observe(figures: dict[tuple[str, str], Histogram], life: Life, seconds: float) -> None:
    found = figures.get((life.kind, life.device))
    if found is None:
        found = figures[life.kind, life.device] = Histogram()
    found.observe(seconds)
