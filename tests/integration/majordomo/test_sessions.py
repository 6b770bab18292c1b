"""What a broker answers to workers that break the protocol, vanish, leave or change their mind.

Raw DEALER sockets, frames written from the tables of RFC 7 and RFC 18.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from corral.messages import Status, StatusIs
from tests.integration.majordomo.native import ask
from tests.integration.majordomo.peers import (
    EMPTY,
    Body,
    Client01,
    Client02,
    Socket,
    Worker,
    Worker01,
    Worker02,
    mmi,
)
from tests.support.daemon import BrokerDaemon

WORKERS = (Worker01, Worker02)
KINDS = pytest.mark.parametrize("kind", WORKERS, ids=lambda cls: cls.__name__)


def hear(socket: Socket, kind: type[Worker], seconds: float = 10.0) -> Body:
    """The next message that is no heartbeat."""
    while (frames := socket.receive(seconds)) == kind.HEARTBEAT:
        pass
    return frames


def ready(socket: Socket, kind: type[Worker], service: str) -> None:
    socket.send(*kind.READY, service.encode())


def given(socket: Socket, kind: type[Worker]) -> tuple[bytes, Body]:
    """The next request: its client address and its body."""
    frames = hear(socket, kind)
    head = kind.READY[:-1]
    assert frames[: len(head) + 1] == [*head, b"\x02"]
    assert frames[len(head) + 2] == EMPTY
    return frames[len(head) + 1], frames[len(head) + 3 :]


def answer(socket: Socket, kind: type[Worker], address: bytes, *body: bytes) -> None:
    code = b"\x03" if kind is Worker01 else b"\x04"
    socket.send(*kind.READY[:-1], code, address, EMPTY, *body)


@KINDS
def test_a_registered_worker_hears_heartbeats_and_nothing_else(
    broker: BrokerDaemon, kind: type[Worker]
) -> None:
    with Socket(broker.endpoint) as socket:
        ready(socket, kind, "mirror")
        for _ in range(3):
            assert socket.receive(5.0) == kind.HEARTBEAT
            socket.send(*kind.HEARTBEAT)


@KINDS
def test_ready_twice_is_disconnect(broker: BrokerDaemon, kind: type[Worker]) -> None:
    with Socket(broker.endpoint) as socket, Client02(broker.endpoint) as client:
        ready(socket, kind, "mirror")
        ready(socket, kind, "mirror")
        assert hear(socket, kind) == kind.DISCONNECT
        assert mmi(client, "mmi.service", "mirror")[0] == "404"


@KINDS
@pytest.mark.parametrize(
    "say",
    [
        lambda kind: kind.HEARTBEAT,
        lambda kind: [*kind.READY[:-1], b"\x03", b"address", EMPTY, b"body"],
    ],
    ids=["HEARTBEAT", "reply"],
)
def test_a_stranger_is_disconnected_in_its_own_dialect(
    broker: BrokerDaemon, kind: type[Worker], say: Callable[[type[Worker]], Body]
) -> None:
    with Socket(broker.endpoint) as socket:
        socket.send(*say(kind))
        assert socket.receive() == kind.DISCONNECT


@pytest.mark.parametrize(("first", "then"), [WORKERS, WORKERS[::-1]], ids=["1 to 2", "2 to 1"])
@pytest.mark.parametrize(
    "say",
    [lambda kind: kind.HEARTBEAT, lambda kind: [*kind.READY, b"mirror"]],
    ids=["HEARTBEAT", "READY"],
)
def test_a_worker_that_changes_its_dialect_is_disconnected(
    broker: BrokerDaemon,
    first: type[Worker],
    then: type[Worker],
    say: Callable[[type[Worker]], Body],
) -> None:
    with Socket(broker.endpoint) as socket, Client02(broker.endpoint) as client:
        ready(socket, first, "mirror")
        socket.send(*say(then))
        assert hear(socket, first) in (first.DISCONNECT, then.DISCONNECT)
        assert mmi(client, "mmi.service", "mirror")[0] == "404"


@KINDS
def test_a_worker_that_asks_like_a_client_is_disconnected(
    broker: BrokerDaemon, kind: type[Worker]
) -> None:
    with Socket(broker.endpoint) as socket:
        ready(socket, kind, "mirror")
        socket.send(b"MDPC02", b"\x01", b"mirror", b"body")
        assert hear(socket, kind) == kind.DISCONNECT


@KINDS
@pytest.mark.parametrize("service", ["mmi.x", "mmi.service", "titanic.request", "corral.submit"])
def test_a_reserved_service_cannot_be_served(
    broker: BrokerDaemon, kind: type[Worker], service: str
) -> None:
    """RFC 8: the broker must disconnect workers that register in its own name space."""
    with Socket(broker.endpoint) as socket, Client02(broker.endpoint) as client:
        ready(socket, kind, service)
        assert hear(socket, kind) == kind.DISCONNECT
        assert mmi(client, "mmi.service", service)[0] == "404"


@KINDS
@pytest.mark.parametrize("service", [b"", b"two words", b"\xff\xfe", b"s" * 201])
def test_a_service_that_is_no_name_cannot_be_served(
    broker: BrokerDaemon, kind: type[Worker], service: bytes
) -> None:
    with Socket(broker.endpoint) as socket:
        socket.send(*kind.READY, service)
        assert hear(socket, kind) == kind.DISCONNECT


@KINDS
def test_unknown_commands_are_forgiven_twice(broker: BrokerDaemon, kind: type[Worker]) -> None:
    with Socket(broker.endpoint) as socket, Client02(broker.endpoint) as client:
        ready(socket, kind, "mirror")
        for _ in range(2):
            socket.send(*kind.READY[:-1], b"\x1f")
        client.post("mirror", b"still there")
        address, body = given(socket, kind)
        answer(socket, kind, address, *body)
        assert client.collect("mirror")[1] == [b"still there"]
        socket.send(*kind.READY[:-1], b"\x1f")
        assert hear(socket, kind) == kind.DISCONNECT


@KINDS
def test_a_worker_that_leaves_hands_its_request_to_another(
    broker: BrokerDaemon, kind: type[Worker]
) -> None:
    """DISCONNECT while busy is legal and must lose nothing."""
    with Socket(broker.endpoint) as leaving, Client01(broker.endpoint) as client:
        ready(leaving, kind, "mirror")
        client.send(b"MDPC01", b"mirror", b"body")
        assert given(leaving, kind)[1] == [b"body"]
        leaving.send(*kind.DISCONNECT)
        with Worker02(broker.endpoint, "mirror") as other:
            assert client.receive()[2:] == [b"body"]
            assert other.requests == [[b"body"]]


@KINDS
def test_an_idle_worker_may_leave(broker: BrokerDaemon, kind: type[Worker]) -> None:
    with Client02(broker.endpoint) as client:
        with kind(broker.endpoint, "mirror"):
            assert client.request("mirror", b"x") == [b"x"]
            assert mmi(client, "mmi.service", "mirror")[0] == "200"
        assert mmi(client, "mmi.service", "mirror")[0] == "404"


@KINDS
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_request_of_a_worker_that_died_is_given_to_another(
    broker: BrokerDaemon, kind: type[Worker], number: signal.Signals
) -> None:
    """A plain worker sends nothing while it works; its connection tells that it is gone.

    A stopped process keeps its connection, so it is judged by its run limit alone; here it is
    killed after a while.
    """
    dialect = "0.1" if kind is Worker01 else "0.2"
    command = [sys.executable, "-m", "tests.integration.majordomo.peers"]
    doomed = subprocess.Popen([*command, dialect, broker.endpoint, "slow"], stdout=subprocess.PIPE)
    try:
        with Client02(broker.endpoint) as client:
            client.post("slow", b"body")
            assert doomed.stdout is not None
            assert doomed.stdout.readline() == b"taken\n"
            doomed.send_signal(number)
            with Worker01(broker.endpoint, "slow") as other:
                if number is signal.SIGSTOP:
                    assert client.is_silent(1.0)
                    doomed.kill()
                assert client.collect("slow", 15.0)[1] == [b"body"]
                assert other.requests == [[b"body"]]
            assert client.is_silent(0.3)
    finally:
        doomed.kill()
        doomed.communicate()


@KINDS
def test_a_late_reply_changes_nothing(broker: BrokerDaemon, kind: type[Worker]) -> None:
    with Socket(broker.endpoint) as slow, Client02(broker.endpoint) as client:
        ready(slow, kind, "mirror")
        client.post("mirror", b"body")
        address, _ = given(slow, kind)
        slow.send(*kind.DISCONNECT)
        with Worker02(broker.endpoint, "mirror"):
            assert client.collect("mirror")[1] == [b"body"]
        slow.reopen()
        ready(slow, kind, "mirror")
        answer(slow, kind, address, b"too late")
        assert client.is_silent(0.5)


@KINDS
def test_a_second_reply_changes_nothing(broker: BrokerDaemon, kind: type[Worker]) -> None:
    with Socket(broker.endpoint) as socket, Client02(broker.endpoint) as client:
        ready(socket, kind, "mirror")
        client.post("mirror", b"one")
        first, _ = given(socket, kind)
        for body in (b"first", b"second"):
            answer(socket, kind, first, body)
        assert client.collect("mirror") == (Client02.FINAL, [b"first"])
        assert client.is_silent(0.3)
        client.post("mirror", b"two")
        second, _ = given(socket, kind)
        assert second != first
        answer(socket, kind, second, b"third")
        assert client.collect("mirror")[1] == [b"third"]


@KINDS
def test_a_reply_with_somebody_elses_address_changes_nothing(
    broker: BrokerDaemon, kind: type[Worker]
) -> None:
    with (
        Socket(broker.endpoint) as honest,
        Socket(broker.endpoint) as thief,
        Client02(broker.endpoint) as client,
    ):
        ready(honest, kind, "mirror")
        client.post("mirror", b"body")
        address, _ = given(honest, kind)
        ready(thief, kind, "other")
        answer(thief, kind, address, b"stolen")
        assert client.is_silent(0.5)
        answer(honest, kind, address, b"earned")
        assert client.collect("mirror")[1] == [b"earned"]


def test_a_reply_without_a_body_still_counts_four_frames(broker: BrokerDaemon) -> None:
    """Clients of the guide assert that a reply has a body."""
    with Socket(broker.endpoint) as socket, Client01(broker.endpoint) as client:
        ready(socket, Worker02, "mirror")
        client.send(b"MDPC01", b"mirror", b"body")
        address, _ = given(socket, Worker02)
        answer(socket, Worker02, address)
        assert client.receive() == [b"MDPC01", b"mirror", EMPTY]


@KINDS
def test_after_a_restart_workers_come_back_and_requests_are_still_there(
    broker: BrokerDaemon, kind: type[Worker]
) -> None:
    """A plain client's connection is gone with its broker; durable requests go by Titanic."""
    with kind(broker.endpoint, "mirror") as worker, Client01(broker.endpoint) as client:
        assert client.request("mirror", b"before") == [b"before"]
        broker.kill()
        broker.start()
        assert client.request("mirror", b"after", seconds=8.0, tries=3) == [b"after"]
        assert worker.requests[-1] == [b"after"]


