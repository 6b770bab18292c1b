"""The network: one ROUTER, many DEALERs, and everything that TCP and ZeroMQ may do to them.

Within one connection messages stay in order and none is lost. A connection that breaks loses what
is on its way, the DEALER comes back under another routing id without being told, and the ROUTER
learns of it late: until then what it sends goes nowhere. What was on its way when a DEALER closed
may still arrive, after its next connection has spoken. A socket that is `lossy` in addition loses,
doubles and overtakes single messages.

`Router` has those methods of a zmq socket that the broker uses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from tests.sim.engine import Engine

if TYPE_CHECKING:
    from tests.sim.process import BrokerProcess

Frames = list[bytes]
HEARTBEAT = [b"MDPW02", b"\x05"]
_READY, _DISCONNECT = b"\x01", b"\x06"
_HIGH_WATER = 1000  # messages that a peer which takes nothing leaves waiting
_FOREVER = float("inf")


class Host:
    """Where actors live: what a partition cuts off. `slow` seconds are added to each message."""

    __slots__ = ("down", "name", "slow", "sockets", "up")

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = self.down = True  #: whether messages to, and from, the broker get through
        self.slow = 0.0
        self.sockets: dict[int, Socket] = {}


class Link:
    """One connection. Messages that would arrive after `cut` are lost."""

    __slots__ = (
        "alive", "cut_down", "cut_up", "greeted", "held_down", "held_up", "id", "last_down",
        "last_up", "noticed", "socket",
    )  # fmt: skip

    def __init__(self, id: bytes, socket: Socket) -> None:
        self.id = id
        self.socket = socket
        self.alive = True
        self.greeted = False  #: the broker has heard a READY on it and not said DISCONNECT since
        self.noticed = _FOREVER  #: when the ROUTER knows that it is broken
        self.cut_up = self.cut_down = _FOREVER
        self.last_up = self.last_down = 0.0
        self.held_up: list[Frames] = []
        self.held_down: list[Frames] = []


class Network:
    """All connections to the one broker."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.router = Router(self)
        self.process: BrokerProcess | None = None  #: who listens
        self.count = 0
        self.lost = self.doubled = self.overtaken = self.broken = 0

    def delay(self, host: Host) -> float:
        """Seconds that the next message takes."""
        base = 0.0002 + 0.002 * self.engine.random.random()
        return base + host.slow * self.engine.random.random() if host.slow else base

    def listen(self, process: BrokerProcess) -> None:
        """A broker has bound its socket."""
        self.process = process
        self.router.begin()
        for host in process.world.hosts:
            for socket in host.sockets.values():
                socket.try_later()

    def hang_up(self) -> None:
        """The broker's process has ended, and all connections with it."""
        self.process = None
        for link in list(self.router.links.values()):
            if link.alive:
                self.break_link(link)
        self.router.end()

    def break_link(self, link: Link) -> None:
        """Both ends lose what is on its way; the DEALER connects again by itself."""
        now, random = self.engine.now, self.engine.random
        self.broken += 1
        link.alive = False
        link.cut_up = link.cut_down = now + 0.01 * random.random() * (random.random() < 0.5)
        link.noticed = now + random.choice((0.0, 0.5, 8.0)) * random.random()
        if link.socket.link is link:
            link.socket.link = None
            link.socket.try_later()

    def heal(self, host: Host) -> None:
        """End a partition: what was held arrives, in order."""
        host.up = host.down = True
        for socket in list(host.sockets.values()):
            link = socket.link
            if link is None:
                socket.try_later()
                continue
            held, link.held_up = link.held_up, []
            for frames in held:
                self.router.deliver(link, frames)
            held, link.held_down = link.held_down, []
            for frames in held:
                socket.deliver(link, frames)


class Socket:
    """The DEALER end. `hear` takes what arrives."""

    def __init__(
        self, network: Network, host: Host, hear: Callable[[Frames], None], lossy: float = 0.0
    ) -> None:
        self.network = network
        self.host = host
        self.hear = hear
        self.lossy = lossy
        self.link: Link | None = None
        self.heard_on = b""  #: routing id of the connection that the last message came by
        self.queue: deque[Frames] = deque()
        self.closed = False
        network.count += 1
        self.number = network.count
        host.sockets[self.number] = self
        self.try_later(0.02)

    def try_later(self, most: float = 1.0) -> None:
        """Connect within that time, if by then it can be done."""
        self.network.engine.after(most * self.network.engine.random.random(), self._connect)

    def _connect(self) -> None:
        network = self.network
        if self.closed or self.link is not None or network.process is None:
            return
        if not (self.host.up and self.host.down):
            return
        network.count += 1
        self.link = Link(b"\0" + network.count.to_bytes(4, "big"), self)
        network.router.links[self.link.id] = self.link
        queue, self.queue = self.queue, deque()
        for frames in queue:
            self.send(frames)

    def send(self, frames: Frames) -> None:
        """Send, or keep it until there is a connection."""
        link = self.link
        if link is None:
            if len(self.queue) < _HIGH_WATER:
                self.queue.append(frames)
            return
        network = self.network
        engine = network.engine
        when = engine.now + network.delay(self.host)
        if self.lossy and (roll := engine.random.random()) < self.lossy:
            if roll < self.lossy / 3:
                network.lost += 1
                return
            if roll < 2 * self.lossy / 3:
                network.doubled += 1
                engine.at(when + engine.random.random(), network.router.arrive, link, frames)
            else:
                network.overtaken += 1
                engine.at(when + 3 * engine.random.random(), network.router.arrive, link, frames)
                return
        if when <= link.last_up:
            when = link.last_up + 1e-7
        link.last_up = when
        engine.at(when, network.router.arrive, link, frames)

    def arrive(self, link: Link, frames: Frames, sent: float, life: int) -> None:
        """A message of the broker's reaches this host."""
        network = self.network
        if network.engine.now > link.cut_down or network.router.unsent(sent, life):
            return
        if self.lossy and network.engine.random.random() < self.lossy / 3:
            network.lost += 1
        elif not self.host.down:
            link.held_down.append(frames)
        else:
            self.deliver(link, frames)

    def deliver(self, link: Link, frames: Frames) -> None:
        """Hand it up."""
        if not self.closed and (link is self.link or not link.alive):
            self.heard_on = link.id
            self.hear(frames)

    def close(self) -> None:
        """Close at once; what is on its way to the broker may still arrive."""
        self.closed = True
        self.queue.clear()
        self.host.sockets.pop(self.number, None)
        link, self.link = self.link, None
        if link is not None and link.alive:
            engine = self.network.engine
            link.alive = False
            link.cut_down = engine.now
            late = 14.0 if self.host.slow or engine.random.random() < 0.1 else 0.004
            link.cut_up = engine.now + late * engine.random.random()
            link.noticed = link.cut_up + engine.random.random()


