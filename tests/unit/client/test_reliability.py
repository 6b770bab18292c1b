"""What a client makes of silence, restarts, lost pushes, and brokers that refuse its key."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from corral import Client, Task, keys, messages
from corral.client import engine
from corral.errors import BadConfig, BrokerUnreachable, KeyMismatch, KeyRefused
from corral.messages import Answer, Call, Outcomes, Results, Submit, Workers, WorkersAre
from corral.tasks import request_id
from tests.unit.client.scripted import ScriptedBroker, accept, done, echo, wait_for


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 0.3)
    monkeypatch.setattr(engine, "TICK", 0.02)
    monkeypatch.setattr(engine, "QUIET", 0.3)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_an_unanswered_call_is_sent_again_with_the_same_request_on_a_new_socket(
    impatient: None,
) -> None:
    def script(call: Call) -> list[Answer] | None:
        return None if len(broker.calls) == 1 else list(echo(call))

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        handle = corral.submit("echo", i=1)
        first, second = broker.heard(Submit)
        assert isinstance(first, Submit)
        assert isinstance(second, Submit)
        assert first.request == second.request
        assert first.tasks[0].params == second.tasks[0].params
        assert (first.resend, second.resend) == (False, True)
        assert broker.peers[0] != broker.peers[1]
        assert handle.id == request_id(first.request, 0)
        assert handle.result(5) == {"i": 1}


def test_params_that_change_later_do_not_change_what_is_sent_again(impatient: None) -> None:
    params = {"i": 1}

    def script(call: Call) -> list[Answer] | None:
        params["i"] = 2
        return None if len(broker.calls) == 1 else list(echo(call))

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        assert corral.submit_task(Task("echo", params)).result(5) == {"i": 1}


def test_nobody_there_is_broker_unreachable_and_names_the_endpoints() -> None:
    one, other = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    with Client([one, other], timeout=0.5) as corral:
        began = time.monotonic()
        with pytest.raises(BrokerUnreachable, match=rf"{one}, {other} within 0\.5 s"):
            corral.submit("echo")
        assert 0.4 < time.monotonic() - began < 3
        with pytest.raises(BrokerUnreachable):
            corral.status()


def test_a_broker_that_hears_and_never_answers_is_unreachable(impatient: None) -> None:
    with ScriptedBroker(lambda _: None) as broker, Client(broker.endpoint, timeout=1) as corral:
        with pytest.raises(BrokerUnreachable):
            corral.submit("echo")
        assert len({call.request for call in broker.heard(Submit)}) == 1


def test_a_call_that_takes_long_is_waited_for_while_the_broker_says_so(impatient: None) -> None:
    copy = messages.BackupView(path="/there", bytes=1, tasks=2, seconds=3.0)
    with ScriptedBroker(lambda _: None) as broker, Client(broker.endpoint, timeout=1) as corral:
        told: list[object] = []
        waits = threading.Thread(target=lambda: told.append(corral.backup()))
        waits.start()
        wait_for(lambda: broker.calls)
        request = broker.calls[0].request
        broker.push(messages.Underway(b"nobody's"))
        for _ in range(40):  # more than three times the timeout
            broker.push(messages.Underway(request))
            time.sleep(0.1)
        assert not told
        broker.push(messages.BackedUp(request, copy))
        waits.join()
        assert told == [copy]
        assert len(broker.calls) == 1  # and it was not asked again


def test_calls_made_before_the_broker_starts_reach_it() -> None:
    port = free_port()
    with Client(f"tcp://127.0.0.1:{port}", timeout=10) as corral:
        late = threading.Timer(0.4, lambda: brokers.append(ScriptedBroker(echo, port)))
        brokers: list[ScriptedBroker] = []
        late.start()
        assert corral.submit("echo", i=1).result(5) == {"i": 1}
        late.join()
        brokers[0].stop()


def test_the_next_endpoint_is_tried_when_the_first_is_dead() -> None:
    with ScriptedBroker(echo) as broker:
        endpoints = f"tcp://127.0.0.1:{free_port()},{broker.endpoint}"
        with Client(endpoints, timeout=5) as corral:
            assert corral.submit("echo", i=1).result(5) == {"i": 1}


def test_the_next_endpoint_is_tried_when_the_first_is_frozen(impatient: None) -> None:
    with socket.socket() as frozen, ScriptedBroker(echo) as broker:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen()
        endpoints = [f"tcp://127.0.0.1:{frozen.getsockname()[1]}", broker.endpoint]
        with Client(endpoints, timeout=5) as corral:
            assert corral.submit("echo", i=1).result(5) == {"i": 1}


def test_outcomes_survive_a_restart_of_the_broker() -> None:
    first = ScriptedBroker(lambda call: [accept(call)])
    with Client(first.endpoint) as corral:
        handles = [corral.submit("echo") for _ in range(3)]
        first.push(Outcomes(b"", [done(handles[0].id, 0)]))
        assert handles[0].result(5) == 0
        first.stop()

        def script(call: Call) -> list[Answer]:
            assert isinstance(call, Results)
            return [Outcomes(call.request, [done(id, "late") for id in call.ids], last=True)]

        with ScriptedBroker(script, first.port) as second:
            assert [handle.result(10) for handle in handles] == [0, "late", "late"]
            (asked,) = second.heard(Results)
            assert isinstance(asked, Results)
            assert asked.wait
            assert asked.ids == [handles[1].id, handles[2].id]


def test_submissions_survive_a_restart_in_the_middle(impatient: None) -> None:
    port = free_port()
    silent = ScriptedBroker(lambda _: None, port)
    with Client(silent.endpoint, timeout=10) as corral:
        work: list[int] = []

        def submit() -> None:
            handles = corral.submit_many((Task("echo", {"i": i}) for i in range(20)), batch=1)
            work.extend(handle.result(5)["i"] for handle in handles)

        thread = threading.Thread(target=submit)
        thread.start()
        wait_for(lambda: len(silent.calls) >= 20)
        silent.stop()
        with ScriptedBroker(echo, port) as broker:
            thread.join(10)
            assert work == list(range(20))
            heard = broker.heard(Submit)
            assert len(heard) == 20
            assert all(isinstance(call, Submit) and call.resend for call in heard)


def test_an_outcome_whose_push_was_lost_is_asked_for(impatient: None) -> None:
    def script(call: Call) -> list[Answer]:
        if isinstance(call, Submit):
            return [accept(call)]
        assert isinstance(call, Results)
        assert not call.wait
        return [Outcomes(call.request, [done(id, "asked") for id in call.ids], last=True)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        assert corral.submit("echo").result(5) == "asked"


def test_an_outcome_whose_push_was_lost_is_asked_for_though_the_broker_answers_other_calls(
    impatient: None,
) -> None:
    def script(call: Call) -> list[Answer]:
        if isinstance(call, Submit):
            return [accept(call)]
        if isinstance(call, Workers):
            return [WorkersAre(call.request, [])]
        assert isinstance(call, Results)
        return [Outcomes(call.request, [done(id, "asked") for id in call.ids], last=True)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        handle = corral.submit("echo")
        over = threading.Event()

        def chat() -> None:
            while not over.wait(0.05):
                corral.workers()

        chatting = threading.Thread(target=chat)
        chatting.start()
        try:
            assert handle.result(5) == "asked"
        finally:
            over.set()
            chatting.join()


def test_a_broker_that_lost_track_of_who_waits_is_asked_again() -> None:
    def script(call: Call) -> list[Answer]:
        if isinstance(call, Submit):
            return [accept(call)]
        assert isinstance(call, Results)
        assert call.wait
        if len(broker.heard(Results)) == 1:
            return [Outcomes(call.request, [])]
        return [Outcomes(call.request, [done(id, "asked") for id in call.ids], last=True)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        mine, other = corral.submit("echo"), corral.handle("somebody-else-s")
        with ThreadPoolExecutor() as pool:
            results = [pool.submit(handle.result, 5) for handle in (mine, other)]
            wait_for(lambda: broker.heard(Results))
            broker.push(Outcomes(b"", [], last=True))
            assert [result.result() for result in results] == ["asked", "asked"]
        asked = broker.heard(Results)[-1]
        assert isinstance(asked, Results)
        assert set(asked.ids) == {mine.id, other.id}


def test_garbage_from_the_broker_changes_nothing(impatient: None) -> None:
    def script(call: Call) -> list[Answer]:
        assert isinstance(call, Submit)
        strange: list[Answer] = [
            Outcomes(b"", [done("nobody's")]),
            Outcomes(b"none", [], last=True),
            type(accept(call))(b"another request"),
        ]
        return [*strange, *echo(call), *strange]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        assert corral.submit("echo", i=1).result(5) == {"i": 1}


def to_the_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def to_a_thread_that_does_not_wait() -> None:
    """Nor does a signal interrupt the wait that came just before it began."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


