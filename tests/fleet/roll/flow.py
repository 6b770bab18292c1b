"""Tasks that flow through a fleet while a test does something to it, and what became of them.

`Flow` keeps the fleet busy and looks at it four times a second. What was run, where and how often
is read from the files that attempts leave in their containers (`Witness`), never from the broker.
What is done to the fleet stands in the tests.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from corral import Client, Task
from corral.messages import WorkerView
from corral.tasks import State
from tests.fleet.site import Site

KIND = "witness"
FILE = "var/lib/corral-worker/witness"  # in each container
LOOK = 0.25  # seconds between two looks
PATIENCE = 600.0  # seconds that a client waits for the broker, or a test for a busy machine
BACKLOG = 60  # queued tasks: nobody who may work is idle
Span = tuple[float, float]  # (from, until)
LENGTHS = {0.02: 40, 0.1: 40, 0.4: 15, 1.5: 5}  # seconds -> how many of a hundred tasks


class Attempt(NamedTuple):
    """One attempt, as its lines tell it."""

    task: str
    number: int
    host: str
    began: float
    ended: float | None = None


class Look(NamedTuple):
    """What the broker said at one moment."""

    at: float
    epoch: int  #: of the broker: another one after a restart
    workers: Mapping[str, WorkerView]

    @property
    def live(self) -> set[str]:
        """Those that it hears."""
        return {name for name, one in self.workers.items() if one.health == "live"}

    @property
    def working(self) -> set[str]:
        """Those that may be given work."""
        return {name for name in self.live if self.workers[name].admission == "open"}

    @property
    def updating(self) -> set[str]:
        """Those that an update has drained."""
        return {
            name for name, one in self.workers.items() if one.drain_reason.startswith("update to ")
        }

    @property
    def busy(self) -> set[str]:
        """Those that run something."""
        return {name for name, one in self.workers.items() if one.tasks}


class Witness:
    """The files of all containers, read from the host; what is gone with one has been read."""

    def __init__(self, lab: Path) -> None:
        self.lab = lab
        self.lines: dict[Path, list[str]] = defaultdict(list)
        self.hosts: dict[Path, str] = {}
        self._read: dict[Path, int] = defaultdict(int)

    def look(self) -> None:
        """Read what is new."""
        for root in self.lab.glob("volumes/*/root"):
            try:
                self.hosts[root] = (root / "etc/hostname").read_text().strip()
                with (root / FILE).open("rb") as file:
                    file.seek(self._read[root])
                    new, newline, _ = file.read().rpartition(b"\n")
            except OSError:
                continue  # not mounted, or nothing has run there
            self._read[root] += len(new + newline)
            self.lines[root] += new.decode().splitlines()

    def attempts(self) -> list[Attempt]:
        """Every attempt that began, by when it did."""
        found: dict[tuple[Path, str, int], Attempt] = {}
        for root, lines in self.lines.items():
            for line in lines:
                what, task, number, at = line.split()
                key = (root, task, int(number))
                if what == "started":
                    assert key not in found, f"{line}: an attempt began twice"
                    found[key] = Attempt(task, int(number), self.hosts[root], float(at))
                else:
                    found[key] = found[key]._replace(ended=float(at))
        return sorted(found.values(), key=lambda one: one.began)


@dataclass
class Flow:
    """Tasks of mixed length, `at_least` so many and on until the test is through."""

    site: Site
    at_least: int
    outcomes: dict[str, State] = field(default_factory=dict)  #: of every accepted task
    accepted: set[str] = field(default_factory=set)
    looks: list[Look] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0  #: when the last task was accepted

    def __post_init__(self) -> None:
        self.witness = Witness(self.site.folder)
        self._through = threading.Event()
        self._counted = threading.Event()
        self._wrong: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,)) for work in (self._feed, self._see)
        ]

    def __enter__(self) -> Flow:
        self.began = time.time()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let all tasks come to their end; after a failure, only stop."""
        self._through.set()
        if error is not None:
            self._counted.set()
        for thread in self._threads:
            thread.join()
        self.witness.look()
        if error is None and self._wrong:
            raise self._wrong[0]

    def until(
        self, what: Callable[[Look], bool], meanwhile: subprocess.Popen[str] | None = None
    ) -> Look:
        """The first look from now on that is as wanted, while a playbook runs."""
        since = time.time()
        while True:
            assert not self._wrong, self._wrong
            if meanwhile is not None and meanwhile.poll() is not None:
                raise AssertionError(meanwhile.communicate()[0])
            last = self.looks[-1] if self.looks else None
            if last is not None and last.at >= since and what(last):
                return last
            told = {one.name: one.status for one in last.workers.values()} if last else {}
            assert time.time() < since + PATIENCE, told
            time.sleep(LOOK / 5)

    def away(self, everybody: set[str]) -> list[Span]:
        """Spans in which a broker that was started again had not yet heard of `everybody`.

        At first it knows only those of them whom its store names.
        """
        spans: list[Span] = []
        since = None
        for before, look in pairwise(self.looks):
            if look.epoch != before.epoch and since is None:
                since = before.at
            if since is not None and everybody <= look.live:
                spans.append((since, look.at))
                since = None
        assert since is None, "the broker never heard of all its workers again"
        return spans

    # --- the two threads -----------------------------------------------------------------------

    def _guarded(self, work: Callable[[Client], None]) -> None:
        try:
            key = str(self.site.operator_key())
            with Client(self.site.endpoint, key=key, timeout=PATIENCE) as client:
                work(client)
        except Exception as wrong:  # told by the test's own thread
            self._wrong.append(wrong)
            self._counted.set()

    def _feed(self, client: Client) -> None:
        chance = random.Random(3)
        lengths, weights = list(LENGTHS), list(LENGTHS.values())
        handles = []
        while len(handles) < self.at_least or not self._through.is_set():
            if self._counted.is_set():
                return  # the test has failed
            if client.status().tasks.get("queued", 0) > BACKLOG:
                time.sleep(LOOK / 5)
                continue
            some = chance.choices(lengths, weights, k=20)
            handles += client.submit_many(Task(KIND, {"seconds": seconds}) for seconds in some)
        self.ended = time.time()
        self.accepted = {handle.id for handle in handles}
        for handle, outcome in client.results(handles, PATIENCE):
            self.outcomes[handle.id] = outcome.state
        self._counted.set()

    def _see(self, client: Client) -> None:
        while not self._counted.wait(LOOK):
            epoch = client.status().epoch
            workers = {one.name: one for one in client.workers()}
            # Of a broker that was started again in between, the next look tells.
            if client.status().epoch == epoch:
                self.looks.append(Look(time.time(), epoch, workers))
            self.witness.look()


def at_work(
    attempts: list[Attempt], since: float, until: float, step: float, window: float
) -> Iterator[tuple[float, set[str]]]:
    """(when, the containers in which some attempt ran during the `window` that begins then)."""
    by_host: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_host[attempt.host].append(attempt)
    at = since
    while at + window <= until:
        ran = {
            host
            for host, some in by_host.items()
            if any(
                one.began < at + window and (one.ended is None or one.ended > at) for one in some
            )
        }
        yield at, ran
        at += step
