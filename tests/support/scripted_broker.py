"""A broker that does only what a test tells it, for a real `corral-worker` on the other side."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import zmq

from corral import wire
from corral.messages import (
    Assign,
    CancelAttempts,
    Document,
    Ended,
    Extension,
    FetchLog,
    Finished,
    Item,
    Lane,
    LogChunk,
    Progress,
    Raw,
    Recall,
    ResultAck,
    Welcome,
)

M = TypeVar("M")
PATIENCE = 20.0  # seconds that a test waits for what must come


def token_of(number: int) -> bytes:
    """A token such as a broker makes."""
    return b"\x01" + number.to_bytes(16, "big")


def item(number: int, params: Any = None, **more: Any) -> Item:
    """Attempt 1 of the task `t<number>`, unless `more` says otherwise."""
    fields = {"token": token_of(number), "id": f"t{number}", "attempt": 1, **more}
    return Item(params=Raw(msgspec.msgpack.encode({} if params is None else params)), **fields)


def lane(booking: int, kind: str, *items: Item, **more: Any) -> Lane:
    """A lane without bounds, unless `more` says otherwise."""
    fields = {"cpus": 0.0, "memory_gb": 0.0, "gpus": [], "run_limit": None, **more}
    return Lane(booking, kind, items=list(items), **fields)


class ScriptedBroker:
    """A ROUTER on a free port of the loopback."""

    def __init__(
        self,
        context: zmq.Context[Any],
        port: int = 0,
        heartbeat: float = 0.5,
        lease: float = 2.0,
        setup: Callable[[zmq.Socket[bytes]], None] = lambda socket: None,
    ) -> None:
        self.heartbeat, self.lease = heartbeat, lease
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        setup(self.socket)
        self.socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(self.endpoint.rpartition(":")[2])
        self.peer = b""  #: of the worker that said READY last
        self.document: Document | None = None
        self.heard: list[Any] = []  #: what nobody has waited for yet
        self.beating = True
        self.acking = True
        self._beat_at = 0.0
        self._bookings = itertools.count(1)

    def close(self) -> None:
        self.socket.close(0)

    # --- saying -------------------------------------------------------------------------

    def send(self, frames: wire.Frames) -> None:
        self.socket.send_multipart([self.peer, *frames], zmq.NOBLOCK)

    def say(self, message: Extension) -> None:
        self.send(wire.extension(message))

    def assign(self, kind: str, *items: Item, **more: Any) -> int:
        """Book a new lane for these; returns the booking."""
        booking = next(self._bookings)
        self.say(Assign([lane(booking, kind, *items, **more)]))
        return booking

    def cancel(self, *numbers: int, grace: float = 5.0) -> None:
        self.say(CancelAttempts([token_of(n) for n in numbers], "no longer wanted", grace))

    def recall(self, *numbers: int) -> None:
        self.say(Recall([token_of(n) for n in numbers]))

    def welcome(self, adopted: list[bytes] | None = None) -> Document:
        """Wait for READY and welcome who said it, with all or `adopted` of what it holds."""
        document = self.wait_for(Document)
        tokens = document.inflight if adopted is None else adopted
        self.say(Welcome(1, self.heartbeat, self.lease, time.time(), tokens))
        return document

    # --- hearing ------------------------------------------------------------------------

    def wait_for(
        self, kind: type[M], which: Callable[[M], bool] = lambda _: True, patience: float = PATIENCE
    ) -> M:
        """The first message of this type that fits, removed from what was heard."""
        until = time.monotonic() + patience
        while True:
            for index, message in enumerate(self.heard):
                if isinstance(message, kind) and which(message):
                    return self.heard.pop(index)
            if time.monotonic() > until:
                raise AssertionError(f"no {kind.__name__} came; heard {self.heard!r:.2000}")
            self.listen(0.02)

    def ended(self, *numbers: int, patience: float = PATIENCE) -> list[Ended]:
        """How these attempts ended, in this order; waits for all of them."""
        wanted = [token_of(number) for number in numbers]
        found: dict[bytes, Ended] = {}
        until = time.monotonic() + patience
        while True:
            for message in self.heard:
                if isinstance(message, Finished):
                    found.update((ended.token, ended) for ended in message.items)
            if all(token in found for token in wanted):
                return [found[token] for token in wanted]
            if time.monotonic() > until:
                raise AssertionError(f"not all of {numbers} ended; heard {self.heard!r:.2000}")
            self.listen(0.02)

    def started(self, number: int) -> None:
        """Wait until the worker says that this attempt began."""
        token = token_of(number)

        def tells(message: Progress) -> bool:
            return any(told.token == token and told.started for told in message.items)

        told = self.wait_for(Progress, tells).items
        # One message may tell of several, and somebody waits for the others too.
        self.heard.insert(0, Progress([one for one in told if one.token != token]))

    def log(self, id: str, attempt: int = 1) -> str | None:
        """The log of an attempt as the worker serves it; None when it has none."""
        self.say(FetchLog(7, id, attempt, 0, 1 << 16))
        chunk = self.wait_for(LogChunk)
        return chunk.data.decode() if chunk.found else None

    def listen(self, seconds: float) -> None:
        """Take in what comes for so long, and beat meanwhile."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if self.socket.poll(max(0, int(left * 1000))):
                self._hear(self.socket.recv_multipart(zmq.NOBLOCK))
            if self.beating and self.peer and time.monotonic() > self._beat_at:
                self._beat_at = time.monotonic() + self.heartbeat
                self._try(wire.heartbeat())
            if left <= 0:
                return

    def _try(self, frames: wire.Frames) -> None:
        with suppress(zmq.ZMQError):
            self.send(frames)

    def _hear(self, frames: list[bytes]) -> None:
        heard = wire.decode(frames[1:])
        if isinstance(heard, wire.Readied):
            assert heard.document is not None
            self.peer, self.document = frames[0], heard.document
            self.heard.append(heard.document)
        elif isinstance(heard, wire.Extended):
            self.heard.append(heard.message)
            if isinstance(heard.message, Finished) and self.acking:
                self._try(wire.extension(ResultAck([heard.message.seq])))
        else:
            assert isinstance(heard, wire.Beaten | wire.Parted), heard
            self.heard.append(heard)
