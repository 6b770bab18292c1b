"""Malformed and hostile messages over real sockets, while a canary task is answered all the time.

The same messages as in tests/unit/test_fuzz.py, here to a broker process with its store, its
sockets and a real worker.
"""

from __future__ import annotations

import itertools
import random
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from broker.server import Server
from broker.store.sqlite import SqliteStore
from corral import Client, wire
from corral.messages import BrokerView, List, Refused, Status
from corral.settings import BrokerSettings
from tests.evidence import Evidence
from tests.support.daemon import BrokerDaemon, environment
from tests.support.malformed import malformed

MESSAGES = 5_000
PEERS = 30
MIB = 1 << 20


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerDaemon]:
    with BrokerDaemon(tmp_path / "broker") as daemon:
        yield daemon


@pytest.fixture
def worker(broker: BrokerDaemon, tmp_path: Path) -> Iterator[None]:
    command = [
        str(Path(sys.executable).with_name("corral-worker")), "--broker", broker.endpoint,
        "--name", "canary", "--slots", "1", "--data", str(tmp_path / "worker"),
    ]  # fmt: skip
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    yield
    process.terminate()
    process.wait(60)


class Canary(threading.Thread):
    """Submits one task after the other and waits for each result."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self.stopping = threading.Event()
        self.sung = 0
        self.slowest = 0.0
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            with Client(self._endpoint) as client:
                while not self.stopping.is_set():
                    began = time.monotonic()
                    assert client.submit("echo", note=self.sung).result(timeout=30) == {
                        "note": self.sung
                    }
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    self.sung += 1
                    time.sleep(0.005)
        except BaseException as problem:  # told to the test
            self.problem = problem

    def wait_for(self, songs: int, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while self.sung < songs:
            if self.problem is not None:
                raise self.problem
            assert time.monotonic() < deadline, f"the canary sang {self.sung} times"
            time.sleep(0.02)


class Crowd:
    """Peers of every kind of socket that send what they are given and read what they get."""

    def __init__(self, endpoint: str, source: random.Random) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._endpoint = endpoint
        self._source = source
        self._peers = [self._connected() for _ in range(PEERS)]

    def _connected(self) -> zmq.Socket[bytes]:
        peer = self._context.socket(zmq.DEALER)
        peer.linger = 0
        if self._source.random() < 0.2:  # an id of its own choice, that others may choose as well
            peer.setsockopt(zmq.ROUTING_ID, self._source.choice((b"\x00\x01", b"w", b"x" * 255)))
        peer.connect(self._endpoint)
        return peer

    def send(self, frames: list[bytes]) -> None:
        place = self._source.randrange(PEERS)
        if self._source.random() < 0.01:
            self._peers[place].close()
            self._peers[place] = self._connected()
        peer = self._peers[place]
        if peer.poll(1000, zmq.POLLOUT):
            peer.send_multipart(frames or [b""])
        while peer.poll(0):
            peer.recv_multipart()

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        self._context.term()


def _junk(endpoint: str, source: random.Random) -> None:
    """A TCP connection that does not even speak ZMTP."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    hello = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00NULL"  # ZMTP 3.0's greeting begins so
    said = (b"GET / HTTP/1.1\r\n\r\n", source.randbytes(200), b"", hello, hello + b"\xff" * 99)
    with socket.create_connection((host, int(port)), 5) as raw:
        raw.sendall(source.choice(said))


def test_5_000_malformed_messages_beside_a_canary(
    broker: BrokerDaemon, worker: None, evidence: Evidence
) -> None:
    source = random.Random(5_000)
    canary, crowd = Canary(broker.endpoint), Crowd(broker.endpoint, source)
    canary.start()
    canary.wait_for(5)
    for number, frames in enumerate(itertools.islice(malformed(5_000), MESSAGES)):
        crowd.send(frames)
        if number % 50 == 0:
            _junk(broker.endpoint, source)
        if number % 500 == 0:
            canary.wait_for(canary.sung + 2)
        if number == MESSAGES // 5:
            warm = broker.memory()
    canary.wait_for(canary.sung + 20)
    grown = broker.memory() - warm
    canary.stopping.set()
    canary.join(60)
    crowd.close()
    assert canary.problem is None
    view = _status(broker)
    assert len(view.refused) >= 12
    assert sum(view.refused.values()) > MESSAGES // 2
    assert "Traceback" not in broker.log
    assert grown < 32 * MIB, f"{grown / MIB:.0f} MiB for {MESSAGES * 4 // 5} messages"
    assert canary.slowest < 5.0
    evidence.record(
        "malformed messages over sockets",
        messages=MESSAGES,
        canaries=canary.sung,
        slowest_canary_s=canary.slowest,
        grown_mib=grown / MIB,
    )
    broker.kill()
    broker.start()  # what was accepted among all that is read back
    with Client(broker.endpoint) as client:
        assert client.submit("echo", still="there").result(timeout=30) == {"still": "there"}
    broker.stop()
    fsck = [sys.executable, "-m", "broker", "fsck", "--data", str(broker.data)]
    assert subprocess.run(fsck, env=environment()).returncode == 0


