"""Corral's own wire without the comfort of the SDK, for the figures about the broker alone.

The SDK is measured by the peer `bench.peers.sdk`; here a client must cost little and a worker need
not work.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Self, TypeVar

import msgspec
import zmq

from bench.daemons import endpoint
from bench.processes import BenchError
from corral import messages, wire
from corral.messages import Answer, BrokerView, Call
from corral.tasks import Spec, Variant

PAYLOAD_BYTES = 256
PER_MESSAGE = 500  # tasks in one message
IN_FLIGHT = 8  # messages sent and not yet answered
PACE = 50  # messages in a second when so many tasks are offered in one
PATIENCE_MS = 60_000

SomeAnswer = TypeVar("SomeAnswer", bound=Answer)


def document(name: str, kinds: tuple[str, ...] = ("echo",), slots: int = 1) -> messages.Document:
    """Returns what a simulated worker says about itself."""
    announced = [messages.Kind(kind, needs=(Variant(cpus=1.0),)) for kind in kinds]
    return messages.Document(
        name=name, incarnation=os.urandom(8).hex(), kinds=announced, slots=slots, cpus=float(slots)
    )


class Caller:
    """A client: one DEALER socket, calls in order, answers by request."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], port: int) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(
            zmq.RECONNECT_IVL, 2
        )  # a broker that starts is met within milliseconds
        self._socket.connect(endpoint(port))
        self._requests = (b"bench-%d-%s" % (number, os.urandom(4)) for number in itertools.count())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def call(self, make: type[Call], answer: type[SomeAnswer], *fields: object) -> SomeAnswer:
        """Makes one call and waits for its answer.

        Raises:
            BenchError: the broker refused, or was silent for a minute.
        """
        request = next(self._requests)
        self._socket.send_multipart(wire.call(make(request, *fields)))  # type: ignore[arg-type]  # the fields fit the call that is named
        while True:
            for heard in self._hear():
                if heard.request == request and isinstance(heard, answer):
                    return heard

    def status(self) -> BrokerView:
        """Returns the broker's own figures."""
        return self.call(messages.Status, messages.StatusIs).broker

    def submit(self, count: int, *, priority: int = 0, collect: bool = False) -> None:
        """Submits echo tasks with random payloads; returns when all are on stable storage."""
        unanswered: set[bytes] = set()
        remaining = count
        while remaining or unanswered:
            while remaining and len(unanswered) < IN_FLIGHT:
                size = min(PER_MESSAGE, remaining)
                unanswered.add(self._send(size, priority, collect))
                remaining -= size
            unanswered -= {
                heard.request for heard in self._hear() if isinstance(heard, messages.Accepted)
            }

    def _send(self, size: int, priority: int, collect: bool) -> bytes:
        """Sends one message of tasks and returns its request."""
        request = next(self._requests)
        specs = [
            Spec(
                "echo",
                msgspec.Raw(msgspec.msgpack.encode({"data": os.urandom(PAYLOAD_BYTES)})),
                priority=priority,
            )
            for _ in range(size)
        ]
        self._socket.send_multipart(wire.call(messages.Submit(request, specs, collect)))
        return request

    def pour(self, count: int, per_s: float | None = None) -> float:
        """Submits tasks and takes their outcomes meanwhile; returns the seconds until the last.

        `per_s` is how many are offered in a second, late or not; None: as many as are taken, with
        no more than some messages unanswered.
        """
        size = PER_MESSAGE if per_s is None else max(1, round(per_s / PACE))
        started = time.monotonic()
        unanswered: set[bytes] = set()
        sent = ended = 0
        while ended < count:
            due = started + sent / per_s if per_s else started
            may = per_s is not None or len(unanswered) < IN_FLIGHT
            if sent < count and may and time.monotonic() >= due:
                unanswered.add(self._send(min(size, count - sent), 0, True))
                sent = min(count, sent + size)
                continue
            waits = sent < count and per_s is not None
            if waits and not self._socket.poll(max(0, round((due - time.monotonic()) * 1000))):
                continue
            for heard in self._hear():
                if isinstance(heard, messages.Outcomes):
                    ended += succeeded(heard)
                else:
                    unanswered.discard(heard.request)
        return time.monotonic() - started

    def collect(self, count: int) -> float:
        """Takes the outcomes of tasks submitted with `collect`; returns when the last one came."""
        missing = count
        while missing:
            for heard in self._hear():
                if isinstance(heard, messages.Outcomes):
                    missing -= succeeded(heard)
        return time.monotonic()

    def _hear(self) -> list[Answer]:
        if not self._socket.poll(PATIENCE_MS):
            raise BenchError("the broker was silent for a minute")
        answers = wire.heard_by_client(self._socket.recv_multipart())
        for answer in answers:
            if isinstance(answer, messages.Refused):
                raise BenchError(f"the broker refused: {answer.code} {answer.fields}")
        return answers


def succeeded(outcomes: messages.Outcomes) -> int:
    """Returns how many outcomes these are.

    Raises:
        BenchError: one of them is no success.
    """
    if any(outcome.state != "succeeded" for outcome in outcomes.items):
        raise BenchError("a task of the burst did not succeed")
    return len(outcomes.items)


def announce(context: zmq.Context[zmq.Socket[bytes]], port: int) -> None:
    """Makes the kind `echo` known: a worker comes, announces it and leaves in order."""
    with context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint(port))
        welcomed(socket, "passing")
        socket.send_multipart(wire.disconnect())


def welcomed(socket: zmq.Socket[bytes], name: str) -> messages.Welcome:
    """Registers a simulated worker and returns the broker's answer."""
    socket.send_multipart(wire.ready("echo", document(name)))
    while socket.poll(PATIENCE_MS):
        heard = wire.heard_by_worker(socket.recv_multipart())
        if isinstance(heard, wire.Extended) and isinstance(heard.message, messages.Welcome):
            return heard.message
    raise BenchError(f"the broker did not welcome worker {name}")
