"""The agent's socket: a DEALER, its monitor, and the list of brokers to try.

One socket lives for one connection and one READY: when the connection ends a new socket is made,
after a pause that grows and varies, so that a fleet does not come back all at once. A key that the
broker refused needs a new socket in any case (libzmq makes no further attempt on the old one). What
is said, and when a broker counts as silent, is decided in `worker.core`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from corral import keys, wire
from corral.keys import KeyFile
from worker.events import Connected, Event, Heard, Lost

MAX_MESSAGE = 64 << 20  # bytes
MAX_OUTBOX = 10_000  # messages that wait for room in the socket
PAUSE, MAX_PAUSE = 0.2, 10.0  # seconds between connections; it doubles
STEADY = 10.0  # seconds that a connection must hold for the pause to be short again
MESSAGES = 64  # read before others have their turn

_IN, _IN_OUT = int(zmq.POLLIN), int(zmq.POLLIN | zmq.POLLOUT)
_WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
)


class Link:
    """The way to one of several brokers."""

    def __init__(
        self, endpoints: Sequence[str], key: KeyFile | None, chance: Callable[[], float]
    ) -> None:
        """`chance` gives numbers from 0 to 1: what makes pauses vary."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._endpoints = itertools.cycle(endpoints)
        self._alone = len(endpoints) == 1
        self._key = key
        self._chance = chance
        self._failures = 0
        self._opened_at = 0.0
        self._outbox: deque[wire.Frames] = deque()
        self.endpoint = next(self._endpoints)
        self.open_at: float | None = None  #: when a new socket is due; None: there is one
        self.socket: zmq.Socket[bytes] | None = None
        self.monitor: zmq.Socket[bytes] | None = None  #: tells what happens to the connection

    # --- sockets ------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """The events to poll `socket` for."""
        return _IN_OUT if self._outbox else _IN

    def open(self, now: float) -> None:
        """Make a socket and begin to connect; `watch` says how that ends."""
        link = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.IMMEDIATE, 1),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, 200),
            (zmq.RECONNECT_IVL_MAX, 2_000),
            (zmq.MAXMSGSIZE, MAX_MESSAGE),
            (zmq.HANDSHAKE_IVL, 10_000),
        ):
            link.setsockopt(option, value)
        if self._key is not None:
            keys.secure(link, self._key)
        self.monitor = link.get_monitor_socket(_WATCHED)
        link.connect(self.endpoint)
        self.socket = link
        self._opened_at = now
        self.open_at = None

    def reconnect(self, now: float, lease: float) -> None:
        """Close the socket; a new one, to the next broker of the list, is due a little later.

        The pause is a small part of the lease, within which the broker must hear from it again.
        """
        self._failures = 0 if now - self._opened_at > STEADY else self._failures + 1
        self._close()
        self.endpoint = next(self._endpoints)
        pause = min(MAX_PAUSE, lease / 4, PAUSE * 2.0 ** min(self._failures, 10))
        self.open_at = now + pause * (0.5 + 0.5 * self._chance())

    def _close(self, linger: float = 0.0) -> None:
        self._outbox.clear()
        if self.socket is not None:
            self.socket.disable_monitor()
            self.socket.close(int(linger * 1000))
        if self.monitor is not None:
            self.monitor.close(0)
        self.socket = self.monitor = None

    def close(self, linger: float) -> None:
        """For good; waits at most `linger` seconds for what was sent to leave."""
        self._close(linger)
        self._context.term()

    # --- talking ------------------------------------------------------------------------

    def send(self, frames: wire.Frames) -> None:
        """Send without waiting; what finds no room is sent later, in its order."""
        if self.socket is not None:
            self._outbox.append(frames)
            self.push()

    def push(self) -> None:
        """Send what waits for room in the socket."""
        try:
            while self._outbox and self.socket is not None:
                self.socket.send_multipart(self._outbox[0], zmq.NOBLOCK)
                self._outbox.popleft()
        except zmq.Again:
            pass

    def listen(self) -> Iterator[Event]:
        """What the broker said."""
        for _ in range(MESSAGES):
            if self.socket is None:
                return
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            heard = wire.heard_by_worker(frames)
            if isinstance(heard, wire.Extended):
                yield Heard(heard.message)
            elif isinstance(heard, wire.Beaten | wire.Parted):
                yield Heard(heard)
            elif isinstance(heard, wire.PlainRequest):
                yield Lost(f"the broker at {self.endpoint} does not speak Corral's commands")
            else:
                yield Lost(f"the broker at {self.endpoint} sent nonsense: {heard.reason}")
        if len(self._outbox) > MAX_OUTBOX:
            yield Lost(f"the broker at {self.endpoint} takes no messages")

    def watch(self) -> Iterator[Event]:
        """What happened to the connection."""
        while self.monitor is not None and self.monitor.poll(0):
            event = recv_monitor_message(self.monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                yield Connected()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                yield Lost(self._hung_up())
            elif event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
                yield Lost(self._refusal())
            elif event == zmq.EVENT_DISCONNECTED:
                yield Lost(f"the connection to {self.endpoint} ended")
            elif event == zmq.EVENT_CONNECT_RETRIED and not self._alone:
                yield Lost(f"nobody listens at {self.endpoint}")

    def _hung_up(self) -> str:
        """What libzmq tells of a wrong key depends on who hung up first: name every cause."""
        cause = (
            "wants a key: give one with --key"
            if self._key is None
            else f"has another key than {self._key.name} was made for, or none"
        )
        return (
            f"the connection to {self.endpoint} ended before it was made:"
            f" the broker is going down, or it {cause}"
        )

    def _refusal(self) -> str:
        if self._key is None:
            return f"the broker at {self.endpoint} wants a key: give one with --key"
        return (
            f"the broker at {self.endpoint} refused the key {self._key.name}: it is unknown or was"
            f" revoked, or is for another broker; `corral keys list` shows it to an operator"
        )
