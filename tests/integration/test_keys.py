"""Keys on a running broker: who may do what, and what becomes of those whose key is revoked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from corral import Client, keys
from corral.errors import KeyMismatch, KeyRefused, NotAllowed
from corral.keys import KeyFile
from tests.support.daemon import BrokerDaemon, environment

BIN = Path(sys.executable).parent
Done = subprocess.CompletedProcess[str]


class House:
    """A broker that wants keys, its operator, and whoever else is let in."""

    def __init__(self, folder: Path, bind: str = "tcp://127.0.0.1:*") -> None:
        self.folder = folder
        self.keys = folder / "keys"
        self.operator = folder / "operator.key"
        done = self.corral("keys", "new", "--keys", self.keys, "--out", self.operator)
        assert done.returncode == 0, done.stderr
        self.broker = BrokerDaemon(folder / "broker", bind, ("--keys", self.keys))
        self.broker.start()
        self.processes: list[subprocess.Popen[bytes]] = []

    def corral(self, *command: str | Path, key: Path | None = None) -> Done:
        """Run a command of the command line, with somebody's key."""
        variables = environment()
        if hasattr(self, "broker"):
            variables["CORRAL_BROKER"] = self.broker.endpoint
        if key is not None:
            variables["CORRAL_KEY"] = str(key)
        return subprocess.run(
            [BIN / "corral", *command], env=variables, capture_output=True, text=True, timeout=60
        )

    def enrol(self, name: str, role: str) -> Path:
        """A key file that the running broker knows."""
        path = self.folder / f"{name}.key"
        done = self.corral(
            "keys", "new", "--name", name, "--role", role, "--out", path, key=self.operator
        )
        assert done.returncode == 0, done.stderr
        return path

    def client(self, key: Path) -> Client:
        return Client(self.broker.endpoint, key=str(key))

    def worker(self, name: str, key: Path) -> subprocess.Popen[bytes]:
        command = [
            str(BIN / "corral-worker"), "--broker", self.broker.endpoint, "--name", name,
            "--slots", "1", "--data", str(self.folder / name),
        ]  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            variables = {**environment(), "CORRAL_KEY": str(key)}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(30)
        if self.broker.alive:
            self.broker.stop()


def test_no_key_is_made_behind_a_running_broker(house: House) -> None:
    out = house.folder / "ann.key"
    made = ("keys", "new", "--keys", house.keys, "--role", "client", "--name", "ann", "--out", out)
    refused = house.corral(*made)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"--key {house.keys / 'operator.key'}" in refused.stderr
    assert not out.exists()
    house.broker.stop()
    assert house.corral(*made).returncode == 0
    house.broker.start()
    with house.client(out) as client:
        assert client.submit("echo").id


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


# --- what each role may do --------------------------------------------------------------


def test_a_client_submits_cancels_and_looks_and_no_more(house: House) -> None:
    ann, w1 = house.enrol("ann", "client"), house.enrol("w1", "worker")
    house.worker("w1", w1)
    with house.client(ann) as client:
        until(client.workers)
        handle = client.submit("echo", x=1)
        assert handle.result(timeout=20) == {"x": 1}
        assert client.show([handle.id])[0].state == "succeeded"
        long = client.submit("sleep", seconds=60)
        assert client.cancel([long.id]).changed == [long.id]
        for forbidden in (
            client.keys, client.backup, lambda: client.drain("w1"), lambda: client.resume("w1"),
        ):  # fmt: skip
            with pytest.raises(NotAllowed) as refused:
                forbidden()
            assert refused.value.fields["role"] == "client"
            assert refused.value.fields["who"] == "ann"
            assert refused.value.fields["needed"] == "operator"
        assert client.workers()[0].admission == "open"


def test_a_viewer_looks_and_changes_nothing(house: House) -> None:
    eve = house.enrol("eve", "viewer")
    with house.client(eve) as client:
        assert client.status().tasks.get("queued", 0) == 0
        assert client.tasks() == []
        assert client.workers() == []
        for forbidden in (
            lambda: client.submit("echo", x=1),
            lambda: client.cancel(["a"]),
            lambda: client.retry(["a"]),
        ):
            with pytest.raises(NotAllowed) as refused:
                forbidden()
            assert refused.value.fields["needed"] == "client"
        with pytest.raises(NotAllowed) as refused:
            client.backup()
        assert refused.value.fields["needed"] == "operator"
        assert not (house.broker.data / "backups").exists()
        assert sum(client.status().tasks.values()) == 0