@pytest.mark.parametrize("sent", [to_the_process, to_a_thread_that_does_not_wait])
def test_ctrl_c_while_it_waits_leaves_the_client_usable(sent: Callable[[], None]) -> None:
    def script(call: Call) -> list[Answer]:
        threading.Timer(0.2, sent).start()
        return [accept(call)]

    with ScriptedBroker(script) as broker, Client(broker.endpoint) as corral:
        handle = corral.submit("sleep")
        with pytest.raises(KeyboardInterrupt):
            handle.result()
        broker.push(Outcomes(b"", [done(handle.id, "ended")]))
        assert handle.result(5) == "ended"


# --- keys -------------------------------------------------------------------------------


class Door:
    """A CURVE server on loopback, and who may come in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = keys.enrol(folder, "ann", "client", now=0.0)
        self.pair = msgspec.json.decode((folder / keys.BROKER_FILE).read_bytes(), type=keys.Pair)
        self.allowed = {self.key.public.encode()}
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.authenticator = ThreadAuthenticator(self.context)
        self.authenticator.start()
        self.authenticator.configure_curve_callback("corral", self)

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self.allowed

    def prepare(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self.pair.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, "corral")

    def broker(self, port: int = 0) -> ScriptedBroker:
        return ScriptedBroker(echo, port, self.context, self.prepare)

    def file(self, name: str, key: keys.KeyFile) -> Path:
        keys.write(self.folder / name, key)
        return self.folder / name


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path / "keys")
    yield door
    door.authenticator.stop()
    door.context.destroy(linger=0)


def test_a_known_key_comes_in(door: Door) -> None:
    with door.broker() as broker, Client(broker.endpoint, key=door.file("a.key", door.key)) as ann:
        assert ann.submit("echo", i=1).result(5) == {"i": 1}


def test_an_unknown_key_is_refused_at_once(door: Door) -> None:
    stranger = keys.new_key("bob", "client", door.key.broker)
    with door.broker() as broker, Client(broker.endpoint, key=door.file("b.key", stranger)) as bob:
        began = time.monotonic()
        with pytest.raises(KeyRefused, match=broker.endpoint) as caught:
            bob.status()
        assert time.monotonic() - began < 3
        assert caught.value.exit_status == 4
        with pytest.raises(KeyRefused):
            bob.submit("echo")
        assert not broker.calls


def test_a_key_that_was_revoked_is_refused_after_the_broker_dropped_it(door: Door) -> None:
    broker = door.broker()
    with Client(broker.endpoint, key=door.file("a.key", door.key)) as ann:
        assert ann.submit("echo", i=1).result(5) == {"i": 1}
        door.allowed.clear()
        broker.stop()
        with door.broker(broker.port), pytest.raises(KeyRefused):
            ann.submit("echo")


def test_a_client_without_a_key_is_told_that_it_needs_one(door: Door) -> None:
    with (
        door.broker() as broker,
        Client(broker.endpoint) as nobody,
        pytest.raises(KeyMismatch, match="it wants a key"),
    ):
        nobody.status()


def test_a_key_for_a_broker_that_has_none(door: Door) -> None:
    with (
        ScriptedBroker(echo) as broker,
        Client(broker.endpoint, key=door.file("a.key", door.key)) as ann,
        pytest.raises(KeyMismatch, match="it runs without keys"),
    ):
        ann.status()


def test_a_key_of_another_broker(door: Door, tmp_path: Path) -> None:
    other = keys.enrol(tmp_path / "other", "ann", "client", now=0.0)
    with (
        door.broker() as broker,
        Client(broker.endpoint, key=door.file("o.key", other)) as ann,
        pytest.raises(KeyMismatch, match="made for another broker"),
    ):
        ann.status()


def test_a_key_file_that_is_missing_or_open_to_others(door: Door) -> None:
    path = door.file("a.key", door.key)
    path.chmod(0o644)
    with pytest.raises(BadConfig, match="chmod it to 600"):
        Client("tcp://127.0.0.1:1", key=path)
    with pytest.raises(BadConfig, match="cannot be read"):
        Client("tcp://127.0.0.1:1", key=path.with_name("none.key"))
