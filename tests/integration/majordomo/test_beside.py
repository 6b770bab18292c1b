"""Plain Majordomo peers beside Corral's own client and worker, on one broker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from corral import Client, Task
from corral.errors import NoLog, UnknownKind
from tests.integration.majordomo import peers
from tests.integration.majordomo.peers import Body, Client01, Client02, Worker01, Worker02, mmi
from tests.integration.majordomo.test_mmi import settles
from tests.support.daemon import BrokerDaemon, environment

PLAIN = pytest.mark.parametrize("kind", [Client01, Client02], ids=lambda cls: cls.__name__)
WORKERS = pytest.mark.parametrize("worker", [Worker01, Worker02], ids=lambda cls: cls.__name__)


@pytest.fixture
def agent(broker: BrokerDaemon, tmp_path: Path) -> Iterator[None]:
    """Corral's own worker, with two slots."""
    command = [
        str(Path(sys.executable).with_name("corral-worker")), "--broker", broker.endpoint,
        "--name", "agent", "--slots", "2", "--data", str(tmp_path / "agent"),
    ]  # fmt: skip
    with (tmp_path / "agent.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    try:
        with Client02(broker.endpoint) as client:
            assert settles(client, "mmi.service", "echo", "200")
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def native(broker: BrokerDaemon) -> Iterator[Client]:
    with Client(broker.endpoint) as client:
        yield client


@PLAIN
def test_a_plain_client_is_served_by_corrals_worker(
    broker: BrokerDaemon, agent: None, kind: type[peers.Client]
) -> None:
    with kind(broker.endpoint) as client:
        assert client.request("echo", b"raw", b"", b"frames") == [b"raw", b"", b"frames"]
        (seconds,) = client.request("sleep", b'{"seconds": 0.05}')
        assert 0.05 <= json.loads(seconds) < 5


@WORKERS
def test_corrals_client_is_served_by_a_plain_worker(
    broker: BrokerDaemon, native: Client, worker: type[peers.Worker]
) -> None:
    """Params travel as one JSON frame; the frames of the reply are the result."""

    def serve(body: Body) -> Iterable[Body]:
        return [[json.dumps({"got": json.loads(body[0])}).encode()]]

    with worker(broker.endpoint, "plain", serve), Client02(broker.endpoint) as client:
        assert settles(client, "mmi.service", "plain", "200")
        handle = native.submit("plain", x=1, y=["a", None])
        (frame,) = handle.result(timeout=20)
        assert json.loads(frame) == {"got": {"x": 1, "y": ["a", None]}}
        with pytest.raises(NoLog, match="plain Majordomo"):
            next(native.logs(handle.id))


def test_many_of_both_kinds_at_once(broker: BrokerDaemon, agent: None, native: Client) -> None:
    with (
        Worker01(broker.endpoint, "mirror"),
        Worker02(broker.endpoint, "mirror"),
        Client02(broker.endpoint) as client,
    ):
        assert settles(client, "mmi.service", "mirror", "200")
        handles = native.submit_many([Task("echo", {"i": i}) for i in range(200)])
        for number in range(100):
            client.post("echo", b"echo%d" % number)
            client.post("mirror", b"mirror%d" % number)
        wanted = {b"%s%d" % (s, n) for s in (b"echo", b"mirror") for n in range(100)}
        while wanted:
            frames = client.receive(20)
            assert frames[:2] == [b"MDPC02", b"\x03"]
            wanted.remove(frames[3])
        results = {handle.id: outcome for handle, outcome in native.results(handles)}
        assert len(results) == 200


def test_workers_of_every_sort_are_listed(
    broker: BrokerDaemon, agent: None, native: Client
) -> None:
    with Worker01(broker.endpoint, "a"), Worker02(broker.endpoint, "b"):
        with Client02(broker.endpoint) as client:
            assert settles(client, "mmi.service", "a", "200")
            assert settles(client, "mmi.service", "b", "200")
            assert json.loads(mmi(client, "mmi.workers", "echo")[1][0]) == ["agent"]
        kinds = {tuple(view.kinds) for view in native.workers() if view.name != "agent"}
        assert kinds == {("a",), ("b",)}
        assert {view.dialect for view in native.workers()} == {"MDP/0.1", "MDP/0.2", "native"}


def test_a_plain_request_can_be_watched_and_cancelled(broker: BrokerDaemon, native: Client) -> None:
    """It is a task like any other."""
    with Client02(broker.endpoint) as client:
        client.post("nobody", b"body")
        deadline = time.monotonic() + 10
        while not (tasks := native.tasks(kind="nobody")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [task.state for task in tasks] == ["queued"]
        assert native.cancel([tasks[0].id]).changed == [tasks[0].id]
        with Worker02(broker.endpoint, "nobody"):
            assert client.is_silent(0.5)


def test_a_kind_that_nobody_announced_is_refused_to_corrals_client_alone(
    broker: BrokerDaemon, native: Client
) -> None:
    with pytest.raises(UnknownKind):
        native.submit("nobody")