class Frame:
    """A frame as a zmq socket gives it without copying."""

    __slots__ = ("bytes", "more")

    def __init__(self, data: bytes, more: bool) -> None:
        self.bytes = data
        self.more = more


class Router:
    """The broker's end, as its code sees it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.links: dict[bytes, Link] = {}
        self.inbox: deque[tuple[Link, Frames]] = deque()
        self.life = 0
        self.ended: dict[int, float] = {}  #: life -> when it was killed
        self.contacts: dict[str, float] = {}  #: worker -> when it was heard, as registered, last
        self.on_gap: Callable[[str, float], None] = lambda name, since: None
        self._frames: list[Frame] = []  #: of a message that is being read, the last first

    def begin(self) -> None:
        """A process begins to listen."""
        self.life += 1

    def end(self) -> None:
        """It ended; nobody reads what has arrived."""
        self.ended[self.life] = self.network.engine.now
        self.links.clear()
        self.inbox.clear()

    def unsent(self, when: float, life: int) -> bool:
        """Whether the process was dead already when it would have sent this."""
        return self.ended.get(life, _FOREVER) <= when

    def arrive(self, link: Link, frames: Frames) -> None:
        """A message reaches the broker's host."""
        if self.network.engine.now > link.cut_up:
            return
        if link.socket.host.up:
            self.deliver(link, frames)
        else:
            link.held_up.append(frames)

    def deliver(self, link: Link, frames: Frames) -> None:
        """Put it where the process finds it."""
        if self.network.process is not None and link.id in self.links:
            self.inbox.append((link, frames))
            self.network.process.wake()

    # --- what the broker calls ------------------------------------------------------------

    def socket(self, kind: int) -> Router:
        """As a context: the one socket that it makes."""
        assert kind == zmq.ROUTER
        return self

    def setsockopt(self, option: int, value: int) -> None:
        """Options change nothing here."""

    def getsockopt_string(self, option: int) -> str:
        """Where it is bound."""
        return "tcp://127.0.0.1:5555"

    def bind(self, endpoint: str) -> None:
        """Nothing else is on this machine."""

    def close(self) -> None:
        """Only a broker that stops in order closes."""

    def poll(self, timeout: int) -> int:
        """Whether something is there; it never waits."""
        return len(self.inbox)

    def recv_multipart(self, flags: int = 0) -> Frames:
        """The next message, its routing id first."""
        if not self.inbox:
            raise zmq.Again
        link, frames = self.inbox.popleft()
        if frames[0] == b"MDPW02":
            self._heard(link, frames[1])
        return [link.id, *frames]

    def recv(self, flags: int = 0, copy: bool = True) -> Frame:
        """The next frame, which says whether more of its message follow."""
        if not self._frames:
            self._frames = [Frame(data, True) for data in self.recv_multipart(flags)]
            self._frames[-1].more = False
            self._frames.reverse()
        return self._frames.pop()

    def _heard(self, link: Link, command: bytes) -> None:
        link.greeted |= command == _READY
        if link.greeted and command < b"\x70":
            name, now = link.socket.host.name, self.network.engine.now
            at = self.contacts.get(name, 0.0)
            if now - at > 5.0:
                self.on_gap(name, at)
            self.contacts[name] = now

    def send_multipart(self, frames: Frames, flags: int = 0) -> None:
        """Send to the peer that the first frame names; raises as with ROUTER_MANDATORY."""
        network = self.network
        process = network.process
        assert process is not None
        when = process.program_time()
        link = self.links.get(frames[0])
        if link is not None and not link.alive and when >= link.noticed:
            del self.links[link.id]
            link = None
        if link is None:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        if len(link.held_down) >= _HIGH_WATER:
            raise zmq.Again
        process.spend(1e-6)
        if frames[1] == b"MDPW02" and frames[2] == _DISCONNECT:
            link.greeted = False
        if not link.alive:
            return
        arrives = when + network.delay(link.socket.host)
        if arrives <= link.last_down:
            arrives = link.last_down + 1e-7
        link.last_down = arrives
        network.engine.at(arrives, link.socket.arrive, link, frames[1:], when, self.life)