def _status(broker: BrokerDaemon) -> BrokerView:
    with Client(broker.endpoint) as client:
        return client.status()


class Named:
    """A connection in the bytes of ZMTP 3.0, that chooses its routing id and its moment."""

    GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)

    def __init__(self, endpoint: str, name: bytes) -> None:
        host, _, port = endpoint.removeprefix("tcp://").partition(":")
        self._socket = socket.create_connection((host, int(port)), 5)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(self.GREETING)
        self._read(64)
        self._read(self._read(2)[1])  # the broker is ready, and waits
        properties = ((b"Socket-Type", b"DEALER"), (b"Identity", name))
        ready = b"\x05READY" + b"".join(
            bytes([len(key)]) + key + len(value).to_bytes(4, "big") + value
            for key, value in properties
        )
        self.ready = bytes([4, len(ready)]) + ready

    def _read(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            heard += self._socket.recv(count - len(heard)) or pytest.fail("it hung up")
        return heard

    def send(self, *what: bytes) -> None:
        self._socket.sendall(b"".join(what))

    def close(self) -> None:
        self._socket.close()


def test_peers_of_one_name_that_come_in_the_middle_of_a_message(broker: BrokerDaemon) -> None:
    """Where names are handed over, libzmq 4.3.5 reads on at another peer, or aborts (adr/0010)."""
    frames = b"\x01\x01x" * 2_999 + b"\x00\x01x"  # one message, longer than a look for commands
    for number in range(20):  # with handover, two of three end the broker
        name = b"name %d" % number
        bystander, first = Named(broker.endpoint, b""), Named(broker.endpoint, name)
        others = [Named(broker.endpoint, name) for _ in range(8)]
        for peer in (bystander, first):
            peer.send(peer.ready)
        time.sleep(0.02)
        for peer in (bystander, first):
            peer.send(frames)
        for peer in others:
            time.sleep(0.001)
            peer.send(peer.ready, frames)
        time.sleep(0.05)
        for peer in (bystander, first, *others):
            peer.close()
        assert broker.alive, broker.log
    assert _status(broker).refused["header"] >= 40  # the two who had their name first were heard


def test_peers_that_ask_for_too_much_and_vanish_do_not_end_the_broker(
    broker: BrokerDaemon,
) -> None:
    """ZMTP's own heartbeats are not for a broker.

    libzmq 4.3.5 aborts the process (issues 4364 and 4767) when the timer of its heartbeat fires for
    a peer that has gone while messages of it beyond the high-water mark were still unread.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    greedy = [context.socket(zmq.DEALER) for _ in range(8)]
    with Client(broker.endpoint) as client:
        try:
            began = time.monotonic()
            for peer in greedy:
                peer.set_hwm(0)
                peer.linger = 0
                peer.connect(broker.endpoint)
            for number in range(600):
                greedy[0].send_multipart([b"MDPC02", b"\x01", b"nobody", b"%d" % number])
            _wait_for(lambda: client.status().tasks.get("queued") == 600)
            time.sleep(max(0.0, began + 4.3 - time.monotonic()))
            dear = wire.call(List(b"request", limit=600))
            for _ in range(3_000):
                for peer in greedy:
                    peer.send_multipart(dear)
            time.sleep(0.1)
        finally:
            for peer in greedy:
                peer.close()
            context.term()
        while time.monotonic() < began + 8.0:  # a timer of 5 s would have come meanwhile
            assert broker.alive, broker.log
            assert client.status().tasks["queued"] == 600
            time.sleep(0.1)


def test_a_broker_has_as_many_open_files_as_it_may(tmp_path: Path) -> None:
    """Each peer is one: those of a shell's soft limit would be used up by a thousand."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))
    try:
        with BrokerDaemon(tmp_path / "broker") as broker:
            assert resource.prlimit(broker.pid, resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


def test_a_defect_in_a_question_is_answered_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    store = SqliteStore(tmp_path)
    store.lead("test")
    server = Server(BrokerSettings(), "tcp://127.0.0.1:*", store, tmp_path)
    monkeypatch.setattr(server.queries, "answer", broken)
    with server.context.socket(zmq.DEALER) as peer:
        peer.connect(server.endpoint)
        for request in (b"one", b"two"):
            peer.send_multipart(wire.call(Status(request)))
            while not peer.poll(10):
                server.turn(10)
            (answer,) = wire.heard_by_client(peer.recv_multipart())
            assert isinstance(answer, Refused)
            assert (answer.request, answer.code) == (request, "error")
            assert "a defect" in answer.fields["what"]
        peer.linger = 0
    server.close()
    server.context.term()
    assert "corral.status failed" in caplog.text


def _wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
