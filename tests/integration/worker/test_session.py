"""The worker and a broker that goes away, falls silent, comes back, or does not let it in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from corral import keys, wire
from corral.messages import Document, Finished, Welcome
from corral.wire import Beaten
from tests.integration.worker.conftest import Starter, Worker, alive, eventually, value
from tests.support.scripted_broker import ScriptedBroker, item, token_of


def beats(broker: ScriptedBroker) -> int:
    return sum(isinstance(message, Beaten) for message in broker.heard)


def test_the_agent_beats_while_its_attempts_hog_every_core(
    worker: Worker, broker: ScriptedBroker
) -> None:
    for number in (1, 2):
        broker.assign("spin", item(number, {"seconds": 3.0}))
    broker.started(1)
    broker.heard.clear()
    broker.listen(2.5)
    assert 3 <= beats(broker) <= 6  # one in half a second


def test_silence_leads_to_a_new_connection_and_what_runs_goes_on(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("sleep", item(1, {"seconds": 6.0}), item(2, {"seconds": 0.0}))
    broker.started(1)
    first = broker.peer
    broker.beating = False
    document = broker.wait_for(Document)
    assert broker.peer != first
    assert document.inflight == [token_of(1), token_of(2)]
    broker.beating = True
    broker.say(Welcome(1, 0.5, 2.0, time.time(), document.inflight))
    one, two = broker.ended(1, 2)
    assert (one.outcome, two.outcome) == ("ok", "ok")
    assert one.seconds == pytest.approx(6.0, abs=1.0)


def test_disconnect_leads_to_ready_again_on_a_new_socket(
    worker: Worker, broker: ScriptedBroker
) -> None:
    assert broker.document is not None
    before = broker.document
    first = broker.peer
    began = time.monotonic()
    broker.send(wire.disconnect())
    document = broker.welcome()
    assert broker.peer != first
    assert (document.incarnation, document.session) == (before.incarnation, before.session + 1)
    assert time.monotonic() - began < 1.5
    broker.assign("echo", item(1))
    broker.ended(1)


def test_a_broker_that_comes_back_finds_what_ran_and_what_ended_meanwhile(
    start: Starter, broker: ScriptedBroker, context: zmq.Context[Any]
) -> None:
    worker = start("--slots", "2")
    broker.welcome()
    broker.assign("sleep", item(1, {"seconds": 1.0}))
    broker.assign("sleep", item(2, {"seconds": 8.0}))
    broker.started(1)
    broker.started(2)
    broker.close()
    spool = worker.folder / "spool" / "w1"
    eventually(lambda: list(spool.glob("*.results")), "the result is not on disk")
    again = ScriptedBroker(context, port=broker.port)
    try:
        document = again.welcome()
        assert sorted(document.inflight) == [token_of(1), token_of(2)]
        one, two = again.ended(1, 2)
        assert (one.outcome, two.outcome) == ("ok", "ok")
        assert two.seconds == pytest.approx(8.0, abs=1.0)  # the same attempt, not a second one
        again.listen(0.2)
        assert list(spool.iterdir()) == []
    finally:
        again.close()


def test_what_is_not_adopted_stops(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("stubborn", item(1, {"seconds": 60}))
    broker.started(1)
    (child,) = worker.children()
    broker.send(wire.disconnect())
    document = broker.welcome(adopted=[])
    assert document.inflight == [token_of(1)]
    assert broker.ended(1)[0].outcome == "cancelled"
    assert not alive(child.pid)


def test_results_are_sent_again_until_they_are_acknowledged(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.acking = False
    broker.assign("echo", item(1, {"x": 1}))
    first = broker.wait_for(Finished)
    broker.send(wire.disconnect())
    broker.welcome()
    broker.acking = True
    again = broker.wait_for(Finished)
    assert again.seq == first.seq
    assert value(again.items[0]) == {"x": 1}
    broker.listen(0.1)
    broker.send(wire.disconnect())
    assert broker.welcome().inflight == []


def test_the_next_broker_of_the_list_is_tried(start: Starter, broker: ScriptedBroker) -> None:
    with zmq.Context() as nobody:
        socket = nobody.socket(zmq.ROUTER)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        socket.close(0)
    start(to=f"tcp://127.0.0.1:{port},{broker.endpoint}")
    broker.welcome()


def test_a_broker_that_answers_nothing_is_left_for_the_next(
    start: Starter, broker: ScriptedBroker, context: zmq.Context[Any]
) -> None:
    silent: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    try:
        port = silent.bind_to_random_port("tcp://127.0.0.1")
        worker = start(to=f"tcp://127.0.0.1:{port},{broker.endpoint}")
        broker.welcome()
        assert "the broker was silent for 10 s" in worker.log
    finally:
        silent.close(0)


def test_a_broker_that_is_not_there_yet_is_found_later(
    start: Starter, context: zmq.Context[Any], broker: ScriptedBroker
) -> None:
    broker.close()
    start()
    time.sleep(2.0)
    late = ScriptedBroker(context, port=broker.port)
    try:
        late.welcome()
    finally:
        late.close()


# --- keys -----------------------------------------------------------------------------------


class Gate:
    """A broker behind CURVE, and the keys that it lets in."""

    def __init__(self) -> None:
        self.pair = keys.new_pair()
        self.known: set[str] = set()
        self.context: zmq.Context[Any] = zmq.Context()
        self.authenticator = ThreadAuthenticator(self.context)
        self.authenticator.start()
        self.authenticator.configure_curve_callback("corral", credentials_provider=self)
        self.broker = ScriptedBroker(self.context, setup=self._secure)

    def _secure(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self.pair.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, "corral")

    def callback(self, domain: str, key: bytes) -> bool:
        return key.decode() in self.known

    def close(self) -> None:
        self.broker.close()
        self.authenticator.stop()
        self.context.destroy(0)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.close()


def test_a_key_that_is_refused_is_told_clearly_and_works_once_it_is_known(
    gate: Gate, start: Starter, tmp_path: Any
) -> None:
    key = keys.new_key("w1", "worker", gate.pair.public)
    keys.write(tmp_path / "w1.key", key)
    worker = start("--key", str(tmp_path / "w1.key"), to=gate.broker.endpoint)
    eventually(lambda: "refused the key w1" in worker.log, "nothing is said of the refusal")
    assert "corral keys list" in worker.log
    gate.known.add(key.public)
    gate.broker.welcome()
    gate.broker.assign("echo", item(1, {"x": 1}))
    assert value(gate.broker.ended(1)[0]) == {"x": 1}


def test_a_broker_that_wants_a_key_says_so(gate: Gate, start: Starter) -> None:
    worker = start(to=gate.broker.endpoint)
    eventually(lambda: "wants a key: give one with --key" in worker.log, "nothing is said")
