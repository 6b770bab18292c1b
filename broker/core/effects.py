"""What the machine asks of its shell. Data only; performing them is `broker.server`'s work.

The shell performs a turn's effects in this order: all `Persist`, one commit, then the rest.
"""

from __future__ import annotations

from msgspec import Struct

from broker.core.facts import Fact
from corral.messages import Answer, Extension
from corral.wire import Dialect, Frames


class Persist(Struct, frozen=True, gc=False):
    """Put these facts into the journal, durably, before anything else of this turn happens."""

    facts: list[Fact]


class SendToWorker(Struct, frozen=True, gc=False):
    """An extension command for a native worker."""

    peer: bytes
    message: Extension


class AssignTask(Struct, frozen=True, gc=False):
    """One attempt for a worker. The shell fetches what it refers to and batches by booking."""

    peer: bytes
    dialect: Dialect
    native: bool
    token: bytes
    id: str
    booking: int


class Beat(Struct, frozen=True, gc=False):
    """HEARTBEAT."""

    peer: bytes
    dialect: Dialect


class Disconnect(Struct, frozen=True, gc=False):
    """DISCONNECT: the peer must open a new connection and register again."""

    peer: bytes
    dialect: Dialect


class ReplyToClient(Struct, frozen=True, gc=False):
    """An answer for a native client; the shell sends the answers of one turn together."""

    peer: bytes
    service: str
    answer: Answer
    final: bool


class ReplyPlain(Struct, frozen=True, gc=False):
    """A reply for a plain client."""

    peer: bytes
    dialect: Dialect
    service: str
    body: Frames
    final: bool
    blob: str = ""  #: digest of the packed value to send instead of `body`


class Telemetry(Struct, frozen=True, gc=False):
    """Sampled progress of a task, for watchers. Never persisted."""

    at: float
    id: str
    fraction: float
    metrics: dict[str, float]


Effect = (
    Persist | SendToWorker | AssignTask | Beat | Disconnect | ReplyToClient | ReplyPlain | Telemetry
)
