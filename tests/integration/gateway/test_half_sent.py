"""A request that is begun and not ended holds a connection for a while, and not for ever."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack, suppress

from corral.gateway.serving import HEAD_SECONDS
from tests.integration.gateway.conftest import House
from tests.support.gateway import PATIENCE, events

WHOLE = b"GET /api/v1/health HTTP/1.1\r\nhost: localhost\r\n\r\n"
HALF = b"GET /api/v1/health HTTP/1.1\r\nhost: localhost\r\nx-more: "
PACE = 0.3  # seconds between two requests, or two bytes, of those that go on


def test_who_never_ends_a_request_is_let_go_and_nobody_else(house: House) -> None:
    with ExitStack() as stack:
        rest = stack.enter_context(house.gateway.client())
        stream = stack.enter_context(events(rest))
        assert next(stream).kind == "snapshot"
        steady = connected(house, stack)
        drips = connected(house, stack, HALF)
        idle = {
            connected(house, stack): "never asks",
            connected(house, stack, HALF): "asks by halves",
            asked_once(house, stack): "asked once",
            asked_once(house, stack, HALF): "asked once, and then by halves",
            drips: "sends a byte now and then",
        }
        deadline = time.monotonic() + HEAD_SECONDS + PATIENCE
        while idle:
            assert time.monotonic() < deadline, [*idle.values()]
            ask(steady)
            with suppress(OSError):  # it may have been let go
                drips.sendall(b"x")
            for heard in select.select(idle, [], [], PACE)[0]:
                if is_closed(heard):
                    del idle[heard]
        with house.gateway.client() as other:
            other.post("/tasks", json={"kind": "echo"})
        assert next(stream).kind == "delta"


def connected(house: House, stack: ExitStack, sent: bytes = b"") -> socket.socket:
    host, _, port = house.gateway.bind.rpartition(":")
    connection = socket.create_connection((host, int(port)), PATIENCE)
    connection.sendall(sent)
    return stack.enter_context(connection)


def asked_once(house: House, stack: ExitStack, sent: bytes = b"") -> socket.socket:
    connection = connected(house, stack)
    ask(connection)
    connection.sendall(sent)
    return connection


def ask(connection: socket.socket) -> None:
    connection.sendall(WHOLE)
    answer = b""
    while not answer.endswith(b"}"):
        piece = connection.recv(65536)
        assert piece, answer
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200")


def is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(4096)
    except ConnectionResetError:
        return True
