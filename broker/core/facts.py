"""What the journal holds: facts, each a decision that was made, and the record of one task.

A fact says what is so from now on; replaying all facts gives the same state as making them did.
How a fact changes the state lives in `broker.core.state`; which facts are made, in
`broker.core.machine`; how they reach the disk, in `broker.store`.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from corral.messages import NIL, AttemptView, Kind, Raw, Step
from corral.tasks import Cause, Failure, Spec, State, Variant


class Accepted(Struct, frozen=True, array_like=True, tag=0, gc=False):
    """A task exists."""

    at: float
    id: str
    spec: Spec
    content: bool = False  #: its content identifies it
    waiting: bool = False  #: some parent has not succeeded yet
    queue_limit: float | None = None
    order: int = 0  #: its place among all runs; 0: behind all


class Assigned(Struct, frozen=True, array_like=True, tag=1):
    """Attempts of these tasks are booked on a worker, one after the other.

    The token of task i is `prefix` and `first + i` in eight bytes, big-endian.
    """

    at: float
    worker: str
    booking: int
    variant: int
    need: Variant  #: what is booked; the task's kind may ask for something else by now
    gpus: list[str]
    prefix: bytes
    first: int
    ids: list[str]
    decision: str = ""


class Closed(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """An attempt is over and what it held is free. `cause` moves its task; None leaves it."""

    at: float
    token: bytes
    id: str
    cause: Cause | None
    outcome: str
    seconds: float = 0.0
    value: Raw = NIL
    blob: str = ""
    failure: Failure | None = None
    retry_at: float | None = None
    memory_gb: float | None = None  #: what the next attempt asks for, after running out of it


class Moved(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A task changed its state without an attempt that reported."""

    at: float
    id: str
    cause: Cause
    why: str = ""
    outcome: str = ""  #: of the attempt that lost its token, which may still run; "lost" counts
    order: int = 0  #: of a new run: its place among all runs; 0: behind all
    spec: Spec | None = None  #: of a new run that is to be run in another way


class Announced(Struct, frozen=True, array_like=True, tag=4):
    """A worker announced a kind, or announced it anew with other code or data."""

    kind: Kind


class Admitted(Struct, frozen=True, array_like=True, tag=5):
    """A worker's admission changed: open, draining or drained; who, why, and what follows."""

    at: float
    worker: str
    admission: str
    by: str = ""
    why: str = ""
    deadline: float | None = None  #: wall-clock seconds
    policy: str = "wait"


class Aliased(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """A Titanic client holds this alias of a task; `id` empty: it let go."""

    alias: str
    id: str


class Saved(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """A checkpoint that the task's next attempt begins with."""

    id: str
    blob: str


Fact = Accepted | Assigned | Closed | Moved | Announced | Admitted | Aliased | Saved

encode_facts = msgspec.msgpack.Encoder().encode
decode_facts = msgspec.msgpack.Decoder(list[Fact]).decode


class OpenAttempt(Struct, frozen=True, array_like=True):
    """An attempt that has not been closed, inside a record."""

    token: bytes
    number: int
    at: float
    worker: str
    booking: int
    variant: int
    need: Variant
    gpus: list[str]
    current: bool
    decision: str = ""


class Record(Struct, frozen=True, array_like=True):
    """Everything that is known about one task, as the store keeps it."""

    id: str
    spec: Spec
    state: State
    order: int
    submitted: float
    opened: float  #: when its present run began
    since: float  #: when it entered its state
    content: bool = False
    run: int = 1
    queue_limit: float | None = None
    errors: int = 0
    lost: int = 0
    memory_failures: int = 0
    poison: int = 0
    memory_gb: float | None = None
    made: int = 0  #: attempts so far
    retry_at: float | None = None
    started: float | None = None
    ended: float | None = None
    value: Raw = NIL
    blob: str = ""
    checkpoint: str = ""
    failure: Failure | None = None
    story: list[Step] = []
    attempts: list[AttemptView] = []
    open: list[OpenAttempt] = []


class Kept(Struct, frozen=True, array_like=True):
    """The part of the state that belongs to no single task, as the store keeps it."""

    lsn: int  #: facts up to here are in it
    order: int
    booking: int
    kinds: list[Kind]
    admissions: list[Admitted]
    aliases: dict[str, str]


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(Record).decode
encode_kept = msgspec.msgpack.Encoder().encode
decode_kept = msgspec.msgpack.Decoder(Kept).decode
