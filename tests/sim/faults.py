"""What goes wrong, how often and for how long. Everything is mended before the quiet period."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.network import Host
from tests.sim.workers import NativeWorker

if TYPE_CHECKING:
    from tests.sim.world import World


class Faults:
    """The adversary."""

    def __init__(self, world: World, every: float) -> None:
        self.world = world
        self.every = every  #: seconds between two faults, on average
        self.engine = world.engine
        self.done: Counter[str] = Counter()
        self._acts: list[Callable[[], str | None]] = []
        self._weights: list[int] = []
        for weight, act in (
            (12, self._kill_broker),
            (6, self._stall_broker),
            (3, self._slow_disk),
            (3, self._full_disk),
            (20, self._kill_worker),
            (14, self._freeze_worker),
            (5, self._terminate_worker),
            (14, self._partition_worker),
            (12, self._break_links),
            (5, self._slow_host),
            (5, self._reconnect_worker),
            (8, self._late_greeting),
            (4, self._partition_clients),
            (6, self._forge),
            (4, self._repeat),
            (2, self._babble),
            (2, self._greet_twice),
            (4, self._kill_plain),
            (3, self._storm),
            (3, self._update_fleet),
        ):
            self._acts.append(act)
            self._weights.append(weight)
        self.engine.after(30.0, self._next)

    def _next(self) -> None:
        if self.world.quiet:
            return
        self.engine.after(self.engine.random.expovariate(1.0 / self.every), self._next)
        [act] = self.engine.random.choices(self._acts, self._weights)
        self._do(act)

    def _do(self, act: Callable[[], str | None]) -> None:
        about = act()
        if about is not None:
            name = act.__name__.removeprefix("_")
            self.done[name] += 1
            self.world.history.log("fault", fault=name, about=about)

    def _length(self, *ranges: tuple[float, float]) -> float:
        """A length from one of the ranges, which ends before the quiet period."""
        low, high = self.engine.random.choice(ranges)
        most = max(self.world.quiet_at - self.engine.now - 1.0, 0.1)
        return min(self.engine.between(low, high), most)

    def _worker(self) -> NativeWorker:
        return self.engine.random.choice(self.world.workers)

    # --- the broker -----------------------------------------------------------------------

    def _kill_broker(self) -> str | None:
        process = self.world.process
        if process.server is None:
            return None
        doom = self.engine.random.choice(("", "append", "append", "send", "send", "fold"))
        if doom:
            process.doom = doom
        else:
            process.kill()
        return doom or "now"

    def _stall_broker(self) -> str | None:
        if self.world.process.server is None:
            return None
        seconds = self._length((1.0, 5.0), (10.0, 45.0))
        self.world.process.stall(seconds)
        if self.engine.chance(0.7):  # nobody sees who dies meanwhile
            for _ in range(4):
                self.engine.after(
                    seconds * self.engine.random.random(), self._do, self._kill_worker
                )
        return f"{seconds:.1f} s"

    def _slow_disk(self) -> str | None:
        self.world.process.disk.slow = seconds = self._length((0.5, 4.0), (6.0, 30.0))
        return f"{seconds:.1f} s"

    def _full_disk(self) -> str | None:
        disk = self.world.process.disk
        if disk.room is not None:
            return None
        disk.room = self.engine.random.randrange(3)

        def mend() -> None:
            disk.room = None

        seconds = self._length((0.5, 3.0), (5.0, 60.0))
        self.engine.after(seconds, mend)
        self.world.history.log("full", until=self.engine.now + seconds + 2.0)
        return f"{seconds:.1f} s"

    # --- workers --------------------------------------------------------------------------

    def _kill_worker(self) -> str | None:
        worker = self._worker()
        if not worker.up:
            return None
        worker.kill()
        self.world.later_start(worker)
        return worker.name

    def _freeze_worker(self) -> str | None:
        worker = self._worker()
        if not worker.up or worker.frozen is not None:
            return None
        seconds = self._length((0.5, 5.0), (5.0, 12.0), (12.0, 60.0), (60.0, 200.0))
        worker.freeze(seconds, self.engine.chance(0.5))
        return f"{worker.name} for {seconds:.1f} s"

    def _terminate_worker(self) -> str | None:
        worker = self._worker()
        if not worker.up or worker.frozen is not None:
            return None
        worker.terminate()
        return worker.name

    def _reconnect_worker(self) -> str | None:
        worker = self._worker()
        worker.reconnect()
        return worker.name

    def _late_greeting(self) -> str | None:
        """A READY that is still on its way when the worker has given up its connection.

        What overtakes it is the READY of the next connection, or of the next incarnation.
        """
        busy = [one for one in self.world.workers if one.where and one.frozen is None]
        if not busy:
            return None
        worker = self.engine.random.choice(busy)
        worker.host.slow = 12.0
        worker.reconnect()
        restart = self.engine.chance(0.5)

        def again() -> None:
            worker.host.slow = 0.0
            if restart:
                worker.kill()
                worker.start()
            else:
                worker.reconnect()

        self.engine.after(0.1, again)
        return f"{worker.name}{', restarted' if restart else ''}"

    def _forge(self) -> str | None:
        tokens = self.world.tokens
        if not tokens:
            return None
        token = self.engine.random.choice(tokens)
        worker = self._worker()
        if self.world.token_on(worker, token):
            return None
        worker.forge(token)
        return worker.name

    def _repeat(self) -> str | None:
        worker = self._worker()
        worker.repeat()
        return worker.name

    def _babble(self) -> str | None:
        if self.engine.chance(0.3):
            client = self.engine.random.choice(self.world.researchers)
            client.babble()
            return client.name
        worker = self._worker()
        worker.babble()
        return worker.name

    def _greet_twice(self) -> str | None:
        worker = self._worker()
        worker.greet_twice()
        return worker.name

    def _kill_plain(self) -> str | None:
        worker = self.engine.random.choice(self.world.plain_workers)
        if not worker.up:
            return None
        worker.kill()
        self.engine.after(self._length((1.0, 20.0)), worker.start)
        return worker.name

    def _storm(self) -> str | None:
        """Much at once: a rack loses its power, and the broker dies with it."""
        for _ in range(self.engine.random.randrange(4, 12)):
            self._do(self.engine.random.choice((self._kill_worker, self._break_links)))
        if self.engine.chance(0.5):
            self._do(self._kill_broker)
        return "many"

    def _update_fleet(self) -> str | None:
        """New code: the workers of the drifting kind announce it as they start again."""
        self.world.version += 1
        for worker in self.world.workers:
            if any(kind.kind == "drift" for kind in worker.document.kinds) and self.engine.chance(
                0.4
            ):
                worker.terminate()
        return f"version {self.world.version}"

    # --- the network ----------------------------------------------------------------------

    def _partition(self, host: Host, seconds: float) -> str | None:
        if not (host.up and host.down):
            return None
        both = self.engine.chance(0.6)
        up = both or self.engine.chance(0.5)
        host.up, host.down = not up, not (both or not up)
        breaks = seconds > 30.0 or self.engine.chance(0.4)
        if breaks:
            self.engine.after(self.engine.between(0.0, min(seconds, 30.0)), self._break_host, host)
        self.engine.after(seconds, self.world.network.heal, host)
        return f"{host.name} for {seconds:.1f} s"

    def _break_host(self, host: Host) -> None:
        for socket in list(host.sockets.values()):
            if socket.link is not None:
                self.world.network.break_link(socket.link)

    def _partition_worker(self) -> str | None:
        seconds = self._length((0.5, 6.0), (6.0, 15.0), (15.0, 60.0), (100.0, 200.0))
        return self._partition(self._worker().host, seconds)

    def _partition_clients(self) -> str | None:
        client = self.engine.random.choice(self.world.researchers)
        return self._partition(client.host, self._length((1.0, 30.0)))

    def _break_links(self) -> str | None:
        host = self.engine.random.choice(self.world.hosts)
        self._break_host(host)
        return host.name

    def _slow_host(self) -> str | None:
        host = self._worker().host
        seconds = self._length((5.0, 40.0))
        host.slow = self.engine.random.choice((0.1, 1.0, 3.0))

        def mend() -> None:
            host.slow = 0.0

        self.engine.after(seconds, mend)
        return f"{host.name} for {seconds:.1f} s"
