"""What an agent and its child processes say to each other, and how it is framed.

A message is a length (four bytes, big-endian) and msgpack. Work travels on one socket pair, which
the child's main thread reads; what cannot wait for the handler (`Ask`, `GiveBack`) on a second one,
which a thread of the child reads. Everything a child says comes back on the first. Sockets and
processes are elsewhere: this file is pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from corral.messages import Item, Raw

# --- to a child -------------------------------------------------------------------------


class Setup(Struct, frozen=True, array_like=True, tag=0):
    """The first message: what this child is for."""

    kind: str
    gpus: tuple[str, ...]
    folder: str  #: the agent's data folder
    catch: str  #: file that its output goes to, until the attempt that wrote it is known
    result_limit: int  #: bytes of one packed result


class Work(Struct, frozen=True, array_like=True, tag=1):
    """Run these, one after the other, after those that were sent before."""

    items: list[Item]
    arrived: float  #: monotonic time at which the first of them reached the agent
    cpus: float
    measure: bool  #: find the peak memory of each attempt


class Want(StrEnum):
    """What the agent wants of a running attempt."""

    CANCEL = "cancel"
    SOFT = "soft"  #: its run limit is near
    HAND_BACK = "hand_back"  #: the worker leaves: save a checkpoint and stop


class Ask(Struct, frozen=True, array_like=True, tag=2):
    """Let the attempt with this token see what is wanted; any other is left alone."""

    token: bytes
    want: Want


class GiveBack(Struct, frozen=True, array_like=True, tag=3):
    """Send the results at hand, say what runs now, and give back what has not begun."""


ToChild = Setup | Work | Ask | GiveBack

# --- from a child -----------------------------------------------------------------------


class Ready(Struct, frozen=True, array_like=True, tag=0):
    """The handler is imported; work may come."""


class Done(Struct, frozen=True, array_like=True, tag=1):
    """Attempts that ended, in the order in which they were fed."""

    count: int
    busy: float  #: seconds, all of them together
    longest: float  #: seconds of the longest
    ended: Raw  #: list of `corral.messages.Ended`, packed: the agent passes it on unread
    notes: list[tuple[str, bool]] = []  #: for the log: lines, and whether each is a warning


class Given(Struct, frozen=True, array_like=True, tag=2):
    """The answer to `GiveBack`."""

    running: bytes  #: token; empty: none
    began: float  #: monotonic time
    returned: list[bytes]  #: tokens that have not begun


class Told(Struct, frozen=True, array_like=True, tag=3):
    """The handler told its progress."""

    token: bytes
    fraction: float
    metrics: dict[str, float]


class Saved(Struct, frozen=True, array_like=True, tag=4):
    """The handler saved a checkpoint."""

    token: bytes
    data: bytes


FromChild = Ready | Done | Given | Told | Saved

# --- framing ----------------------------------------------------------------------------

MAX = (1 << 32) - 1
_encode = msgspec.msgpack.Encoder().encode
T = TypeVar("T")


def pack(message: ToChild | FromChild) -> bytes:
    """The bytes of one message."""
    body = _encode(message)
    return len(body).to_bytes(4, "big") + body


class Inbox(Generic[T]):
    """Cuts a stream of bytes into messages of the type that it was made for."""

    def __init__(self, type: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(type).decode
        self._buffer = bytearray()

    def fill(self, data: bytes) -> Iterator[T]:
        """The messages that `data` completes. Ask for all of them before the next call.

        Raises:
            msgspec.MsgspecError: the other side speaks nonsense.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= 4:
                end = start + 4 + int.from_bytes(buffer[start : start + 4], "big")
                if len(buffer) < end:
                    break
                body = bytes(memoryview(buffer)[start + 4 : end])
                start = end
                yield self._decode(body)
        finally:
            del buffer[:start]
