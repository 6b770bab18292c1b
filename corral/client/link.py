"""One connection to one broker at a time: a DEALER socket on the running event loop.

Opens, watches, moves on to the next endpoint, and hands answers up. What is asked, and what must
be asked again after a reconnect, is `corral.client.aio`'s matter.

pyzmq's asyncio sockets cost a future per message, so none are used here. The socket's file
descriptor is edge-triggered: it announces that something may have changed, once. Whoever has sent
must therefore receive until nothing is left, because a send may have taken the announcement.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import zmq
from zmq.utils.monitor import parse_monitor_message

from corral import wire
from corral.errors import CorralError, KeyMismatch, KeyRefused
from corral.keys import KeyFile, secure
from corral.messages import Answer

PER_WAKE = 200  # messages taken before other work of the event loop has its turn
PING_MS, PING_TIMEOUT_MS = 2_000, 8_000  # a frozen broker, or a dead network, ends the connection
RECONNECT_MS, RECONNECT_MAX_MS = 20, 1_000
PAUSE, PAUSE_MAX = 0.02, 1.0  # seconds before a connection that was lost is opened again

UNHEARD_LIMIT = 3

# The mechanism of one side is not that of the other: libzmq's zmq.h, ZMQ_PROTOCOL_ERROR_*.
_MECHANISM_MISMATCH = 0x11000002
_LAST, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
)


class Link:
    """Where calls go out and answers come in.

    `up` is True while a broker has shaken hands. Only then may `send` be called; `on_up` tells
    that everything unanswered must be sent (again).
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        key: KeyFile | None,
        on_answers: Callable[[list[Answer]], None],
        on_up: Callable[[], None],
        on_refused: Callable[[CorralError], None],
    ) -> None:
        self.up = False
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._endpoints = endpoints
        self._turn = -1
        self._key = key
        self._on_answers, self._on_up, self._on_refused = on_answers, on_up, on_refused
        self._lost = 0  # connections lost since the last handshake
        self._unheard = 0  # handshakes that ended without a word since the last good one
        self._later: asyncio.TimerHandle | None = None
        self._open()

    @property
    def endpoint(self) -> str:
        """The broker that is tried, or spoken to, now."""
        return self._endpoints[self._turn % len(self._endpoints)]

    def _open(self) -> None:
        self._later = None
        self._turn += 1
        socket = self._socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)  # nothing unanswered is forgotten: it is sent again
        socket.set_hwm(0)  # the window of unanswered calls bounds both directions
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, PING_TIMEOUT_MS)
        if self._key is not None:
            secure(socket, self._key)
        # pyzmq's own class adds 0.2 us to each frame for options that are not used here.
        self._send = super(zmq.Socket, socket).send
        self._recv = super(zmq.Socket, socket).recv
        self._option = super(zmq.Socket, socket).get
        self._opened = self._loop.time()
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._loop.add_reader(socket.FD, self.receive)
        self._loop.add_reader(self._monitor.FD, self._watch)
        socket.connect(self.endpoint)
        self._loop.call_soon(self._watch)

    def _close(self) -> None:
        self.up = False
        if self._socket.closed:
            return
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def close(self) -> None:
        """End the connection for good."""
        if self._later is not None:
            self._later.cancel()
        self._close()
        self._context.term()

    def reopen(self) -> None:
        """Leave this broker and connect anew, to the next endpoint when there are several."""
        self._close()
        if self._later is None:
            pause = min(PAUSE * 2**self._lost, PAUSE_MAX) * random.uniform(0.5, 1.0)
            self._lost += 1
            self._later = self._loop.call_later(pause, self._open)

    def hurry(self, now: float, patience: float) -> None:
        """Give up on an endpoint that has not answered since long, when there is another."""
        if len(self._endpoints) > 1 and self._later is None and now - self._opened > patience:
            self.reopen()

    def send(self, frames: wire.Frames) -> None:
        """Send a message. `receive` must be called before control returns to the event loop."""
        send = self._send
        for frame in frames[:-1]:
            send(frame, _MORE)
        send(frames[-1], _LAST)

    def receive(self) -> None:
        """Hand up everything that has arrived."""
        socket, recv, option = self._socket, self._recv, self._option
        for _ in range(PER_WAKE):
            if socket is not self._socket or socket.closed:
                return  # an answer made the link move on
            if not self.up:
                option(zmq.EVENTS)  # or its descriptor would stay readable, and the loop spin
                return
            try:
                frames = [recv(_LAST)]
            except zmq.Again:
                return
            while option(zmq.RCVMORE):
                frames.append(recv(_LAST))
            self._on_answers(wire.heard_by_client(frames))
        self._loop.call_soon(self.receive)

    def _watch(self) -> None:
        """What became of the connection."""
        monitor = self._monitor
        while monitor is self._monitor and not monitor.closed:
            try:
                event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            self._happened(event["event"], event["value"])

    def _mismatch(self) -> None:
        """What libzmq tells of the three cases depends on who hung up first: name both causes."""
        why = (
            "it wants a key, or is no broker of Corral"
            if self._key is None
            else "this key was made for another broker, or it runs without keys"
        )
        self._on_refused(KeyMismatch(endpoint=self.endpoint, why=why))

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.up, self._lost, self._unheard = True, 0, 0
            self._on_up()
            self.receive()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._on_refused(KeyRefused(endpoint=self.endpoint))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == _MECHANISM_MISMATCH:
            self._mismatch()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            # It hung up without a word: so does a broker that has another key than expected,
            # but also one that stops. Three times in a row is no stop.
            self._unheard += 1
            if self._unheard == UNHEARD_LIMIT:
                self._mismatch()
        elif (event == zmq.EVENT_DISCONNECTED and self.up) or (
            event == zmq.EVENT_CONNECT_RETRIED and len(self._endpoints) > 1
        ):
            self.reopen()