FOREIGN = {
    "wire-protocol-0.2": [b"MDPW02", b"\x04"],
    "libmdp": [b"MDPW0X", b"\x01", b"mirror"],
    "zproto": [b"\xaa\xa4\x05\x06MDPW02\x01\x06mirror"],
}


def test_other_wires_of_that_name_are_refused_counted_and_named(broker: BrokerDaemon) -> None:
    with Socket(broker.endpoint) as socket, Client02(broker.endpoint) as client:
        for number, frames in enumerate(FOREIGN.values(), 1):
            for _ in range(number):
                socket.send(*frames)
        assert socket.receive() == Worker02.DISCONNECT  # the one that can be told
        assert client.request("mmi.version", b"")
        assert client.is_silent(0.2)
    counts = refused(broker)
    for number, name in enumerate(FOREIGN, 1):
        assert counts[f"foreign: {name}"] == number
        assert name in broker.log


def test_what_is_malformed_is_counted_and_answered_by_silence(broker: BrokerDaemon) -> None:
    with Socket(broker.endpoint) as socket:
        for frames in ([b"x"], [b"MDPC02"], [b"MDPC02", b"\x01", b"mirror"], [b"", b"MDPC01"]):
            socket.send(*frames)
        assert socket.is_silent(0.3)
    counts = refused(broker)
    assert counts["header"] == 1
    assert counts["client frames"] == 3


def refused(broker: BrokerDaemon) -> dict[str, int]:
    """What the broker says it turned away, by reason."""
    status = ask(broker, Status(b"request"))
    assert isinstance(status, StatusIs)
    return status.broker.refused
