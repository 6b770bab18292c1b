"""A broker that says what the test tells it: a real ROUTER on loopback, on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

import msgspec
import zmq

from corral import messages, wire
from corral.messages import Answer, Call
from corral.tasks import State, request_id

C = TypeVar("C", bound=Call)
Script = Callable[[Call], Sequence[Answer] | None]


def wait_for(what: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def done(id: str, value: object = None) -> messages.Outcome:
    """The outcome of a task that succeeded."""
    return messages.Outcome(id, State.SUCCEEDED, msgspec.Raw(msgspec.msgpack.encode(value)))


def accept(call: messages.Submit) -> messages.Accepted:
    """What a broker says to a fine submission."""
    return messages.Accepted(call.request)


def echo(call: Call) -> Sequence[Answer]:
    """A whole fleet: each task is accepted and succeeds at once with its params as the result."""
    if isinstance(call, messages.Submit):
        items = [
            messages.Outcome(request_id(call.request, index), State.SUCCEEDED, spec.params)
            for index, spec in enumerate(call.tasks)
        ]
        return [messages.Accepted(call.request), messages.Outcomes(b"", items)]
    if isinstance(call, messages.Results):
        return [messages.Outcomes(call.request, [], last=True)]
    return []


class ScriptedBroker:
    """Answers each call with what `script` returns; None or nothing: silence."""

    def __init__(
        self,
        script: Script,
        port: int = 0,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        prepare: Callable[[zmq.Socket[bytes]], None] | None = None,
    ) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.peers: list[bytes] = []  # the routing id that each call came from
        self._own = None if context is not None else zmq.Context()
        self._socket = (context or self._own).socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if prepare is not None:
            prepare(self._socket)
        wait_for(lambda: self._bound(port))
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(self.endpoint.rpartition(":")[2])
        self._pushed: list[tuple[bytes, list[Answer]]] = []
        self._error: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def heard(self, kind: type[C]) -> list[C]:
        """The calls of one kind, in order."""
        return [call for call in list(self.calls) if isinstance(call, kind)]

    def push(self, *answers: Answer) -> None:
        """Send these to the peer that called last."""
        self._pushed.append((self.peers[-1], list(answers)))

    def _bound(self, port: int) -> bool:
        """Whether it has its port; a socket that was closed just now may hold it for a moment."""
        try:
            self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                return False
            raise
        return True

    def _work(self) -> None:
        try:
            self._serve()
        except Exception as error:
            self._error = error  # the test hears of it when it stops the broker
        finally:
            self._socket.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            while self._pushed:
                self._say(*self._pushed.pop(0))
            if not self._socket.poll(5):
                continue
            peer, *frames = self._socket.recv_multipart()
            heard = wire.decode(frames)
            assert isinstance(heard, wire.Called), heard
            self.peers.append(peer)
            self.calls.append(heard.call)
            if answers := self.script(heard.call):
                self._say(peer, list(answers))

    def _say(self, peer: bytes, answers: list[Answer]) -> None:
        self._socket.send_multipart([peer, *wire.answers("corral.submit", answers, final=True)])

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        if self._own is not None:
            self._own.term()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
