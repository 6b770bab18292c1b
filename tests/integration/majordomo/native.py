"""The other side of these tests: a call as Corral's own clients make it."""

from __future__ import annotations

import zmq

from corral import wire
from corral.messages import Answer, Call
from tests.support.daemon import BrokerDaemon


def ask(broker: BrokerDaemon, call: Call, seconds: float = 10.0) -> Answer:
    """The first answer to a call."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(broker.endpoint)
        socket.send_multipart(wire.call(call))
        assert socket.poll(int(seconds * 1000)), "no answer"
        return wire.heard_by_client(socket.recv_multipart())[0]
