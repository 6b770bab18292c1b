"""A broker without logic: what pyzmq alone costs.

After the load balancing broker of the ZeroMQ guide (chapter 3): the worker that asked first gets
the next task. Tasks wait in a deque.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator

import zmq

READY = b"READY"


def received(socket: zmq.Socket[bytes], most: int = 100) -> Iterator[list[bytes]]:
    """Yields what has already arrived."""
    for _ in range(most):
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return


def main(front: str, back: str) -> None:
    """Serves clients at one endpoint and workers at the other until it is killed."""
    context = zmq.Context()
    clients, workers = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    poller = zmq.Poller()
    for socket, endpoint in ((clients, front), (workers, back)):
        socket.set_hwm(0)
        socket.bind(endpoint)
        poller.register(socket, zmq.POLLIN)
    idle: deque[bytes] = deque()
    queued: deque[list[bytes]] = deque()
    while True:
        ready = dict(poller.poll())
        if workers in ready:
            for worker, client, *reply in received(workers):
                idle.append(worker)
                if client != READY:
                    clients.send_multipart([client, *reply])
        if clients in ready:
            queued.extend(received(clients))
        while idle and queued:
            workers.send_multipart([idle.popleft(), *queued.popleft()])


if __name__ == "__main__":
    main(*sys.argv[1:])
