"""What can happen to an agent, and what its mind then has it do. Data only.

`worker.core` turns the first into the second; `worker.agent` brings the first about and carries
out the second.
"""

from __future__ import annotations

from msgspec import Struct

from corral.messages import Ended, Extension, FetchLog, Raw, Resources
from corral.wire import Beaten, Parted
from worker.pipe import Ask, FromChild, GiveBack, Work

# --- what happens -----------------------------------------------------------------------


class Connected(Struct, frozen=True):
    """A handshake with a broker succeeded on the newest socket."""


class Lost(Struct, frozen=True):
    """That connection ended, or could not be made."""

    why: str


class Heard(Struct, frozen=True):
    """The broker said something."""

    message: Extension | Beaten | Parted


class ChildSaid(Struct, frozen=True):
    """A child process said something."""

    child: int
    message: FromChild


class ChildEnded(Struct, frozen=True):
    """A child process is dead, and so is all that it started."""

    child: int
    how: str  #: "SIGSEGV", "exit status 3"
    begun: int  #: how many attempts it began in its life


class MemoryExceeded(Struct, frozen=True):
    """A child and its descendants hold more memory than its lane has booked."""

    child: int
    used_gb: float


class Changed(Struct, frozen=True):
    """What the machine has is no longer what READY said."""

    resources: Resources


class StopRequested(Struct, frozen=True):
    """Leave: hand work back and go. Said twice: at once."""

    reason: str
    grace: float  #: seconds for attempts to save a checkpoint


class Ticked(Struct, frozen=True):
    """Time has passed."""


Event = (
    Connected | Lost | Heard | ChildSaid | ChildEnded | MemoryExceeded | Changed | StopRequested
    | Ticked
)  # fmt: skip

# --- what to do -------------------------------------------------------------------------


class Greet(Struct, frozen=True):
    """READY, with the tokens in flight: those whose work would be lost come first."""

    inflight: list[bytes]


class Beat(Struct, frozen=True):
    """HEARTBEAT."""


class Depart(Struct, frozen=True):
    """DISCONNECT."""


class Send(Struct, frozen=True):
    """An extension command to the broker."""

    message: Extension


class Reconnect(Struct, frozen=True):
    """Close the socket and open a new one, to the next endpoint."""

    why: str


class Spawn(Struct, frozen=True):
    """Start a child process."""

    child: int
    kind: str
    gpus: tuple[str, ...]  #: UUIDs
    threads: int


class Confine(Struct, frozen=True):
    """Bounds for what a child runs next."""

    child: int
    cores: tuple[int, ...]  #: empty: all
    memory_gb: float  #: 0: no limit


class Tell(Struct, frozen=True):
    """A message to a child."""

    child: int
    message: Work | Ask | GiveBack


class Retire(Struct, frozen=True):
    """Let an idle child end by itself."""

    child: int


class Kill(Struct, frozen=True):
    """Kill a child and everything that it started."""

    child: int


class Batch(Struct, array_like=True):
    """Results on their way: one RESULTS message, kept until the broker acknowledges `seq`."""

    seq: int
    tokens: list[bytes]
    items: Raw | list[Ended]
    on_disk: bool = False


class Keep(Struct, frozen=True):
    """Put results on disk."""

    batches: list[Batch]


class Forget(Struct, frozen=True):
    """Remove results from the disk."""

    seqs: list[int]


class Bury(Struct, frozen=True):
    """This attempt died with its child: what that wrote is its log, its workdir goes."""

    child: int
    id: str
    attempt: int


class ReadLog(Struct, frozen=True):
    """Answer with a piece of an attempt's log."""

    fetch: FetchLog
    child: int | None  #: the child that runs the attempt now


class Say(Struct, frozen=True):
    """A line for the log."""

    text: str
    warning: bool = False


class Exit(Struct, frozen=True):
    """End the agent."""

    status: int


Instruction = (
    Greet | Beat | Depart | Send | Reconnect | Spawn | Confine | Tell | Retire | Kill | Keep
    | Forget | Bury | ReadLog | Say | Exit
)  # fmt: skip
