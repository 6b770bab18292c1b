"""Peers of plain Majordomo, of both dialects, as the RFCs have them: workers, clients, Titanic.

They know nothing of Corral: a worker beats only while it waits, a client sends again on a new
socket when no reply comes, and the last one uses the three services of Titanic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.wire import Frames
from tests.sim.network import Host, Socket
from tests.sim.workload import pack, plain_kind

if TYPE_CHECKING:
    from tests.sim.world import World

BEAT = 2.5
PATIENCE = 25.0  # seconds until a client asks again
TRIES = 4


class PlainWorker:
    """Serves one service, one request after the other."""

    def __init__(self, world: World, name: str, dialect: int, service: str) -> None:
        self.world = world
        self.engine = world.engine
        self.name = name
        self.dialect = dialect
        self.service = service
        self.host = Host(name)
        world.hosts.append(self.host)
        self.up = False
        self.life = 0
        self.socket: Socket | None = None

    def _frames(self, command: int, *rest: bytes) -> Frames:
        if self.dialect == 1:
            return [b"", b"MDPW01", bytes((command,)), *rest]
        # 0.2 has PARTIAL at 3, so everything behind REQUEST is one higher.
        return [b"MDPW02", bytes((command + (command > 2),)), *rest]

    def start(self) -> None:
        """Come up, or come back."""
        if self.up:
            return
        self.up = True
        self.life += 1
        self._connect()
        self._beat(self.life)

    def kill(self) -> None:
        """Go without a word."""
        if self.up:
            self.up = False
            self.life += 1
            assert self.socket is not None
            self.socket.close()

    def _connect(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.busy = False
        self.heard_at = self.engine.now
        self.socket = Socket(self.world.network, self.host, self.hear)
        self.socket.send(self._frames(1, self.service.encode()))

    def _beat(self, life: int) -> None:
        if life != self.life:
            return
        self.engine.after(BEAT, self._beat, life)
        if self.busy or self.socket is None:
            return
        if self.engine.now - self.heard_at > 4 * BEAT:
            self._connect()
        else:
            self.socket.send(self._frames(4))

    def hear(self, frames: Frames) -> None:
        """REQUEST, HEARTBEAT or DISCONNECT."""
        self.heard_at = self.engine.now
        rest = frames[2:] if self.dialect == 1 else frames[1:]
        command = rest[0][0]
        assert self.socket is not None
        if command == 2 and not self.busy:
            self.busy = True
            token, body = rest[1], rest[3:]
            seconds = self.engine.random.choice((0.01, 0.3, 3.0))
            if self.engine.chance(0.01):
                seconds = 1e6  # it hangs
            name = f"{self.service}@{self.socket.heard_on.hex()}"
            self.world.history.log(
                "start", worker=name, token=token, id=None, parents={}, checkpoint=None
            )
            after = self.engine.after
            after(seconds, self._reply, self.life, name, token, body, self.socket)
        elif command == (5 if self.dialect == 1 else 6):
            self._connect()

    def _reply(self, life: int, name: str, token: bytes, body: Frames, socket: Socket) -> None:
        if life != self.life:
            return
        value = [b"done:" + b"|".join(body), token]
        self.world.history.log(
            "end", worker=name, token=token, id=None, outcome="ok", value=pack(value)
        )
        self.busy = False
        if socket is self.socket:
            socket.send(self._frames(3, token, b"", *value))


class PlainClient:
    """Asks, waits, asks again on a new socket, and in the end gives up."""

    def __init__(self, world: World, name: str, dialect: int) -> None:
        self.world = world
        self.engine = world.engine
        self.name = name
        self.dialect = dialect
        self.host = Host(name)
        world.hosts.append(self.host)
        self.count = 0
        self.socket: Socket | None = None
        self.body = b""
        self.tries = 0
        self.engine.after(10.0 + 10.0 * self.engine.random.random(), self._next)

    def _next(self) -> None:
        if self.world.quiet:
            return
        self.count += 1
        self.body = f"{self.name}-{self.count}".encode()
        self.tries = 0
        self.service = plain_kind(self.engine.random.randrange(2))
        self._ask(self.count)

    def _ask(self, count: int) -> None:
        if count != self.count or not self.body:
            return
        if self.tries == TRIES:
            self.body = b""
            self.engine.after(5.0, self._next)
            return
        self.tries += 1
        if self.socket is not None:
            self.socket.close()
        self.socket = Socket(self.world.network, self.host, self.hear)
        head = [b"", b"MDPC01"] if self.dialect == 1 else [b"MDPC02", b"\x01"]
        self.world.history.log("asked", client=self.name, service=self.service, body=self.body)
        self.socket.send([*head, self.service.encode(), self.body])
        self.engine.after(PATIENCE, self._ask, count)

    def hear(self, frames: Frames) -> None:
        """The reply."""
        body = frames[3:]
        self.world.history.log("replied", client=self.name, value=pack(body))
        if self.body:
            self.body = b""
            self.engine.after(self.engine.between(1.0, 20.0), self._next)


class TitanicClient:
    """Stores a request, asks for its reply until there is one, and closes it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.engine = world.engine
        self.name = name
        self.host = Host(name)
        world.hosts.append(self.host)
        self.count = 0
        self.step = "request"
        self.alias = b""
        self.socket = Socket(world.network, self.host, self.hear)
        self.engine.after(15.0, self._next)

    def _next(self) -> None:
        if self.world.quiet:
            return
        self.count += 1
        self.step, self.alias = "request", b""
        self.body = f"{self.name}-{self.count}".encode()
        self._ask(self.count)

    def _ask(self, count: int) -> None:
        if count != self.count or self.step == "over":
            return
        self.socket.close()
        self.socket = Socket(self.world.network, self.host, self.hear)
        frames = {
            "request": [b"titanic.request", plain_kind(0).encode(), self.body],
            "reply": [b"titanic.reply", self.alias],
            "close": [b"titanic.close", self.alias],
        }[self.step]
        if self.step == "request":
            self.world.history.log("asked", client=self.name, service=plain_kind(0), body=self.body)
        elif self.step == "close":
            self.world.history.log("closing", client=self.name, alias=self.alias.decode())
        self.socket.send([b"", b"MDPC01", *frames])
        self.engine.after(10.0, self._ask, count)

    def hear(self, frames: Frames) -> None:
        """An answer of one of the three services, the one that was asked last."""
        service, status, rest = frames[2].decode(), frames[3], frames[4:]
        if service != f"titanic.{self.step}":
            return
        log = self.world.history.log
        if self.step == "request" and status == b"200":
            self.alias = rest[0]
            log("alias", client=self.name, alias=self.alias.decode(), body=self.body)
            self.step = "reply"
        elif self.step == "reply" and status != b"300":
            log("titanic", alias=self.alias.decode(), status=status.decode(), value=pack(rest))
            if self.engine.chance(0.4):  # else it asks again: a reply is kept until it is closed
                self.step = "close"
        elif self.step == "close":
            self.step = "over"
            self.engine.after(self.engine.between(1.0, 30.0), self._next)
