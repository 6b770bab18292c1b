"""The broker's process: the real server on a simulated socket, disk and clock.

It runs one turn whenever something has arrived or is due. Time passes inside a turn only where it
does in life, in writing and sending; a kill that comes meanwhile finds done what was done by then.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import broker.keeper
from broker.server import Server
from corral.settings import BrokerSettings
from tests.sim.disk import Disk, SimStore, Write
from tests.sim.history import plain_facts

if TYPE_CHECKING:
    from tests.sim.world import World

BASE = 1_750_000_000.0  # wall-clock seconds at the beginning of the world
FOLD_ROWS = 20  # in one transaction of a fold, so that much happens between two
HOPELESS = 200  # exceptions after which it is not started again
CAREFUL = 1500  # turns between two looks at every invariant


class BrokerProcess:
    """Starts, stalls, dies and starts again."""

    def __init__(self, world: World, settings: BrokerSettings, strict: bool) -> None:
        self.world = world
        self.settings = settings
        self.strict = strict  #: an exception of the broker ends the run; else it kills the broker
        self.disk = Disk()
        self.server: Server | None = None
        self.store: SimStore | None = None
        self.doom = ""  #: what the next kill waits for: append, send, fold
        self.busy_until = 0.0
        self.stalled_until = 0.0
        self.jump = 0.0  #: seconds that the wall clock is wrong in this life
        self.turns = 0
        self.deaths = 0
        self.exceptions: list[str] = []
        self._spent = 0.0
        self._turn_at: float | None = None

    # --- the clock --------------------------------------------------------------------------

    def program_time(self) -> float:
        """Where the program is in time: ahead of the world inside a turn."""
        return self.world.engine.now + self._spent

    def spend(self, seconds: float) -> None:
        """The program waits for the machine."""
        self._spent += seconds

    @contextmanager
    def clock(self) -> Iterator[None]:
        """The modules of the broker see this world's time and randomness."""
        random = self.world.engine.random
        seen: dict[Any, dict[str, Any]] = {
            time: {
                "time": lambda: BASE + self.jump + self.program_time(),
                "monotonic": self.program_time,
            },
            os: {"urandom": random.randbytes},
        }
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(broker.keeper, "FOLD_ROWS", FOLD_ROWS))
            for name, module in list(sys.modules.items()):
                for real, changed in seen.items():
                    word = real.__name__
                    if name.startswith("broker.") and getattr(module, word, None) is real:
                        ours = SimpleNamespace(**{**vars(real), **changed})
                        stack.enter_context(mock.patch.object(module, word, ours))
            yield

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the lead and load what the disk holds."""
        if self.server is not None:
            return
        world = self.world
        self._spent = 0.0
        self.store = SimStore(self)
        self.store.lead("sim")
        self.doom = ""
        world.network.listen(self)
        world.history.log("broker_up", epoch=self.store.epoch)
        try:
            self.server = Server(
                self.settings,
                "tcp://127.0.0.1:5555",
                self.store,
                Path("sim"),
                context=cast("Any", world.network.router),
            )
        except Exception as error:
            self._raised(error)
            return
        self._schedule(world.engine.now + 0.01)

    def kill(self) -> None:
        """End it without a word, and let it be started again soon."""
        if self.store is None:
            return
        engine = self.world.engine
        self.deaths += 1
        self.store.crash(engine.now)
        self.world.network.hang_up()
        self.server = self.store = None
        self.busy_until = self.stalled_until = self._spent = 0.0
        self._turn_at = None
        self.world.history.log("broker_down")
        self.jump = engine.random.choice((0.0, 0.0, engine.between(-20.0, 20.0)))
        if len(self.exceptions) < HOPELESS:
            engine.after(self.world.pause_of_broker(), self.start)

    def stall(self, seconds: float) -> None:
        """Stand still, as under SIGSTOP or on a machine that swaps."""
        self.stalled_until = max(self.stalled_until, self.world.engine.now + seconds)
        self.world.history.log("stalled", until=self.stalled_until)

    def wrote(self, write: Write) -> None:
        """A write has begun; a process that is doomed dies of it."""
        engine = self.world.engine
        if self.doom == "fold" and not write.entry:
            engine.at(engine.between(write.begun, write.ends + 1e-3), self.die, self.deaths)
        elif self.doom == "append" and write.entry:
            engine.at(engine.between(write.begun, write.ends), self.die, self.deaths)
        elif self.doom == "send" and write.entry:
            engine.at(write.ends + 1e-6 * engine.random.randrange(12), self.die, self.deaths)
        else:
            return
        self.doom = ""

    def die(self, life: int) -> None:
        """The kill that was planned for that life."""
        if life == self.deaths:
            self.kill()

    def committed(self, lsn: int, epoch: int, entry: bytes) -> None:
        """A row of the journal is on stable storage."""
        contacts = dict(self.world.network.router.contacts)
        facts = plain_facts(entry, self.disk.blobs)
        self.world.history.log("commit", lsn=lsn, epoch=epoch, facts=facts, contacts=contacts)

    # --- turns --------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has arrived."""
        self._schedule(self.world.engine.now)

    def _schedule(self, when: float) -> None:
        when = max(when, self.busy_until, self.stalled_until)
        if self._turn_at is None or when < self._turn_at:
            self._turn_at = when
            self.world.engine.at(when, self._turn, when, self.deaths)

    def _turn(self, planned: float, life: int) -> None:
        if self.server is None or planned != self._turn_at or life != self.deaths:
            self.world.engine.events -= 1  # it was planned anew, so nothing happens
            return
        now = self.world.engine.now
        self._turn_at = None
        if now < self.stalled_until:
            self._schedule(self.stalled_until)
            return
        self._spent = 1e-5
        try:
            self.server.turn(0)
            self.turns += 1
            if self.turns % CAREFUL == 0:
                self.server.broker.check()
            wait = self.server._timeout() / 1000
        except Exception as error:
            self._raised(error)
            return
        self.busy_until = now + self._spent
        self._spent = 0.0
        self._schedule(self.busy_until + wait)

    def _raised(self, error: Exception) -> None:
        self.exceptions.append(f"{type(error).__name__}: {error}")
        if self.strict:
            raise error
        self.kill()

    def check(self) -> None:
        """Every invariant of the broker, if it is there."""
        if self.server is not None:
            self.server.broker.check()
