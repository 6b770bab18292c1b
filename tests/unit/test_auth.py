"""Keys, roles and the gate at the broker's socket, over real CURVE connections on loopback."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from broker.auth import (
    MAX_BOUND,
    Gate,
    Key,
    KeyTable,
    allowed,
    beyond_loopback,
    refusal,
    require_keys,
)
from corral import keys, messages, wire
from corral.errors import BadConfig, KeysRequired, NotFound, StoreFull, UnknownKey, Usage
from corral.messages import SERVICES, Document
from corral.wire import Called, Dialect

Zmq = zmq.Context[zmq.Socket[bytes]]


def new_key() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


# --- roles ------------------------------------------------------------------------------

READS = {
    "corral.results", "corral.show", "corral.list", "corral.explain", "corral.watch",
    "corral.unwatch", "corral.workers", "corral.status", "corral.logs", "corral.blob",
}  # fmt: skip
CHANGES = {"corral.submit", "corral.cancel", "corral.retry"}
OPERATES = {"corral.drain", "corral.resume", "corral.keys", "corral.backup"}
PLAIN = {"train_model", "titanic.request", "titanic.reply", "titanic.close"}
ASKS = {"mmi.service", "mmi.workers", "mmi.queue", "mmi.version", "mmi.unheard"}


def test_every_call_has_a_place_in_the_table_of_roles() -> None:
    assert set(SERVICES) == READS | CHANGES | OPERATES


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("viewer", READS | ASKS),
        ("client", READS | ASKS | CHANGES | PLAIN),
        ("operator", READS | ASKS | CHANGES | PLAIN | OPERATES),
        ("worker", set()),
        ("made-up", set()),
    ],
)
def test_a_role_may_do_this_and_nothing_else(role: str, may: set[str]) -> None:
    everything = READS | CHANGES | OPERATES | PLAIN | ASKS
    assert {service for service in everything if allowed(role, service)} == may


def _key(role: str) -> Key:
    return Key(public="p", role=role, name="ada", added=0.0)


WORKERS_SAY: list[wire.Inbound] = [
    wire.Readied(Dialect.MDP01, "echo", None),
    wire.Readied(Dialect.MDP02, "echo", Document(name="w", incarnation="1", kinds=[])),
    wire.Replied(Dialect.MDP02, b"t", [b""], final=True),
    wire.Extended(messages.Finished(1, [])),
    wire.Beaten(Dialect.MDP02),
    wire.Parted(Dialect.MDP01),
]


@pytest.mark.parametrize("message", WORKERS_SAY, ids=repr)
def test_only_a_workers_key_does_a_workers_part(message: wire.Inbound) -> None:
    assert refusal(_key("worker"), message) is None
    for role in set(keys.ROLES) - {"worker"}:
        refused = refusal(_key(role), message)
        assert refused is not None
        assert refused.fields["needed"] == "worker"


def test_a_refusal_names_key_role_action_and_the_least_role_that_would_do() -> None:
    calls: list[tuple[str, wire.Inbound, str, str]] = [
        ("worker", Called(messages.Status(b"r")), "corral.status", "viewer"),
        ("viewer", Called(messages.Submit(b"r", [])), "corral.submit", "client"),
        ("client", Called(messages.Keys(b"r")), "corral.keys", "operator"),
        ("viewer", wire.Requested(Dialect.MDP01, "train_model", [b""]), "train_model", "client"),
    ]
    for role, message, action, needed in calls:
        refused = refusal(_key(role), message)
        assert refused is not None
        assert refused.fields == {"who": "ada", "role": role, "action": action, "needed": needed}
        assert f"--role {needed}" in refused.cure


def test_what_a_role_may_do_is_let_through() -> None:
    assert refusal(_key("viewer"), Called(messages.Status(b"r"))) is None
    assert refusal(_key("client"), wire.Requested(Dialect.MDP02, "train_model", [b""])) is None
    assert refusal(_key("operator"), Called(messages.Keys(b"r"))) is None


def test_a_malformed_message_is_nobodys_crime() -> None:
    assert refusal(_key("viewer"), wire.Malformed("header")) is None


# --- loopback ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:5555", "tcp://127.8.9.1:*", "tcp://localhost:1", "tcp://[::1]:5555",
     "tcp://lo:5555", "ipc:///run/corral", "inproc://broker"],
)  # fmt: skip
def test_a_socket_on_loopback_needs_no_keys(endpoint: str) -> None:
    assert not beyond_loopback(endpoint)
    require_keys([endpoint])


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://[::]:5555", "tcp://10.0.0.7:5555",
     "tcp://eth0:5555", "tcp://broker.example:5555", "udp://nowhere", "nonsense"],
)  # fmt: skip
def test_a_socket_that_others_may_reach_needs_keys(endpoint: str) -> None:
    with pytest.raises(KeysRequired) as refused:
        require_keys(["tcp://127.0.0.1:5555", endpoint])
    assert endpoint in refused.value.message
    assert "--keys" in refused.value.cure


# --- files ------------------------------------------------------------------------------


def test_a_folder_that_corral_keys_new_made_is_what_the_gate_takes(tmp_path: Path) -> None:
    operator = keys.enrol(tmp_path, "ops", "operator", now=1.0)
    context: Zmq = zmq.Context()
    gate = Gate(context, tmp_path)
    assert gate.pair.public == operator.broker
    key = gate.table.get(operator.public)
    assert key is not None
    assert (key.name, key.role) == ("ops", "operator")
    context.term()


def test_a_gate_without_a_pair_of_its_own_does_not_open(tmp_path: Path) -> None:
    context: Zmq = zmq.Context()
    with pytest.raises(BadConfig, match=r"broker\.key"):
        Gate(context, tmp_path)
    context.term()


def test_a_pair_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.enrol(tmp_path, "ops", "operator", now=1.0)
    (tmp_path / keys.BROKER_FILE).chmod(0o644)
    with pytest.raises(BadConfig, match="chmod"):
        keys.broker_pair(tmp_path)


def _mixed() -> bytes:
    return msgspec.json.encode(keys.Pair(keys.new_pair().public, keys.new_pair().secret))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff", b'{"public": 1, "secret": 2}', b'{"public": "p", "secret": "s"}',
     b'{"public": "", "secret": "\xff"}', _mixed()],
    ids=["empty", "no pair", "no text", "numbers", "no key", "bad text", "not one pair"],
)  # fmt: skip
def test_a_damaged_pair_is_named_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / keys.BROKER_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadConfig, match=r"broker\.key"):
        keys.broker_pair(tmp_path)
    assert path.read_bytes() == content


def test_the_table_outlives_the_broker(tmp_path: Path) -> None:
    public, _ = new_key()
    gone, _ = new_key()
    table = KeyTable(tmp_path)
    table.add(public, "client", "ada", now=10.0)
    table.add(gone, "worker", "w1", now=11.0)
    table.revoke("w1", now=12.0)

    again = KeyTable(tmp_path)
    assert again.listed() == [
        Key(public=public, role="client", name="ada", added=10.0),
        Key(public=gone, role="worker", name="w1", added=11.0, revoked=12.0),
    ]
    assert again.get(public) is not None
    assert again.get(gone) is None
    assert stat.S_IMODE((tmp_path / "authorized.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["authorized.json"]


def test_what_a_crash_left_half_written_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".authorized.json.x1").write_bytes(b"[{")
    KeyTable(tmp_path).add(new_key()[0], "client", "ada", now=1.0)
    assert [key.name for key in KeyTable(tmp_path).listed()] == ["ada"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[[]]", b"\xff\xfe", b'["\xff"]'])
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "authorized.json").write_bytes(content)
    with pytest.raises(BadConfig, match=r"authorized\.json"):
        KeyTable(tmp_path)


@pytest.mark.parametrize(
    ("public", "role", "name"),
    [
        ("short", "client", "ada"),
        ("é" * 40, "client", "ada"),
        ('"' * 40, "client", "ada"),
        ("#" * 40, "client", "ada"),
        ("0" * 40, "emperor", "ada"),
        ("0" * 40, "client", ""),
        ("0" * 40, "client", "two words"),
    ],
)
def test_what_is_no_key_is_refused_and_changes_nothing(
    tmp_path: Path, public: str, role: str, name: str
) -> None:
    table = KeyTable(tmp_path)
    with pytest.raises(Usage):
        table.add(public, role, name, now=1.0)
    assert table.listed() == []
    assert list(tmp_path.iterdir()) == []


def test_adding_again_changes_the_role_and_gives_access_back(tmp_path: Path) -> None:
    public, _ = new_key()
    table = KeyTable(tmp_path)
    table.add(public, "client", "ada", now=1.0)
    table.revoke(public, now=2.0)
    table.add(public, "viewer", "ada", now=3.0)
    assert table.listed() == [Key(public=public, role="viewer", name="ada", added=3.0)]


def test_a_name_belongs_to_one_key_until_it_is_revoked(tmp_path: Path) -> None:
    first, second = new_key()[0], new_key()[0]
    table = KeyTable(tmp_path)
    table.add(first, "client", "ada", now=1.0)
    with pytest.raises(Usage, match="ada"):
        table.add(second, "client", "ada", now=2.0)
    table.revoke("ada", now=3.0)
    table.add(second, "client", "ada", now=4.0)
    assert table.revoke("ada", now=5.0).public == second


def test_revoking_what_nobody_has_is_not_found(tmp_path: Path) -> None:
    table = KeyTable(tmp_path)
    table.add(new_key()[0], "client", "ada", now=1.0)
    table.revoke("ada", now=2.0)
    for name in ("ada", "bob", new_key()[0]):
        with pytest.raises(UnknownKey, match="no key") as refused:
            table.revoke(name, now=3.0)
        assert isinstance(refused.value, NotFound)
        assert "corral keys list" in refused.value.cure


def test_the_last_operators_key_stays(tmp_path: Path) -> None:
    table = KeyTable(tmp_path)
    table.add(new_key()[0], "operator", "ops", now=1.0)
    table.add(new_key()[0], "client", "ada", now=1.0)
    with pytest.raises(Usage, match="last operator"):
        table.revoke("ops", now=2.0)
    table.add(new_key()[0], "operator", "ops2", now=3.0)
    assert table.revoke("ops", now=4.0).revoked == 4.0


# --- the gate ---------------------------------------------------------------------------


class House:
    """A ROUTER behind a gate, and peers that come with keys."""

    def __init__(self, folder: Path) -> None:
        keys.enrol(folder, "ops", "operator", now=0.0)
        self.context: Zmq = zmq.Context()
        self._peers: list[zmq.Socket[bytes]] = []
        self.gate = Gate(self.context, folder)
        self.gate.start()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.gate.setup(self.router)
        self.router.bind("tcp://127.0.0.1:*")
        self.endpoint = self.router.getsockopt_string(zmq.LAST_ENDPOINT)

    def dressed(self, public: str, secret: str, server: str = "") -> zmq.Socket[bytes]:
        """A socket with a key, not connected yet."""
        socket = self.stranger()
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, server or self.gate.pair.public)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, secret)
        return socket

    def peer(self, public: str, secret: str, routing_id: bytes = b"") -> zmq.Socket[bytes]:
        socket = self.dressed(public, secret)
        if routing_id:
            socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.connect(self.endpoint)
        return socket

    def stranger(self) -> zmq.Socket[bytes]:
        """A socket that is not connected yet."""
        socket = self.context.socket(zmq.DEALER)
        self._peers.append(socket)
        return socket

    def enrol(self, role: str, name: str) -> zmq.Socket[bytes]:
        public, secret = new_key()
        self.gate.table.add(public, role, name, now=1.0)
        return self.peer(public, secret)

    def receive(self) -> tuple[Key | None, bytes, list[bytes]]:
        assert self.router.poll(5000), "nothing came"
        first = self.router.recv(copy=False)
        rest = self.router.recv_multipart()
        return self.gate.user(first.bytes, first), first.bytes, rest

    def silent(self, milliseconds: int = 300) -> bool:
        return not self.router.poll(milliseconds)

    def close(self) -> None:
        for socket in (*self._peers, self.router):
            socket.close(linger=0)
        self.gate.stop()
        self.context.term()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    before = threading.active_count()
    house = House(tmp_path)
    yield house
    house.close()
    assert threading.active_count() == before


def handshake(house: House, public: str, secret: str) -> int:
    """The event that tells how a connection with this key went."""
    socket = house.dressed(public, secret)
    monitor = socket.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        | zmq.EVENT_HANDSHAKE_SUCCEEDED
    )
    try:
        socket.connect(house.endpoint)
        assert monitor.poll(5000), "no event came"
        return int(recv_monitor_message(monitor)["event"])
    finally:
        socket.disable_monitor()
        monitor.close()


def test_a_known_key_is_let_in_and_named(house: House) -> None:
    ada = house.enrol("client", "ada")
    w1 = house.enrol("worker", "w1")
    ada.send_multipart([b"from", b"ada"])
    key, _, rest = house.receive()
    assert key is not None
    assert (key.name, key.role) == ("ada", "client")
    assert rest == [b"from", b"ada"]
    w1.send(b"from w1")
    key, routing_id, _ = house.receive()
    assert key is not None
    assert (key.name, key.role) == ("w1", "worker")
    house.router.send_multipart([routing_id, b"back"])
    assert w1.poll(5000)
    assert w1.recv() == b"back"


def test_an_unknown_key_is_refused_until_it_is_added(house: House) -> None:
    public, secret = new_key()
    assert handshake(house, public, secret) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert house.silent()
    house.gate.table.add(public, "client", "ada", now=1.0)
    house.peer(public, secret).send(b"thank you")  # libzmq does not try again on the old socket
    key, _, rest = house.receive()
    assert key is not None
    assert rest == [b"thank you"]


def test_a_peer_without_curve_or_with_another_brokers_key_gets_nowhere(house: House) -> None:
    naked = house.stranger()
    naked.connect(house.endpoint)
    naked.send(b"hello")
    public, secret = new_key()
    house.gate.table.add(public, "client", "ada", now=1.0)
    lost = house.dressed(public, secret, server=new_key()[0])
    lost.connect(house.endpoint)
    lost.send(b"hello")
    assert house.silent(500)


def test_a_revoked_key_is_shut_out_while_it_is_connected(house: House) -> None:
    w1 = house.enrol("worker", "w1")
    ada = house.enrol("client", "ada")
    w1.send(b"one")
    key, routing_id, _ = house.receive()
    assert key is not None
    ada.send(b"hello")
    assert house.receive()[0] is not None

    house.gate.table.revoke("w1", now=2.0)
    assert house.gate.peers(key.public) == [routing_id]
    w1.send(b"two")
    assert house.receive()[0] is None
    ada.send(b"hello again")
    assert house.receive()[0] is not None


def test_a_revoked_key_cannot_connect_again(house: House) -> None:
    public, secret = new_key()
    house.gate.table.add(public, "worker", "w1", now=1.0)
    house.gate.table.revoke("w1", now=2.0)
    assert handshake(house, public, secret) == zmq.EVENT_HANDSHAKE_FAILED_AUTH


def test_a_change_of_role_holds_for_the_next_message(house: House) -> None:
    public, secret = new_key()
    house.gate.table.add(public, "client", "ada", now=1.0)
    ada = house.peer(public, secret)
    ada.send(b"")
    key, _, _ = house.receive()
    assert key is not None
    assert key.role == "client"
    house.gate.table.add(public, "viewer", "ada", now=2.0)
    ada.send(b"")
    key, _, _ = house.receive()
    assert key is not None
    assert key.role == "viewer"


def test_nobody_gets_the_mail_of_a_connected_peer_by_claiming_its_id(house: House) -> None:
    pairs = {name: new_key() for name in ("w1", "thief")}
    for name, (public, _) in pairs.items():
        house.gate.table.add(public, "worker", name, now=1.0)
    w1 = house.peer(*pairs["w1"], routing_id=b"same")
    w1.send(b"mine")
    assert house.receive()[1] == b"same"
    thief = house.peer(*pairs["thief"], routing_id=b"same")
    thief.send(b"mine now")
    assert house.silent()
    house.router.send_multipart([b"same", b"secret"])
    assert w1.poll(5000)
    assert w1.recv() == b"secret"
    assert not thief.poll(100)


def test_a_routing_id_stays_with_its_key_until_the_broker_forgets_it(house: House) -> None:
    pairs = {name: new_key() for name in ("w1", "heir")}
    for name, (public, _) in pairs.items():
        house.gate.table.add(public, "worker", name, now=1.0)
    w1 = house.peer(*pairs["w1"], routing_id=b"same")
    w1.send(b"")
    assert house.receive()[0] is not None
    w1.close()

    heir = _heard(house, *pairs["heir"], routing_id=b"same")
    assert house.receive()[0] is None
    assert house.gate.peers(pairs["heir"][0]) == []
    house.gate.forget(b"same")
    house.gate.forget(b"never seen")
    heir.send(b"")
    key, _, _ = house.receive()
    assert key is not None
    assert key.name == "heir"


def _heard(house: House, public: str, secret: str, routing_id: bytes) -> zmq.Socket[bytes]:
    """A peer that the ROUTER hears: not before it has let go of the last one of that id."""
    for _ in range(50):
        peer = house.peer(public, secret, routing_id)
        peer.send(b"")
        if not house.silent(200):
            return peer
        peer.close()
    raise AssertionError("the router never heard it")


def test_what_the_gate_remembers_is_bounded(house: House) -> None:
    ada = house.enrol("client", "ada")
    ada.send(b"")
    assert house.router.poll(5000)
    frame = house.router.recv(copy=False)
    house.router.recv_multipart()
    for number in range(MAX_BOUND + 500):
        assert house.gate.user(number.to_bytes(5, "big"), frame) is not None
    public = str(frame.get("User-Id"))
    assert len(house.gate.peers(public)) == MAX_BOUND
    assert (0).to_bytes(5, "big") not in house.gate.peers(public)


def test_a_change_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    public, _ = new_key()
    table = KeyTable(folder)
    table.add(public, "client", "ada", now=1.0)
    (folder / keys.TABLE_FILE).rename(tmp_path / "kept")
    folder.rmdir()
    folder.write_text("a file where the folder was: no write can succeed")
    with pytest.raises(StoreFull, match="keys"):
        table.add(new_key()[0], "client", "bob", now=2.0)
    with pytest.raises(StoreFull):
        table.revoke("ada", now=2.0)
    assert [key.name for key in table.listed()] == ["ada"]
    assert table.get(public) is not None


def test_no_secret_is_in_the_table(tmp_path: Path) -> None:
    ops = keys.enrol(tmp_path, "ops", "operator", now=1.0)
    secrets = {ops.secret, keys.broker_pair(tmp_path).secret}
    written = (tmp_path / keys.TABLE_FILE).read_text()
    assert ops.public in written
    assert not any(secret in written for secret in secrets)