def test_a_workers_key_is_no_clients(house: House) -> None:
    with house.client(house.enrol("w1", "worker")) as client, pytest.raises(NotAllowed) as refused:
        client.status()
    assert refused.value.exit_status == 4


def test_an_operator_does_everything(house: House) -> None:
    w1 = house.enrol("w1", "worker")
    house.worker("w1", w1)
    with house.client(house.operator) as client:
        until(client.workers)
        assert client.submit("echo", x=1).result(timeout=20) == {"x": 1}
        client.drain("w1", reason="maintenance")
        view = client.workers()[0]
        assert view.drained_by == "operator"
        client.resume("w1")
        assert client.backup(house.folder / "copy").tasks == 1
        assert (house.folder / "copy" / "store.db").exists()
        listed = client.keys()
        assert {key.name for key in listed} == {"operator", "w1"}


@pytest.mark.parametrize("role", ["client", "viewer", "operator"])
def test_only_a_workers_key_lets_a_worker_in(house: House, role: str) -> None:
    house.worker("w1", house.enrol("somebody", role))
    time.sleep(1.5)
    with house.client(house.operator) as client:
        assert client.workers() == []
        assert client.status().refused["not_allowed"] >= 1


# --- wrong keys -------------------------------------------------------------------------


def _file(path: Path, key: KeyFile) -> Path:
    keys.write(path, key)
    return path


def test_a_key_that_nobody_added_ends_with_4(house: House) -> None:
    broker = keys.read(house.operator).broker
    stranger = _file(house.folder / "stranger.key", keys.new_key("stranger", "client", broker))
    done = house.corral("worker", "list", key=stranger)
    assert done.returncode == 4
    assert "refused this key" in done.stderr
    assert "corral keys add" in done.stderr
    with house.client(stranger) as client, pytest.raises(KeyRefused):
        client.status()


def test_the_key_file_of_another_broker_ends_with_4(house: House) -> None:
    other = keys.new_key("ann", "client", keys.new_pair().public)
    path = _file(house.folder / "other.key", other)
    done = house.corral("worker", "list", key=path)
    assert done.returncode == 4, done.stderr
    with house.client(path) as client, pytest.raises(KeyMismatch):
        client.status()


def test_no_key_at_all_ends_with_4(house: House) -> None:
    done = house.corral("worker", "list")
    assert done.returncode == 4, done.stderr
    assert "CORRAL_KEY" in done.stderr


# --- the command line on a running broker -----------------------------------------------


def test_keys_are_added_listed_and_revoked_while_the_broker_runs(house: House) -> None:
    ann = house.enrol("ann", "client")
    assert oct(ann.stat().st_mode & 0o777) == "0o600"
    assert house.corral("task", "list", key=ann).returncode == 0

    made = keys.new_key("bob", "viewer", keys.read(ann).broker)
    bob = _file(house.folder / "bob.key", made)
    assert house.corral("task", "list", key=bob).returncode == 4
    done = house.corral(
        "keys", "add", made.public, "--role", "viewer", "--name", "bob", key=house.operator
    )
    assert done.returncode == 0, done.stderr
    assert house.corral("task", "list", key=bob).returncode == 0

    listed = house.corral("keys", "list", "-o", "json", key=house.operator)
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert {name: row["role"] for name, row in rows.items()} == {
        "operator": "operator", "ann": "client", "bob": "viewer",
    }  # fmt: skip
    assert keys.read(ann).secret not in listed.stdout

    assert house.corral("keys", "revoke", "bob", key=house.operator).returncode == 0
    done = house.corral("task", "list", key=bob)
    assert done.returncode == 4
    assert "revoked" in done.stderr
    rows = {
        row["name"]: row
        for row in json.loads(house.corral("keys", "list", "-o", "json", key=house.operator).stdout)
    }
    assert rows["bob"]["revoked"] is not None
    assert rows["ann"]["revoked"] is None


def test_the_command_line_says_what_went_wrong(house: House) -> None:
    ann = house.enrol("ann", "client")
    cases: list[tuple[tuple[str, ...], Path, int, str]] = [
        (("keys", "list"), ann, 4, "operator"),
        (("keys", "revoke", "ann"), ann, 4, "operator"),
        (("keys", "revoke", "nobody"), house.operator, 3, "corral keys list"),
        (("keys", "revoke", "operator"), house.operator, 2, "last operator"),
        (("keys", "add", "short", "--role", "client", "--name", "x"), house.operator, 2, "Z85"),
        (("keys", "new", "--name", "ann", "--role", "client", "--out", str(house.folder / "2.key")),
         house.operator, 2, "ann"),
    ]  # fmt: skip
    for command, key, status, text in cases:
        done = house.corral(*command, key=key)
        assert (done.returncode, text in done.stderr) == (status, True), (command, done.stderr)


