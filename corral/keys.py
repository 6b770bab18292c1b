"""Key files: how they are made, read and written, and how a socket takes one.

A key file holds the key's own CURVE pair and the broker's public key, so that one file is all a
client or worker needs. Both halves are Z85 text, 40 characters (ZeroMQ RFC 32 and 26). The folder
that the broker is started with holds its own pair and the table of the keys it knows; the first
keys are put there by `enrol`, before any broker runs. What a role may do, and changes of the table
while the broker runs, live in `broker.auth`.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import struct
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq
from msgspec import Struct
from zmq.utils import z85

from corral.errors import BadConfig, Usage
from corral.messages import KeyView
from corral.tasks import is_name

ROLES = ("client", "viewer", "operator", "worker")
BROKER_FILE = "broker.key"  #: in the broker's folder: its own pair
TABLE_FILE = "authorized.json"  #: beside it: the keys it knows
JINJA = (b"{{", b"{%", b"{#")  # what begins an expression, a statement, a comment


class Pair(Struct, frozen=True):
    """A CURVE key pair; the broker's file holds nothing else."""

    public: str
    secret: str


class KeyFile(Struct, frozen=True, kw_only=True):
    """What a client or worker is given."""

    name: str
    role: str
    public: str
    secret: str
    broker: str  #: the broker's public key: nobody else can answer in its name


S = TypeVar("S", Pair, KeyFile)


def new_pair() -> Pair:
    """A new key pair from the system's randomness.

    Its public half can be an argument of a command: one in 85 would begin as an option does. Both
    can stand in an inventory of Ansible, which would take one pair in 31 for a template.
    """
    while True:
        public, secret = zmq.curve_keypair()
        both = public + b" " + secret
        if not public.startswith(b"-") and not any(sign in both for sign in JINJA):
            return Pair(public.decode(), secret.decode())


def is_public(text: str) -> bool:
    """Whether it can be the public half of a pair: 40 characters of Z85."""
    try:
        return len(text) == 40 and len(z85.decode(text.encode("ascii"))) == 32
    except (KeyError, UnicodeEncodeError, struct.error):  # what z85 says to bad digits
        return False


def new_key(name: str, role: str, broker: str) -> KeyFile:
    """A new key for the broker whose public key is `broker`.

    Raises:
        Usage: no such role, or a name that cannot name a key, or no broker has such a key.
    """
    if not is_public(broker):
        raise Usage(what=f"{broker[:80]!r} is no public key: 40 characters of Z85")
    if role not in ROLES:
        raise Usage(what=f"{role!r} is no role; the roles are {', '.join(ROLES)}")
    if not is_name(name):
        raise Usage(what=f"{name!r} cannot name a key: 1 to 200 printable characters, no space")
    pair = new_pair()
    return KeyFile(name=name, role=role, public=pair.public, secret=pair.secret, broker=broker)


def read(path: Path) -> KeyFile:
    """The key file at `path`.

    Raises:
        BadConfig: it is missing, damaged, or others than its owner can read it.
    """
    return _read(path, KeyFile)


def secure(socket: zmq.Socket[bytes], key: KeyFile) -> None:
    """Let `socket`, not yet connected, speak CURVE with the broker that `key` names."""
    socket.setsockopt_string(zmq.CURVE_PUBLICKEY, key.public)
    socket.setsockopt_string(zmq.CURVE_SECRETKEY, key.secret)
    socket.setsockopt_string(zmq.CURVE_SERVERKEY, key.broker)


def enrol(folder: Path, name: str, role: str, now: float) -> KeyFile:
    """Make a key, and let the broker that will be started on `folder` know it.

    The broker's own pair is made when the folder has none. A broker that runs does not see what
    this writes: give it keys through `corral keys add`.

    Raises:
        BadConfig: the folder's files are damaged.
        Usage: the name is taken, or name or role are not possible, or a broker runs with the keys.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = hold(folder, fcntl.LOCK_EX)
    try:
        return _enrol(folder, name, role, now)
    finally:
        os.close(held)


def hold(folder: Path, how: int) -> int:
    """A lock on a folder of keys, until the descriptor is closed: brokers share one
    (`fcntl.LOCK_SH`), and who writes beside them wants it alone (`fcntl.LOCK_EX`).

    Raises:
        Usage: somebody else has it.
    """
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        cure = f"let others in through it: --key {folder / 'operator.key'} in place of --keys"
        raise Usage(what=f"a broker works with the keys in {folder}; {cure}") from None
    return held


def _enrol(folder: Path, name: str, role: str, now: float) -> KeyFile:
    if (folder / BROKER_FILE).exists():
        broker = broker_pair(folder)
    else:
        broker = new_pair()
        write(folder / BROKER_FILE, broker)
    known = table(folder)
    if any(key.name == name and key.revoked is None for key in known):
        raise Usage(what=f"a key named {name} is already in {folder / TABLE_FILE}")
    key = new_key(name, role, broker.public)
    added = KeyView(public=key.public, role=role, name=name, added=now)
    replace(folder / TABLE_FILE, [*known, added])
    return key


def broker_pair(folder: Path) -> Pair:
    """The broker's own pair in its folder.

    Raises:
        BadConfig: it is missing, damaged, or others than its owner can read it.
    """
    return _read(folder / BROKER_FILE, Pair)


def table(folder: Path) -> list[KeyView]:
    """The keys that the broker of this folder knows, revoked ones too; none without a table.

    Raises:
        BadConfig: the table is damaged.
    """
    path = folder / TABLE_FILE
    if not path.exists():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[KeyView])
    except (msgspec.MsgspecError, UnicodeDecodeError) as bad:
        raise BadConfig(file=path, key="keys", why=str(bad)) from None


def beyond_loopback(endpoint: str) -> bool:
    """Whether other machines could reach a socket bound to `endpoint`."""
    scheme, _, address = endpoint.partition("://")
    if scheme in ("ipc", "inproc"):
        return False
    host = address.rpartition(":")[0].strip("[]")
    if host in ("localhost", "lo"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:  # `*`, an interface, a name that may mean anything
        return True


def write(path: Path, content: Struct) -> None:
    """Write a new secret file, whole or not at all, that its owner alone can read.

    Raises:
        Usage: there is a file already; a key that is overwritten is lost for good.
    """
    draft = _draft(path, content)
    try:
        os.link(draft, path)
    except FileExistsError:
        raise Usage(what=f"{path} exists; keys are never overwritten") from None
    finally:
        draft.unlink()
    _sync_folder(path.parent)


def replace(path: Path, content: object) -> None:
    """Replace a file in one step; its owner alone can read it."""
    _draft(path, content).replace(path)
    _sync_folder(path.parent)


def _read(path: Path, kind: type[S]) -> S:
    try:
        if path.stat().st_mode & 0o077:
            raise BadConfig(file=path, key="mode", why="others can read it; chmod it to 600")
        found = msgspec.json.decode(path.read_bytes(), type=kind)
        belongs = zmq.curve_public(found.secret.encode()) == found.public.encode()
    except OSError as bad:
        raise BadConfig(file=path, key="key", why=f"it cannot be read: {bad.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as bad:
        raise BadConfig(file=path, key="key", why=f"it is no key file: {bad}") from None
    if not belongs:
        raise BadConfig(file=path, key="key", why="its secret half does not fit its public one")
    return found


def _draft(path: Path, content: object) -> Path:
    """The content on stable storage beside `path`, under another name."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with open(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        os.unlink(name)
        raise OSError(error.errno, error.strerror, str(path)) from None
    return Path(name)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
