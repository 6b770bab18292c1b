"""The disconnected queue (RFC 9): stored before it is confirmed, and still there after kill -9."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.integration.majordomo.peers import (
    Asynchronous01,
    Body,
    Client,
    Client01,
    Client02,
    NoAnswer,
    Titanic,
    Worker,
    Worker01,
    Worker02,
)
from tests.support.daemon import BrokerDaemon

CLIENTS = pytest.mark.parametrize(
    "kind", [Client01, Asynchronous01, Client02], ids=lambda cls: cls.__name__
)
WORKERS = pytest.mark.parametrize("worker", [Worker01, Worker02], ids=lambda cls: cls.__name__)
UNKNOWN = "0" * 32


@CLIENTS
@WORKERS
def test_request_reply_and_close(
    broker: BrokerDaemon, kind: type[Client], worker: type[Worker]
) -> None:
    with kind(broker.endpoint) as client:
        titanic = Titanic(client)
        uuid = titanic.request("mirror", b"one", b"", b"two")
        assert titanic.reply(uuid) == ("300", [])
        with worker(broker.endpoint, "mirror"):
            assert titanic.wait(uuid) == [b"one", b"", b"two"]
        assert titanic.reply(uuid) == ("200", [b"one", b"", b"two"])  # as often as one likes
        assert titanic.close(uuid) == "200"
        assert titanic.reply(uuid)[0] == "400"
        assert titanic.close(uuid) == "200"  # idempotent


@CLIENTS
def test_what_is_unknown_is_400_and_may_be_closed(broker: BrokerDaemon, kind: type[Client]) -> None:
    with kind(broker.endpoint) as client:
        titanic = Titanic(client)
        assert titanic.reply(UNKNOWN)[0] == "400"
        assert titanic.close(UNKNOWN) == "200"
        for nonsense in ("", "not a uuid", "\xff"):
            assert titanic.reply(nonsense)[0] == "400"
            assert titanic.close(nonsense) == "200"


def test_a_uuid_is_known_in_either_case(broker: BrokerDaemon) -> None:
    with Client02(broker.endpoint) as client:
        titanic = Titanic(client)
        uuid = titanic.request("mirror", b"body")
        assert uuid == uuid.lower()
        assert titanic.reply(uuid.upper()) == ("300", [])
        assert titanic.close(uuid.upper()) == "200"
        assert titanic.reply(uuid)[0] == "400"


def test_a_request_that_cannot_be_one_is_refused(broker: BrokerDaemon) -> None:
    with Client02(broker.endpoint) as client:
        for body in ([b"mirror"], [b"two words", b"x"], [b"", b"x"], [b"mmi.service", b"mirror"]):
            assert client.request("titanic.request", *body)[0][:3] == b"400"
        assert client.request("titanic.other", b"x")[0][:3] == b"501"


def test_another_client_may_fetch_the_reply(broker: BrokerDaemon) -> None:
    with Client01(broker.endpoint) as asking:
        uuid = Titanic(asking).request("mirror", b"body")
    with Worker02(broker.endpoint, "mirror"), Client02(broker.endpoint) as fetching:
        assert Titanic(fetching).wait(uuid) == [b"body"]


def test_a_result_of_any_size_is_kept(broker: BrokerDaemon) -> None:
    large = bytes(range(256)) * 4_000
    with Worker02(broker.endpoint, "mirror"), Client02(broker.endpoint) as client:
        titanic = Titanic(client)
        uuid = titanic.request("mirror", large, b"tail")
        assert titanic.wait(uuid) == [large, b"tail"]
        broker.kill()
        broker.start()
        assert titanic.reply(uuid) == ("200", [large, b"tail"])


def test_two_requests_are_two_even_when_they_are_equal(broker: BrokerDaemon) -> None:
    with Worker01(broker.endpoint, "mirror") as worker, Client02(broker.endpoint) as client:
        titanic = Titanic(client)
        one, other = titanic.request("mirror", b"same"), titanic.request("mirror", b"same")
        assert one != other
        assert titanic.wait(one) == titanic.wait(other) == [b"same"]
        assert titanic.close(one) == "200"
        assert titanic.reply(other) == ("200", [b"same"])
        assert len(worker.requests) == 2


def test_closing_what_is_queued_takes_it_from_the_queue(broker: BrokerDaemon) -> None:
    with Client02(broker.endpoint) as client:
        titanic = Titanic(client)
        closed, kept = titanic.request("mirror", b"closed"), titanic.request("mirror", b"kept")
        assert titanic.close(closed) == "200"
        with Worker02(broker.endpoint, "mirror") as worker:
            assert titanic.wait(kept) == [b"kept"]
            time.sleep(0.3)
            assert worker.requests == [[b"kept"]]


def test_while_it_runs_the_reply_is_pending(broker: BrokerDaemon) -> None:
    release = threading.Event()

    def serve(body: Body) -> Iterable[Body]:
        release.wait(20)
        return [[b"done"]]

    with Worker02(broker.endpoint, "slow", serve) as worker, Client01(broker.endpoint) as client:
        titanic = Titanic(client)
        uuid = titanic.request("slow", b"body")
        deadline = time.monotonic() + 10
        while not worker.requests:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert titanic.reply(uuid) == ("300", [])
        release.set()
        assert titanic.wait(uuid) == [b"done"]


def _patient(client: Client, service: str, *body: bytes) -> Body:
    """Ask until the broker, which is being killed and started, answers."""
    for _ in range(20):
        try:
            return client.request(service, *body, seconds=3.0)
        except NoAnswer:
            client.reopen()
    raise NoAnswer


@CLIENTS
def test_what_was_confirmed_survives_kill_9_at_any_moment(
    broker: BrokerDaemon, kind: type[Client]
) -> None:
    """The broker is killed right after each confirmation: queued, running, answered, closed."""
    with kind(broker.endpoint) as client:
        titanic = Titanic(client)
        queued = [titanic.request("mirror", b"%d" % number) for number in range(20)]
        broker.kill()
        broker.start()
        client.reopen()
        assert [_patient(client, "titanic.reply", u.encode())[0] for u in queued] == [b"300"] * 20

        with Worker02(broker.endpoint, "mirror") as worker:
            replies = [titanic.wait(uuid, 20) for uuid in queued]
            assert replies == [[b"%d" % number] for number in range(20)]
            done = len(worker.requests)
            assert titanic.close(queued[0]) == "200"
            broker.kill()
            broker.start()
            client.reopen()
            assert _patient(client, "titanic.reply", queued[0].encode())[0][:3] == b"400"
            for number, uuid in list(enumerate(queued))[1:]:
                assert titanic.reply(uuid) == ("200", [b"%d" % number])
            assert len(worker.requests) == done  # nothing that had a result ran again


def test_a_running_request_of_a_killed_broker_is_given_out_again(broker: BrokerDaemon) -> None:
    """A plain worker cannot say what it still runs, so its request is queued again."""
    begun = threading.Event()

    def serve(body: Body) -> Iterable[Body]:
        if not begun.is_set():
            begun.set()
            time.sleep(2.0)
        return [[b"done", *body]]

    with Worker01(broker.endpoint, "slow", serve) as worker, Client02(broker.endpoint) as client:
        titanic = Titanic(client)
        uuid = titanic.request("slow", b"body")
        assert begun.wait(10)
        broker.kill()
        broker.start()
        client.reopen()
        assert titanic.reply(uuid)[0] == "300"
        assert titanic.wait(uuid, 40) == [b"done", b"body"]
        assert set(map(tuple, worker.requests)) == {(b"body",)}


def test_a_full_broker_asks_to_come_back_later(tmp_path: Path) -> None:
    """500: not stored, try again. Nothing that was confirmed is touched."""
    settings = tmp_path / "corral.yaml"
    settings.write_text("broker: {max_tasks: 2}\n")
    with (
        BrokerDaemon(tmp_path / "broker", options=("--config", settings)) as broker,
        Client02(broker.endpoint) as client,
    ):
        titanic = Titanic(client)
        stored = [titanic.request("mirror", b"one"), titanic.request("mirror", b"two")]
        assert client.request("titanic.request", b"mirror", b"three")[0][:3] == b"500"
        with Worker01(broker.endpoint, "mirror"):
            assert [titanic.wait(uuid) for uuid in stored] == [[b"one"], [b"two"]]
        assert titanic.request("mirror", b"three")