def test_the_table_survives_the_broker(house: House) -> None:
    ann, bob = house.enrol("ann", "client"), house.enrol("bob", "client")
    house.corral("keys", "revoke", "bob", key=house.operator)
    house.broker.kill()
    house.broker.start()
    assert house.corral("task", "list", key=ann).returncode == 0
    assert house.corral("task", "list", key=bob).returncode == 4


# --- revoking those who are connected ---------------------------------------------------


def test_a_revoked_client_is_shut_out_at_once(house: House) -> None:
    ann = house.enrol("ann", "client")
    with house.client(ann) as client, house.client(house.operator) as operator:
        assert client.tasks() == []
        operator.revoke_key("ann")
        with pytest.raises((KeyRefused, NotAllowed)) as refused:
            client.tasks()
        assert refused.value.exit_status == 4
        with pytest.raises((KeyRefused, NotAllowed)):
            client.submit("echo", x=1)
        assert operator.tasks() == []


def test_whoever_revokes_a_key_of_its_own_hears_that_it_is_done(house: House) -> None:
    old = house.enrol("old", "operator")
    done = house.corral("keys", "revoke", "old", key=old)
    assert done.returncode == 0, done.stderr
    assert house.corral("keys", "list", key=old).returncode == 4


def test_a_revoked_client_hears_no_result_and_one_that_is_let_in_again_does(house: House) -> None:
    ann, w1 = house.enrol("ann", "client"), house.enrol("w1", "worker")
    house.worker("w1", w1)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    plain = _plain(house, context, ann)
    with house.client(ann) as client, house.client(house.operator) as operator:
        until(operator.workers)
        secret = client.submit("echo", secret=1, after={"wait": client.submit("sleep", seconds=4)})
        plain.send_multipart([b"MDPC02", b"\x01", b"echo", b'{"secret": 2}'])
        until(lambda: len(operator.tasks()) == 3)
        operator.revoke_key("ann")
        with pytest.raises((KeyRefused, NotAllowed)):
            secret.result(timeout=30)
        until(lambda: {view.state for view in operator.tasks()} == {"succeeded"})
        assert not plain.poll(500)
        operator.add_key(keys.read(ann).public, "client", "ann")
        assert client.submit("echo", x=1).result(timeout=20) == {"x": 1}
    plain.close()
    context.term()


def test_a_revoked_workers_tasks_move_on(house: House) -> None:
    w1, w2 = house.enrol("w1", "worker"), house.enrol("w2", "worker")
    house.worker("w1", w1)
    with house.client(house.operator) as client:
        until(client.workers)
        handle = client.submit("sleep", seconds=4)
        until(lambda: client.show([handle.id])[0].worker == "w1")
        client.revoke_key("w1")
        until(lambda: client.show([handle.id])[0].state == "queued", 3.0)  # no lease holds
        house.worker("w2", w2)
        until(lambda: client.show([handle.id])[0].worker == "w2")
        assert handle.result(timeout=30) >= 4
        attempts = client.show([handle.id])[0].attempts
        assert [attempt.worker for attempt in attempts] == ["w1", "w2"]
        states = {view.name: view.status for view in client.workers()}
        assert states["w2"] == "available"
        assert states["w1"] == "unavailable"


def test_what_a_revoked_worker_still_says_changes_nothing(house: House) -> None:
    """Its child finishes; nobody takes the result from it, and the task runs again elsewhere."""
    w1, w2 = house.enrol("w1", "worker"), house.enrol("w2", "worker")
    house.worker("w1", w1)
    with house.client(house.operator) as client:
        until(client.workers)
        handle = client.submit("sleep", seconds=2)
        until(lambda: client.show([handle.id])[0].state == "running")
        client.revoke_key("w1")
        time.sleep(4.0)
        assert client.show([handle.id])[0].state in ("queued", "retrying")
        house.worker("w2", w2)
        assert handle.result(timeout=30) >= 2
        view = client.show([handle.id])[0]
        assert view.attempts[-1].worker == "w2"
        assert [attempt.outcome for attempt in view.attempts].count("ok") == 1


