"""Who may talk to the broker: what roles may do, the table of keys, the gate at the socket.

CURVE proves which key a peer holds; ZAP (ZeroMQ RFC 27) asks this file whether that key may
connect; and each message is checked again, because a key can be revoked while its peer stays
connected, which libzmq cannot end from the broker's side. What the refused hear is decided in
`broker.server`; the files that hold keys are `corral.keys`' matter.
"""

from __future__ import annotations

import fcntl
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import msgspec
import zmq
from zmq.auth.thread import ThreadAuthenticator

from corral import keys
from corral.errors import KeysRequired, NotAllowed, StoreFull, UnknownKey, Usage
from corral.keys import beyond_loopback
from corral.messages import ROLES, SERVICE_OF, KeyView
from corral.tasks import is_name
from corral.wire import Called, Inbound, Malformed, Requested

DOMAIN = "corral"  # pyzmq asks a callback only under the exact ZAP domain of the socket
MAX_BOUND = 100_000  # routing ids whose key is remembered
CLIENT, VIEWER, OPERATOR, WORKER = keys.ROLES

Key: TypeAlias = KeyView


# --- what a role may do -----------------------------------------------------------------


def allowed(role: str, service: str) -> bool:
    """Whether a key of `role` may ask for `service`: a call, a kind, `mmi.*` or `titanic.*`."""
    if role == OPERATOR:
        return True
    if service.startswith("mmi."):
        return role in (CLIENT, VIEWER)
    return role in ROLES.get(service, (CLIENT,))


def refusal(key: Key, message: Inbound) -> NotAllowed | None:
    """Why the holder of `key` may not send `message`; None when it may.

    Clients' messages are judged by the service they name. All others are a worker's, and only a
    worker's key may send them. Malformed ones do nothing, so anybody may.
    """
    if isinstance(message, Malformed):
        return None
    if isinstance(message, Called | Requested):
        service = SERVICE_OF[type(message.call)] if isinstance(message, Called) else message.service
        if allowed(key.role, service):
            return None
        needed = next(role for role in (VIEWER, CLIENT, OPERATOR) if allowed(role, service))
        return NotAllowed(who=key.name, role=key.role, action=service, needed=needed)
    if key.role == WORKER:
        return None
    return NotAllowed(who=key.name, role=key.role, action="work", needed=WORKER)


# --- where keys are kept ----------------------------------------------------------------


class KeyTable:
    """The keys that the broker knows, kept in its folder.

    A revoked key stays in it, so that the list tells who once had access. Changes are on disk
    before a method returns.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: dict[str, Key] = {key.public: key for key in keys.table(folder)}

    def listed(self) -> list[Key]:
        """Every key, revoked ones too, in the order in which they came."""
        return list(self._keys.values())

    def get(self, public: str) -> Key | None:
        """The key `public` if it gives access now."""
        key = self._keys.get(public)
        return key if key is not None and key.revoked is None else None

    def add(self, public: str, role: str, name: str, now: float) -> Key:
        """Give the key `public` (Z85) access as `role`. A known key takes the new role and name.

        Raises:
            Usage: no public key, no such role, or no fit name.
            StoreFull: the table cannot be written; nothing changed.
        """
        if not keys.is_public(public):
            raise Usage(what=f"{public[:80]!r} is no public key: 40 characters of Z85")
        if role not in keys.ROLES:
            raise Usage(what=f"{role[:80]!r} is no role: {', '.join(keys.ROLES)}")
        if not is_name(name):
            raise Usage(what="a key needs a name of 1 to 200 printable characters without space")
        namesake = self._named(name)
        if namesake is not None and namesake.public != public:
            raise Usage(what=f"another key has the name {name}")
        key = Key(public=public, role=role, name=name, added=now)
        self._store({**self._keys, public: key})
        return key

    def revoke(self, name: str, now: float) -> Key:
        """Take access from a key, given by its name or its public half.

        Raises:
            UnknownKey: none with access is called so.
            Usage: it is the last operator's, and nobody could give access again.
            StoreFull: the table cannot be written; nothing changed.
        """
        key = self.get(name) or self._named(name)
        if key is None:
            raise UnknownKey(name=name)
        if [each for each in self._active() if each.role == OPERATOR] == [key]:
            raise Usage(what=f"{key.name} is the last operator's key; add another one first")
        revoked = msgspec.structs.replace(key, revoked=now)
        self._store({**self._keys, key.public: revoked})
        return revoked

    def _active(self) -> list[Key]:
        return [key for key in self._keys.values() if key.revoked is None]

    def _named(self, name: str) -> Key | None:
        return next((key for key in self._active() if key.name == name), None)

    def _store(self, changed: dict[str, Key]) -> None:
        try:
            keys.replace(self._folder / keys.TABLE_FILE, list(changed.values()))
        except OSError as error:
            raise StoreFull(why=f"{self._folder}: {error.strerror}") from None
        self._keys = changed  # one assignment: the authenticator's thread reads it


# --- at the socket ----------------------------------------------------------------------


def require_keys(endpoints: Iterable[str]) -> None:
    """Refuse to listen without keys where others could connect.

    Raises:
        KeysRequired: names the endpoint.
    """
    for endpoint in endpoints:
        if beyond_loopback(endpoint):
            raise KeysRequired(endpoint=endpoint)


class Gate:
    """Lets in the peers whose key has access, and tells whose message each one is.

    A user's id is their public key. libzmq attaches it to every frame of a connection, so that
    asking costs a fraction of a microsecond and holds for each message, not for each routing id.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self.pair = keys.broker_pair(folder)
        self._held = keys.hold(folder, fcntl.LOCK_SH)  # who wrote beside us would not be heard
        self.table = KeyTable(folder)
        self._holders: OrderedDict[bytes, str] = OrderedDict()
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.configure_curve_callback(DOMAIN, self)

    def start(self) -> None:
        """Begin to answer libzmq. Before any socket is bound: without an answer peers hang."""
        self._authenticator.start()

    def stop(self) -> None:
        """End the authenticator's thread, after the socket is closed."""
        self._authenticator.stop()
        os.close(self._held)

    def setup(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket` speak CURVE alone. Call it before binding."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, self.pair.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self.pair.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)

    def callback(self, domain: str, key: bytes) -> bool:
        """pyzmq asks, in the authenticator's thread, whether a Z85 public key may connect."""
        return self.table.get(key.decode("ascii")) is not None

    def user(self, routing_id: bytes, frame: zmq.Frame) -> Key | None:
        """Whose message it is, by its first frame, received with `copy=False`.

        None: nothing may come of it. Its key was revoked, or the routing id belongs to another.
        """
        public = str(frame.get("User-Id"))
        key = self.table.get(public)
        if key is None or self._holders.setdefault(routing_id, public) != public:
            return None
        if len(self._holders) > MAX_BOUND:
            self._holders.popitem(last=False)
        return key

    def forget(self, routing_id: bytes) -> None:
        """The peer is gone: its routing id may be used with another key."""
        self._holders.pop(routing_id, None)

    def peers(self, public: str) -> list[bytes]:
        """Routing ids that spoke with this key: whom to drop when it is revoked."""
        return [routing_id for routing_id, holder in self._holders.items() if holder == public]
