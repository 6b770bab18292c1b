"""Majordomo peers written from the tables of the RFCs alone; nothing of Corral is imported.

Clients and workers of MDP/0.1 (ZeroMQ RFC 7) and MDP/0.2 (RFC 18), clients of MMI (RFC 8) and
Titanic (RFC 9). They assert what the RFCs promise them, as the clients of the ZeroMQ guide do, and
they behave as those do: a worker reads its socket only between two requests, opens a new socket
after DISCONNECT or silence, and a client that waits in vain opens a new one and sends again.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import ClassVar, Self

import zmq

Body = list[bytes]
Zmq = zmq.Context[zmq.Socket[bytes]]

EMPTY = b""


class NoAnswer(Exception):
    """Nothing came in time."""


class Socket:
    """A DEALER or REQ socket that is opened anew when its owner says so."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER) -> None:
        self._context: Zmq = zmq.Context()
        self._endpoint = endpoint
        self._kind = kind
        self.reopen()

    def reopen(self) -> None:
        self.close_socket()
        self.socket = self._context.socket(self._kind)
        self.socket.linger = 0
        self.socket.connect(self._endpoint)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def receive(self, seconds: float = 10.0) -> Body:
        if not self.socket.poll(int(seconds * 1000)):
            raise NoAnswer
        return self.socket.recv_multipart()

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        return not self.socket.poll(int(seconds * 1000))

    def close_socket(self) -> None:
        if hasattr(self, "socket"):
            self.socket.close(linger=0)

    def close(self) -> None:
        self.close_socket()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


# --- clients ----------------------------------------------------------------------------


class Client01(Socket):
    """RFC 7, the way of most: a REQ socket, which adds and takes the empty frame by itself."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint, zmq.REQ)

    def request(self, service: str, *body: bytes, seconds: float = 10.0, tries: int = 1) -> Body:
        """The reply's body. After `seconds` of silence: a new socket and the same again."""
        for _ in range(tries):
            self.send(b"MDPC01", service.encode(), *body)
            try:
                header, echoed, *reply = self.receive(seconds)
            except NoAnswer:
                self.reopen()
                continue
            assert header == b"MDPC01"
            assert echoed == service.encode()
            assert reply
            return reply
        raise NoAnswer


class Asynchronous01(Socket):
    """RFC 7 with a DEALER, which must send the empty frame itself; many requests at once."""

    def post(self, service: str, *body: bytes) -> None:
        self.send(EMPTY, b"MDPC01", service.encode(), *body)

    def collect(self, service: str, seconds: float = 10.0) -> Body:
        empty, header, echoed, *reply = self.receive(seconds)
        assert (empty, header, echoed) == (EMPTY, b"MDPC01", service.encode())
        assert reply
        return reply

    def request(self, service: str, *body: bytes, seconds: float = 10.0) -> Body:
        self.post(service, *body)
        return self.collect(service, seconds)


class Client02(Socket):
    """RFC 18: a DEALER, no empty frame, zero or more PARTIALs and one FINAL."""

    REQUEST, PARTIAL, FINAL = b"\x01", b"\x02", b"\x03"

    def post(self, service: str, *body: bytes) -> None:
        self.send(b"MDPC02", self.REQUEST, service.encode(), *body)

    def collect(self, service: str, seconds: float = 10.0) -> tuple[bytes, Body]:
        header, code, echoed, *reply = self.receive(seconds)
        assert header == b"MDPC02"
        assert echoed == service.encode()
        assert code in (self.PARTIAL, self.FINAL)
        assert reply
        return code, reply

    def stream(self, service: str, *body: bytes, seconds: float = 10.0) -> list[Body]:
        """The bodies of all PARTIALs and, last, of the FINAL."""
        self.post(service, *body)
        found: list[Body] = []
        while True:
            code, reply = self.collect(service, seconds)
            found.append(reply)
            if code == self.FINAL:
                return found

    def request(self, service: str, *body: bytes, seconds: float = 10.0) -> Body:
        return self.stream(service, *body, seconds=seconds)[-1]


Client = Client01 | Asynchronous01 | Client02


def mmi(client: Client, question: str, about: str = "") -> tuple[str, Body]:
    """RFC 8: the status, and what follows it."""
    status, *rest = client.request(question, about.encode())
    return status.decode(), rest