def test_a_key_that_is_added_again_works_again(house: House) -> None:
    w1 = house.enrol("w1", "worker")
    house.worker("w1", w1)
    with house.client(house.operator) as client:
        until(client.workers)
        client.revoke_key("w1")
        until(lambda: client.workers()[0].status not in ("available", "busy"))
        client.add_key(keys.read(w1).public, "worker", "w1")
        until(lambda: client.workers()[0].status == "available", 40.0)
        assert client.submit("echo", x=1).result(timeout=20) == {"x": 1}


# --- plain Majordomo peers with keys ----------------------------------------------------


def _plain(house: House, context: zmq.Context[zmq.Socket[bytes]], key: Path) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    keys.secure(socket, keys.read(key))
    socket.connect(house.broker.endpoint)
    return socket


def test_plain_majordomo_peers_come_in_with_keys_as_well(house: House) -> None:
    ann, eve, w1 = (
        house.enrol(name, role)
        for name, role in (("ann", "client"), ("eve", "viewer"), ("w1", "worker"))
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    client, viewer, worker = (_plain(house, context, key) for key in (ann, eve, w1))
    try:
        worker.send_multipart([b"MDPW02", b"\x01", b"mirror"])
        client.send_multipart([b"", b"MDPC01", b"mirror", b"body"])
        while (frames := _next(worker)) == [b"MDPW02", b"\x05"]:
            pass
        assert frames[:2] == [b"MDPW02", b"\x02"]
        worker.send_multipart([b"MDPW02", b"\x04", frames[2], b"", b"reply"])
        assert _next(client) == [b"", b"MDPC01", b"mirror", b"reply"]

        viewer.send_multipart([b"MDPC02", b"\x01", b"mmi.service", b"mirror"])
        assert _next(viewer)[-1] == b"200"
        viewer.send_multipart([b"MDPC02", b"\x01", b"mirror", b"body"])
        client.send_multipart([b"MDPW02", b"\x01", b"other"])  # a client cannot serve
        worker.send_multipart([b"MDPC02", b"\x01", b"mmi.service", b"other"])  # nor a worker ask
        with house.client(house.operator) as operator:
            until(lambda: operator.status().refused.get("not_allowed", 0) >= 3)
            assert operator.tasks(["queued", "running"]) == []
            assert {kind for view in operator.workers() for kind in view.kinds} <= {"mirror"}
    finally:
        for socket in (client, viewer, worker):
            socket.close()
        context.term()


def _next(socket: zmq.Socket[bytes]) -> list[bytes]:
    assert socket.poll(10_000), "nothing came"
    return socket.recv_multipart()


# --- starting ---------------------------------------------------------------------------


def _start(folder: Path, *options: str | Path) -> Done:
    return subprocess.run(
        [BIN / "corral-broker", "start", "--data", folder / "broker", *options],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:*", "tcp://*:*", "tcp://[::]:*"])
def test_beyond_loopback_a_broker_without_keys_does_not_start(tmp_path: Path, bind: str) -> None:
    done = _start(tmp_path, "--bind", bind)
    assert done.returncode == 2
    assert bind in done.stderr
    assert "corral keys new --keys DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "broker").exists() or not any((tmp_path / "broker").glob("*.db"))


@pytest.mark.parametrize(
    "bind", ["tcp://127.0.0.1:99999", "inproc://x", "127.0.0.1:5555", "ipc://"]
)
def test_what_is_no_endpoint_is_not_bound(tmp_path: Path, bind: str) -> None:
    done = _start(tmp_path, "--bind", bind)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"{bind!r} is no endpoint; write tcp://HOST:PORT" in done.stderr


def test_a_folder_without_keys_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    done = _start(tmp_path, "--bind", "tcp://127.0.0.1:*", "--keys", tmp_path / "keys")
    assert done.returncode == 2
    assert "broker.key" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.enrol(tmp_path / "keys", "ops", "operator", now=1.0)
    os.chmod(tmp_path / "keys" / keys.BROKER_FILE, 0o640)
    done = _start(tmp_path, "--bind", "tcp://127.0.0.1:*", "--keys", tmp_path / "keys")
    assert done.returncode == 2
    assert "chmod" in done.stderr


def test_with_keys_a_broker_may_listen_everywhere(tmp_path: Path) -> None:
    house = House(tmp_path, "tcp://0.0.0.0:*")
    try:
        house.broker.endpoint = house.broker.endpoint.replace("0.0.0.0", "127.0.0.1")
        ann = house.enrol("ann", "client")
        assert house.corral("task", "list", key=ann).returncode == 0
    finally:
        house.close()
