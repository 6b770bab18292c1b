"""Unmodified clients and workers of both dialects, every pair of them, through one broker."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable

import pytest

from tests.integration.majordomo.peers import (
    Asynchronous01,
    Body,
    Client,
    Client01,
    Client02,
    NoAnswer,
    Worker,
    Worker01,
    Worker02,
)
from tests.support.daemon import BrokerDaemon

CLIENTS = (Client01, Asynchronous01, Client02)
WORKERS = (Worker01, Worker02)


@pytest.mark.parametrize("worker", WORKERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda cls: cls.__name__)
def test_every_client_is_served_by_every_worker(
    broker: BrokerDaemon, client: type[Client], worker: type[Worker]
) -> None:
    with worker(broker.endpoint, "mirror"), client(broker.endpoint) as asking:
        for body in ([b"one"], [b"two", b"", b"frames"], [b""], [bytes(range(256)) * 300]):
            assert asking.request("mirror", *body) == body


def test_everybody_at_once(broker: BrokerDaemon) -> None:
    """Two services, a worker of each dialect for both, six clients, 240 requests."""
    answered = Counter[str]()
    problems: list[BaseException] = []

    def ask(kind: type[Client], name: str) -> None:
        try:
            with kind(broker.endpoint) as client:
                for number in range(40):
                    body = [name.encode(), b"%d" % number]
                    assert client.request(f"mirror{number % 2}", *body, seconds=30) == body
                    answered[name] += 1
        except BaseException as problem:
            problems.append(problem)

    pairs = [(worker, service) for worker in WORKERS for service in ("mirror0", "mirror1")]
    workers = [worker(broker.endpoint, service) for worker, service in pairs]
    names = [(kind, f"{kind.__name__}-{copy}") for kind in CLIENTS for copy in range(2)]
    threads = [threading.Thread(target=ask, args=each) for each in names]
    for thread in (*workers, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    for each in workers:
        each.stop()
    assert problems == []
    assert answered == {name: 40 for _, name in names}
    assert sum(len(each.requests) for each in workers) == 240
    assert all(each.requests for each in workers), "somebody never got work"


def _counting(body: Body) -> Iterable[Body]:
    """Three partial replies and a last one."""
    return [[b"part", b"%d" % number] for number in range(3)] + [[b"whole", *body]]


def test_partial_replies_reach_clients_of_0_2_in_order(broker: BrokerDaemon) -> None:
    with Worker02(broker.endpoint, "count", _counting), Client02(broker.endpoint) as client:
        assert client.stream("count", b"x") == [
            [b"part", b"0"], [b"part", b"1"], [b"part", b"2"], [b"whole", b"x"],
        ]  # fmt: skip
        assert client.is_silent(0.3)  # after FINAL nothing more


@pytest.mark.parametrize("client", [Client01, Asynchronous01], ids=lambda cls: cls.__name__)
def test_partial_replies_never_reach_clients_of_0_1(
    broker: BrokerDaemon, client: type[Client01 | Asynchronous01]
) -> None:
    """Their API would take the first one for the reply."""
    with Worker02(broker.endpoint, "count", _counting), client(broker.endpoint) as asking:
        assert asking.request("count", b"x") == [b"whole", b"x"]
        assert asking.request("count", b"y") == [b"whole", b"y"]


@pytest.mark.parametrize("client", [Asynchronous01, Client02], ids=lambda cls: cls.__name__)
def test_a_client_may_have_many_requests_in_flight(
    broker: BrokerDaemon, client: type[Asynchronous01 | Client02]
) -> None:
    with (
        Worker01(broker.endpoint, "mirror"),
        Worker02(broker.endpoint, "mirror"),
        client(broker.endpoint) as asking,
    ):
        for number in range(100):
            asking.post("mirror", b"%d" % number)
        found = Counter[bytes]()
        for _ in range(100):
            answer = asking.collect("mirror")
            body = answer[1] if isinstance(answer, tuple) else answer
            found[b"".join(body)] += 1
        assert found == {b"%d" % number: 1 for number in range(100)}


def test_a_request_waits_for_its_worker(broker: BrokerDaemon) -> None:
    """RFC 7 and 18: requests for services that nobody serves yet should be queued."""
    with Client02(broker.endpoint) as client, Client01(broker.endpoint) as old:
        client.post("later", b"new")
        old.send(b"MDPC01", b"later", b"old")
        assert client.is_silent(0.3)
        with Worker01(broker.endpoint, "later"):
            assert client.collect("later") == (Client02.FINAL, [b"new"])
            assert old.receive()[2:] == [b"old"]


def test_one_worker_gets_one_request_at_a_time(broker: BrokerDaemon) -> None:
    at_once, most = [0], [0]

    def serve(body: Body) -> Iterable[Body]:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        at_once[0] -= 1
        return [body]

    with Worker02(broker.endpoint, "slow", serve) as worker, Client02(broker.endpoint) as client:
        for number in range(20):
            client.post("slow", b"%d" % number)
        assert [client.collect("slow")[1] for _ in range(20)] == [[b"%d" % n] for n in range(20)]
        assert len(worker.requests) == 20
    assert most == [1]


def test_work_is_shared_between_workers(broker: BrokerDaemon) -> None:
    def serve(body: Body) -> Iterable[Body]:
        time.sleep(0.05)
        return [body]

    workers = [kind(broker.endpoint, "slow", serve) for kind in (*WORKERS, *WORKERS)]
    with Client02(broker.endpoint) as client:
        for worker in workers:
            worker.start()
        time.sleep(0.5)
        began = time.monotonic()
        for number in range(40):
            client.post("slow", b"%d" % number)
        for _ in range(40):
            client.collect("slow")
        took = time.monotonic() - began
    for worker in workers:
        worker.stop()
    assert all(worker.requests for worker in workers)
    assert took < 40 * 0.05 * 0.75


@pytest.mark.parametrize("first", WORKERS, ids=lambda cls: cls.__name__)
def test_a_client_that_resends_is_answered_once_and_the_work_is_done_once(
    broker: BrokerDaemon, first: type[Worker]
) -> None:
    """The guide's clients send again on a new socket after 2.5 s of silence."""

    def serve(body: Body) -> Iterable[Body]:
        time.sleep(4.0)
        return [[b"done", *body]]

    with first(broker.endpoint, "long", serve) as worker, Client01(broker.endpoint) as client:
        assert client.request("long", b"train", seconds=2.5, tries=3) == [b"done", b"train"]
        assert worker.requests == [[b"train"]]
        assert client.socket.poll(500) == 0