class Titanic:
    """RFC 9, over a client of either dialect. Each answer begins with a status of three digits."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def _ask(self, service: str, *body: bytes) -> tuple[str, Body]:
        status, *rest = self.client.request(service, *body)
        code = status[:3].decode()
        assert code in ("200", "300", "400", "500"), status
        assert status[3:4] in (b"", b" "), status
        return code, rest

    def request(self, service: str, *body: bytes) -> str:
        """Store a request; its UUID."""
        code, rest = self._ask("titanic.request", service.encode(), *body)
        assert code == "200", code
        (uuid,) = rest
        assert len(uuid) == 32
        int(uuid, 16)
        return uuid.decode()

    def reply(self, uuid: str) -> tuple[str, Body]:
        return self._ask("titanic.reply", uuid.encode())

    def wait(self, uuid: str, seconds: float = 10.0) -> Body:
        """The reply, asked for until it is there."""
        deadline = time.monotonic() + seconds
        while (answer := self.reply(uuid))[0] == "300":
            if time.monotonic() > deadline:
                raise NoAnswer
            time.sleep(0.05)
        code, body = answer
        assert code == "200", code
        return body

    def close(self, uuid: str) -> str:
        return self._ask("titanic.close", uuid.encode())[0]


# --- workers ----------------------------------------------------------------------------

Serve = Callable[[Body], Iterable[Body]]


def echo(body: Body) -> Iterable[Body]:
    """The reply is the request."""
    return [body]


class Worker(threading.Thread):
    """A worker of either dialect in a thread: one service, one request at a time.

    `serve` yields the bodies of a request's replies; all but the last are partial ones, which 0.1
    does not know. `heartbeat` is seconds between beats; after four of silence the broker counts as
    dead.
    """

    READY: ClassVar[Body]
    HEARTBEAT: ClassVar[Body]
    DISCONNECT: ClassVar[Body]

    def __init__(
        self, endpoint: str, service: str, serve: Serve = echo, heartbeat: float = 1.0
    ) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.requests: list[Body] = []  #: bodies, in the order in which they came
        self.disconnects = 0
        self.problem: BaseException | None = None
        self._serve = serve
        self._heartbeat = heartbeat
        self._endpoint = endpoint
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave in order: DISCONNECT."""
        self._stopping.set()
        self.join(30)
        assert not self.is_alive()
        if self.problem is not None:
            raise self.problem

    def run(self) -> None:
        try:
            with Socket(self._endpoint) as socket:
                self._work(socket)
        except BaseException as problem:  # told to the test by `stop`
            self.problem = problem

    def _work(self, socket: Socket) -> None:
        socket.send(*self.READY, self.service.encode())
        heard = beat = time.monotonic()
        while not self._stopping.is_set():
            try:
                frames = socket.receive(0.02)
            except NoAnswer:
                frames = []
            now = time.monotonic()
            if frames:
                heard = now
            if frames == self.DISCONNECT or now > heard + 4 * self._heartbeat:
                self.disconnects += frames == self.DISCONNECT
                socket.reopen()  # RFC 7 and 18: close the socket, open a new one, READY
                socket.send(*self.READY, self.service.encode())
                heard = beat = time.monotonic()
                continue
            if frames and frames != self.HEARTBEAT:
                self._answer(socket, frames)
                heard = time.monotonic()
            if now > beat + self._heartbeat:
                beat = now
                socket.send(*self.HEARTBEAT)
        socket.send(*self.DISCONNECT)
        socket.socket.close(linger=2000)

    def _answer(self, socket: Socket, frames: Body) -> None:
        head = len(self.READY) - 1
        assert frames[:head] == self.READY[:head], frames
        command, address, empty, *body = frames[head:]
        assert command == b"\x02", frames
        assert address  # one frame, not empty: to be echoed unread
        assert empty == EMPTY
        assert body
        self.requests.append(body)
        replies = iter(self._serve(body))
        reply = next(replies)
        for following in replies:
            self._reply(socket, address, reply, final=False)
            reply = following
        self._reply(socket, address, reply, final=True)

    def _reply(self, socket: Socket, address: bytes, body: Body, final: bool) -> None:
        raise NotImplementedError


class Worker01(Worker):
    """RFC 7."""

    READY: ClassVar[Body] = [EMPTY, b"MDPW01", b"\x01"]
    HEARTBEAT: ClassVar[Body] = [EMPTY, b"MDPW01", b"\x04"]
    DISCONNECT: ClassVar[Body] = [EMPTY, b"MDPW01", b"\x05"]

    def _reply(self, socket: Socket, address: bytes, body: Body, final: bool) -> None:
        assert final, "0.1 has no partial replies"
        socket.send(EMPTY, b"MDPW01", b"\x03", address, EMPTY, *body)


class Worker02(Worker):
    """RFC 18."""

    READY: ClassVar[Body] = [b"MDPW02", b"\x01"]
    HEARTBEAT: ClassVar[Body] = [b"MDPW02", b"\x05"]
    DISCONNECT: ClassVar[Body] = [b"MDPW02", b"\x06"]

    def _reply(self, socket: Socket, address: bytes, body: Body, final: bool) -> None:
        socket.send(b"MDPW02", b"\x04" if final else b"\x03", address, EMPTY, *body)


def _never(body: Body) -> Iterable[Body]:
    """Takes a request, says so on stdout, and never ends."""
    print("taken", flush=True)
    time.sleep(3600)
    return [body]


if __name__ == "__main__":  # a worker that takes a request and waits to be killed
    dialect, endpoint, service = sys.argv[1:]
    worker = {"0.1": Worker01, "0.2": Worker02}[dialect](endpoint, service, _never)
    worker.start()
    worker.join()
