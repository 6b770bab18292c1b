"""Questions to the broker itself (RFC 8), asked by clients of both dialects."""

from __future__ import annotations

import json
import time

import pytest

from corral.messages import Drain, Resume
from tests.integration.majordomo.native import ask
from tests.integration.majordomo.peers import (
    Asynchronous01,
    Client,
    Client01,
    Client02,
    Socket,
    Worker01,
    Worker02,
    mmi,
)
from tests.support.daemon import BrokerDaemon

CLIENTS = pytest.mark.parametrize(
    "kind", [Client01, Asynchronous01, Client02], ids=lambda cls: cls.__name__
)


def settles(client: Client, question: str, about: str, expected: str) -> bool:
    """Whether the answer's status becomes what is expected within some seconds."""
    deadline = time.monotonic() + 10
    while mmi(client, question, about)[0] != expected:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@CLIENTS
def test_a_service_is_there_while_a_worker_serves_it(
    broker: BrokerDaemon, kind: type[Client]
) -> None:
    with kind(broker.endpoint) as client:
        assert mmi(client, "mmi.service", "mirror") == ("404", [])
        with Worker01(broker.endpoint, "mirror"), Worker02(broker.endpoint, "other"):
            assert settles(client, "mmi.service", "mirror", "200")
            assert settles(client, "mmi.service", "other", "200")
            assert mmi(client, "mmi.service", "another") == ("404", [])
        assert settles(client, "mmi.service", "mirror", "404")


def test_a_request_alone_makes_no_service(broker: BrokerDaemon) -> None:
    """In the guide's broker a service exists as soon as somebody asked for it."""
    with Client02(broker.endpoint) as client:
        client.post("phantom", b"body")
        assert mmi(client, "mmi.service", "phantom")[0] == "404"


@CLIENTS
def test_what_is_not_implemented_says_so(broker: BrokerDaemon, kind: type[Client]) -> None:
    with kind(broker.endpoint) as client:
        for question in ("mmi.", "mmi.nothing", "mmi.service.x", "mmi.Service"):
            assert mmi(client, question, "mirror") == ("501", [])


@CLIENTS
def test_the_broker_says_what_it_speaks(broker: BrokerDaemon, kind: type[Client]) -> None:
    with kind(broker.endpoint) as client:
        status, (version,) = mmi(client, "mmi.version")
        assert status == "200"
        assert b"MDP/0.1" in version
        assert b"MDP/0.2" in version


def test_who_serves_a_kind_and_how_much_waits_for_it(broker: BrokerDaemon) -> None:
    with Client02(broker.endpoint) as client, Socket(broker.endpoint) as busy:
        assert mmi(client, "mmi.workers", "mirror") == ("200", [b"[]"])
        assert mmi(client, "mmi.queue", "mirror") == ("200", [b"0"])
        busy.send(*Worker02.READY, b"mirror")
        for number in range(6):
            client.post("mirror", b"%d" % number)
        deadline = time.monotonic() + 10
        while mmi(client, "mmi.queue", "mirror") != ("200", [b"5"]):  # one is with its worker
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with Worker01(broker.endpoint, "unlike"):
            assert settles(client, "mmi.service", "unlike", "200")
            status, (names,) = mmi(client, "mmi.workers", "mirror")
            assert status == "200"
            assert len(json.loads(names)) == 1


def test_a_drained_worker_serves_nothing(broker: BrokerDaemon) -> None:
    with Worker02(broker.endpoint, "mirror"), Client01(broker.endpoint) as client:
        assert settles(client, "mmi.service", "mirror", "200")
        (name,) = json.loads(mmi(client, "mmi.workers", "mirror")[1][0])
        ask(broker, Drain(b"request", name, "maintenance"))
        assert mmi(client, "mmi.service", "mirror")[0] == "404"
        ask(broker, Resume(b"request", name))
        assert mmi(client, "mmi.service", "mirror")[0] == "200"


def test_a_name_that_is_none_is_simply_not_there(broker: BrokerDaemon) -> None:
    with Client02(broker.endpoint) as client:
        for name in (b"", b"\xff\xfe", b"x" * 10_000):
            assert client.request("mmi.service", name) == [b"404"]