def test_equal_requests_of_different_clients_at_one_time_are_two_tasks(
    broker: BrokerDaemon,
) -> None:
    """Only what comes 2 s later or more is a resend."""
    with (
        Worker02(broker.endpoint, "mirror", _slowly) as worker,
        Client02(broker.endpoint) as one,
        Client02(broker.endpoint) as other,
    ):
        one.post("mirror", b"same")
        other.post("mirror", b"same")
        assert one.collect("mirror")[1] == other.collect("mirror")[1] == [b"same"]
        assert worker.requests == [[b"same"], [b"same"]]


def test_an_equal_request_of_the_same_client_is_a_second_one(broker: BrokerDaemon) -> None:
    with Worker02(broker.endpoint, "mirror", _slowly) as worker, Client02(broker.endpoint) as one:
        one.post("mirror", b"same")
        time.sleep(0.2)
        one.post("mirror", b"same")
        assert [one.collect("mirror")[1] for _ in range(2)] == [[b"same"], [b"same"]]
        assert len(worker.requests) == 2


def test_an_equal_request_after_the_reply_is_new_work(broker: BrokerDaemon) -> None:
    with Worker01(broker.endpoint, "mirror") as worker:
        for _ in range(2):
            with Client01(broker.endpoint) as client:
                assert client.request("mirror", b"same") == [b"same"]
            time.sleep(2.2)
        assert len(worker.requests) == 2


def _slowly(body: Body) -> Iterable[Body]:
    time.sleep(0.5)
    return [body]


def test_a_large_body_passes_both_ways(broker: BrokerDaemon) -> None:
    """Over 64 KiB a result leaves the journal and becomes a file; its client sees no difference."""
    large = bytes(range(256)) * 8_000
    for worker, client in itertools.product(WORKERS, CLIENTS):
        service = f"{worker.__name__}-{client.__name__}"
        with worker(broker.endpoint, service), client(broker.endpoint) as asking:
            assert asking.request(service, large, b"", b"tail") == [large, b"", b"tail"]


def test_no_worker_is_given_a_kind_that_it_does_not_serve(broker: BrokerDaemon) -> None:
    with Worker01(broker.endpoint, "a") as a, Worker02(broker.endpoint, "b") as b:
        with Client02(broker.endpoint) as client:
            for number in range(10):
                assert client.request("a", b"a%d" % number) == [b"a%d" % number]
                assert client.request("b", b"b%d" % number) == [b"b%d" % number]
            client.post("c", b"nobody's")
            assert client.is_silent(0.5)
        assert {body[0][:1] for body in a.requests} == {b"a"}
        assert {body[0][:1] for body in b.requests} == {b"b"}


def test_a_reply_that_is_json_stays_as_it_is(broker: BrokerDaemon) -> None:
    body = json.dumps({"x": [1, 2, {"y": None}]}).encode()
    with Worker02(broker.endpoint, "mirror"), Client01(broker.endpoint) as client:
        assert client.request("mirror", body) == [body]


def test_a_request_without_answer_is_silence(broker: BrokerDaemon) -> None:
    """Majordomo has no word for failure: clients time out."""
    with Client01(broker.endpoint) as client, pytest.raises(NoAnswer):
        client.request("nobody", b"", seconds=0.5)
