"""The plain pyzmq broker's client and worker: what the sockets alone allow on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zmq

from bench.peers import Session
from bench.peers.plain_broker import READY
from bench.processes import accepts, free_port, process, says

#: Tasks that a worker asks for at once: one runs while the next is there already. With a single one
#: the broker only waits: it moves half as many tasks, and each costs it half as much CPU again.
IN_HAND = 2


@contextmanager
def start(folder: Path) -> Iterator[Session]:
    """Runs the broker and two workers."""
    ports = free_port(), free_port()
    front, back = (f"tcp://127.0.0.1:{port}" for port in ports)
    python = (sys.executable, "-m")
    with ExitStack() as stack:
        serve = (*python, "bench.peers.plain_broker", front, back)
        broker = stack.enter_context(
            process(*serve, log=folder / "broker.log", ready=accepts(ports[1]))
        )
        for log in (folder / "w1.log", folder / "w2.log"):
            stack.enter_context(process(*python, __name__, back, log=log, ready=says(log, "ready")))
        context = stack.enter_context(zmq.Context())
        socket = stack.enter_context(context.socket(zmq.DEALER))
        socket.set_hwm(0)
        socket.connect(front)

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            for number, payload in enumerate(payloads):
                socket.send(number.to_bytes(4) + payload)
            for _ in payloads:
                data = socket.recv()
                yield int.from_bytes(data[:4]), data[4:]

        def trip(payload: bytes) -> bytes:
            return next(collect([payload]))[1]

        yield Session(collect, trip, (broker.pid,))


def work(endpoint: str) -> None:
    """Takes a task, returns its body, until it is killed."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint)
    for _ in range(IN_HAND):
        socket.send(READY)
    print("ready", flush=True)
    while True:
        socket.send_multipart(socket.recv_multipart())


if __name__ == "__main__":
    work(*sys.argv[1:])
