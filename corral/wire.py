"""Frames to messages and back: the only file that knows Majordomo bytes.

Speaks MDP/0.1 (ZeroMQ RFC 7) and MDP/0.2 (RFC 18) for unmodified peers, and Corral's own calls and
extension commands inside 0.2. Every decoder is total: whatever arrives, the answer is a message or
a `Malformed` that says why. Frames here never include the routing id. What the messages mean, and
who may send them, is decided in `broker`.

The first frame decides the dialect: it is empty in 0.1 and never empty in 0.2. Command codes
collide between the two (0x04 is HEARTBEAT in 0.1 and FINAL in 0.2), so nothing here reads a code
before it has read the header.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import msgspec
from msgspec import Struct

from corral.messages import (
    CODE_OF,
    EXTENSIONS,
    SERVICE_OF,
    SERVICES,
    Answer,
    Call,
    Document,
    Extension,
    Request,
)
from corral.tasks import MAX_NAME, bad_needs, is_name

MAX_DOCUMENT = 64 * 1024  # bytes of a capability document
MAX_TOKEN = 64  # bytes of a client-address frame
MAX_DETAIL = 300  # characters of what a decoder says; it may quote what it was sent

Frames = list[bytes]


class Dialect(IntEnum):
    """Which Majordomo a peer speaks."""

    MDP01 = 1
    MDP02 = 2


_CLIENT = {Dialect.MDP01: b"MDPC01", Dialect.MDP02: b"MDPC02"}
_WORKER = {Dialect.MDP01: b"MDPW01", Dialect.MDP02: b"MDPW02"}

# Command codes of workers, by dialect (RFC 7 and RFC 18, section "Majordomo/Worker").
_READY, _REQUEST = b"\x01", b"\x02"
_REPLY_01, _HEARTBEAT_01, _DISCONNECT_01 = b"\x03", b"\x04", b"\x05"
_PARTIAL_02, _FINAL_02, _HEARTBEAT_02, _DISCONNECT_02 = b"\x03", b"\x04", b"\x05", b"\x06"
# Command codes of clients, 0.2 only; 0.1 has none.
_C_REQUEST, _C_PARTIAL, _C_FINAL = b"\x01", b"\x02", b"\x03"


# --- what can arrive at a broker --------------------------------------------------------


class Called(Struct, frozen=True, gc=False):
    """A native client calls a `corral.*` service."""

    call: Call


class Requested(Struct, frozen=True):
    """A plain client requests a service: a kind, `mmi.*` or `titanic.*`."""

    dialect: Dialect
    service: str
    body: Frames


class Readied(Struct, frozen=True):
    """A worker registers. Only native workers add a capability document."""

    dialect: Dialect
    service: str
    document: Document | None


class Replied(Struct, frozen=True):
    """A plain worker answers; `final` is False for a PARTIAL of 0.2."""

    dialect: Dialect
    token: bytes
    body: Frames
    final: bool


class Extended(Struct, frozen=True, gc=False):
    """A native peer sends an extension command."""

    message: Extension


class Beaten(Struct, frozen=True):
    """HEARTBEAT of a worker."""

    dialect: Dialect


class Parted(Struct, frozen=True):
    """DISCONNECT: the worker leaves in order."""

    dialect: Dialect


class Malformed(Struct, frozen=True):
    """No legal message. `reason` is one of a few words, fit to be counted."""

    reason: str
    dialect: Dialect | None = None  #: of a worker that can be told to disconnect
    foreign: str = ""  #: a wire that also calls itself 0.2, by name
    request: bytes = b""  #: of a native call whose body did not decode
    detail: str = ""


Inbound = Called | Requested | Readied | Replied | Extended | Beaten | Parted | Malformed


class _Head(Struct, array_like=True):
    """What all calls begin with; the rest is passed over, not made into objects."""

    request: Request


_CALLS: dict[bytes, Callable[[bytes], Call]] = {
    name.encode(): msgspec.msgpack.Decoder(cls).decode for name, cls in SERVICES.items()
}
_EXTENSIONS: dict[bytes, Callable[[bytes], Extension]] = {
    bytes((code,)): msgspec.msgpack.Decoder(cls).decode for code, cls in EXTENSIONS.items()
}
_decode_document = msgspec.msgpack.Decoder(Document).decode
_decode_answers: Callable[[bytes], list[Answer]] = msgspec.msgpack.Decoder(list[Answer]).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_encode = msgspec.msgpack.Encoder().encode
# What msgspec raises on bytes that do not fit: bad msgpack or types, text that is not UTF-8,
# nesting too deep, integers too large.
_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, ValueError)


def decode(frames: Sequence[bytes]) -> Inbound:
    """What a peer said to the broker. Never raises."""
    first = frames[0] if frames else None
    if first == b"MDPC02":
        return _client_02(frames)
    if first == b"MDPW02":
        return _worker_02(frames)
    if first == b"":
        return _family_01(frames)
    return _foreign(first)


def _client_02(frames: Sequence[bytes]) -> Inbound:
    if len(frames) < 4 or frames[1] != _C_REQUEST:
        return Malformed("client frames")
    service, body = frames[2], frames[3]
    if (decoder := _CALLS.get(service)) is not None:
        try:
            return Called(decoder(body))
        except _BAD as bad:
            return Malformed("call body", request=_request_of(body), detail=str(bad)[:MAX_DETAIL])
    return _requested(Dialect.MDP02, service, frames[3:])


def _request_of(body: bytes) -> bytes:
    """The request id of a call that did not decode, so that its sender can be told."""
    try:
        return _decode_head(body).request
    except _BAD:
        return b""


def _requested(dialect: Dialect, service: bytes, body: Sequence[bytes]) -> Inbound:
    name = _name(service)
    if name is None:
        return Malformed("service name")
    if name.startswith("corral."):
        return Malformed("unknown call")
    return Requested(dialect, name, list(body))


def _name(service: bytes) -> str | None:
    if len(service) > MAX_NAME:
        return None
    text = service.decode("ascii", errors="replace")
    return text if is_name(text) else None


def _worker_02(frames: Sequence[bytes]) -> Inbound:
    dialect = Dialect.MDP02
    if len(frames) < 2:
        return Malformed("worker frames", dialect)
    command = frames[1]
    if (decoder := _EXTENSIONS.get(command)) is not None:
        if len(frames) != 3:
            return Malformed("extension frames", dialect)
        try:
            return Extended(decoder(frames[2]))
        except _BAD as bad:
            return Malformed("extension body", dialect, detail=str(bad)[:MAX_DETAIL])
    if command == _HEARTBEAT_02 and len(frames) == 2:
        return Beaten(dialect)
    if command == _DISCONNECT_02 and len(frames) == 2:
        return Parted(dialect)
    if command == _READY:
        return _readied(dialect, frames[2:])
    if command == _FINAL_02 and len(frames) == 2:
        # In majordomo's tag of that name 0x04 with nothing behind it is HEARTBEAT.
        return Malformed("foreign dialect", dialect, foreign="wire-protocol-0.2")
    if command in (_PARTIAL_02, _FINAL_02):
        return _replied(dialect, frames[2:], final=command == _FINAL_02)
    return Malformed("worker command", dialect)


def _family_01(frames: Sequence[bytes]) -> Inbound:
    header = frames[1] if len(frames) > 1 else b""
    if header == b"MDPC01":
        if len(frames) < 4:
            return Malformed("client frames")
        return _requested(Dialect.MDP01, frames[2], frames[3:])
    if header != b"MDPW01":
        return _foreign(header)
    dialect = Dialect.MDP01
    command = frames[2] if len(frames) > 2 else b""
    if command == _HEARTBEAT_01 and len(frames) == 3:
        return Beaten(dialect)
    if command == _DISCONNECT_01 and len(frames) == 3:
        return Parted(dialect)
    if command == _READY:
        return _readied(dialect, frames[3:])
    if command == _REPLY_01:
        return _replied(dialect, frames[3:], final=True)
    return Malformed("worker command", dialect)


def _readied(dialect: Dialect, rest: Sequence[bytes]) -> Inbound:
    if not 1 <= len(rest) <= 2:
        return Malformed("ready frames", dialect)
    name = _name(rest[0])
    if name is None:
        return Malformed("service name", dialect)
    if len(rest) == 1:
        return Readied(dialect, name, None)
    if len(rest[1]) > MAX_DOCUMENT:
        return Malformed("document size", dialect)
    try:
        document = _decode_document(rest[1])
    except _BAD as bad:
        return Malformed("document", dialect, detail=str(bad)[:MAX_DETAIL])
    for kind in document.kinds:
        if kind.needs and (wrong := bad_needs(kind.needs)) is not None:
            detail = f"{kind.kind}: {wrong[0]} {wrong[1]}"
            return Malformed("document", dialect, detail=detail[:MAX_DETAIL])
    return Readied(dialect, name, document)


def _replied(dialect: Dialect, rest: Sequence[bytes], final: bool) -> Inbound:
    # "Precisely one client address frame, followed by an empty frame", then the body.
    if len(rest) < 2 or not 0 < len(rest[0]) <= MAX_TOKEN or rest[1] != b"":
        return Malformed("reply envelope", dialect)
    return Replied(dialect, rest[0], list(rest[2:]), final)


def _foreign(first: bytes | None) -> Malformed:
    """Three other wires call themselves 0.2; name the one that this frame begins."""
    if first is None:
        return Malformed("no frames")
    if first in (b"MDPC0X", b"MDPW0X"):
        return Malformed("foreign dialect", foreign="libmdp")
    if first[:2] == b"\xaa\xa4":
        return Malformed("foreign dialect", foreign="zproto")
    return Malformed("header")


# --- what a broker sends ----------------------------------------------------------------


def answers(service: str, items: Sequence[Answer], final: bool) -> Frames:
    """Answers to one native client, in one message."""
    return [b"MDPC02", _C_FINAL if final else _C_PARTIAL, service.encode(), _encode(items)]


def reply(dialect: Dialect, service: str, body: Sequence[bytes], final: bool = True) -> Frames:
    """A reply to a plain client. 0.1 knows no partial replies: send it only final ones.

    A body of no frames is padded with an empty one: clients of the guide count at least four.
    """
    padded = list(body) or [b""]
    if dialect is Dialect.MDP01:
        return [b"", b"MDPC01", service.encode(), *padded]
    return [b"MDPC02", _C_FINAL if final else _C_PARTIAL, service.encode(), *padded]


def request(dialect: Dialect, token: bytes, body: Sequence[bytes]) -> Frames:
    """A request to a plain worker; it echoes `token`, the client-address frame, unread."""
    head = [b"", b"MDPW01"] if dialect is Dialect.MDP01 else [b"MDPW02"]
    return [*head, _REQUEST, token, b"", *(list(body) or [b""])]


def extension(message: Extension) -> Frames:
    """An extension command, in either direction."""
    return [b"MDPW02", bytes((CODE_OF[type(message)],)), _encode(message)]


def heartbeat(dialect: Dialect = Dialect.MDP02) -> Frames:
    """HEARTBEAT, in either direction."""
    return (
        [b"", b"MDPW01", _HEARTBEAT_01] if dialect is Dialect.MDP01 else [b"MDPW02", _HEARTBEAT_02]
    )


def disconnect(dialect: Dialect = Dialect.MDP02) -> Frames:
    """DISCONNECT, in either direction."""
    if dialect is Dialect.MDP01:
        return [b"", b"MDPW01", _DISCONNECT_01]
    return [b"MDPW02", _DISCONNECT_02]


# --- what a native client says and hears ------------------------------------------------


_CALL_HEAD = {cls: [b"MDPC02", _C_REQUEST, name.encode()] for cls, name in SERVICE_OF.items()}


def call(message: Call) -> Frames:
    """A call of a native client."""
    return [*_CALL_HEAD[type(message)], _encode(message)]


def heard_by_client(frames: Sequence[bytes]) -> list[Answer]:
    """The answers in a message of the broker; an empty list when it is none."""
    if len(frames) != 4 or frames[0] != b"MDPC02":
        return []
    try:
        return _decode_answers(frames[3])
    except _BAD:
        return []


# --- what a native worker says and hears ------------------------------------------------


def ready(service: str, document: Document) -> Frames:
    """READY with the capability document behind it; brokers of the guide ignore that frame."""
    return [b"MDPW02", _READY, service.encode(), _encode(document)]


def final(token: bytes, body: Sequence[bytes]) -> Frames:
    """A native worker's answer to a plain REQUEST, when it serves a foreign broker."""
    return [b"MDPW02", _FINAL_02, token, b"", *body]


class PlainRequest(Struct, frozen=True):
    """REQUEST of a broker that knows no extensions."""

    token: bytes
    body: Frames


HeardByWorker = Extended | PlainRequest | Beaten | Parted | Malformed


def heard_by_worker(frames: Sequence[bytes]) -> HeardByWorker:
    """What a broker said to a native worker. Never raises."""
    if len(frames) < 2 or frames[0] != b"MDPW02":
        return Malformed("header")
    if frames[1] == _REQUEST:
        if len(frames) < 5 or frames[3] != b"":
            return Malformed("request envelope")
        return PlainRequest(frames[2], list(frames[4:]))
    heard = _worker_02(frames)
    return (
        heard if isinstance(heard, Extended | Beaten | Parted | Malformed) else Malformed("command")
    )
