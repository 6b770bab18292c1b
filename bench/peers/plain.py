"""The plain pyzmq broker's client and worker: what the sockets alone allow on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zmq

from bench.peers import Session
from bench.peers.plain_broker import READY
from bench.processes import free_port, process


@contextmanager
def start(folder: Path) -> Iterator[Session]:
    """Runs the broker and two workers."""
    ports = free_port(), free_port()
    front, back = (f"tcp://127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        broker = stack.enter_context(
            process(
                sys.executable,
                "-m",
                "bench.peers.plain_broker",
                front,
                back,
                log=folder / "broker.log",
                wait=ports[1],
            )
        )
        for name in ("w1", "w2"):
            log = folder / f"{name}.log"
            stack.enter_context(
                process(sys.executable, "-m", "bench.peers.plain", back, log=log, wait="ready")
            )
        context = stack.enter_context(zmq.Context())
        socket = stack.enter_context(context.socket(zmq.DEALER))
        socket.set_hwm(0)
        socket.connect(front)

        def collect(payloads: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
            for number, payload in enumerate(payloads):
                socket.send_multipart((number.to_bytes(4), payload))
            for _ in payloads:
                position, data = socket.recv_multipart()
                yield int.from_bytes(position), data

        def trip(payload: bytes) -> bytes:
            return next(collect([payload]))[1]

        yield Session(collect, trip, (broker.pid,))


def work(endpoint: str) -> None:
    """Takes a task, returns its body, until it is killed."""
    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(endpoint)
    socket.send(READY)
    print("ready", flush=True)
    while True:
        socket.send_multipart(socket.recv_multipart())


if __name__ == "__main__":
    work(*sys.argv[1:])
