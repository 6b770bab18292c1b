"""Who takes part in a story: clients and workers, native and plain, that speak in messages.

Each has an inbox. What the machine sends has to be taken out of it by name, in order. The machine,
the clock and what must be so at the end are in `tests.unit.core.story`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from broker.core.effects import (
    AssignTask,
    Disconnect,
    ReplyPlain,
)
from broker.core.events import Heard, PeerLost
from broker.core.resources import Worker
from corral import messages, tasks
from corral.messages import (
    Accepted,
    CancelAttempts,
    Checkpoint,
    Document,
    Done,
    Ended,
    Finished,
    Gpu,
    Kind,
    Nack,
    Outcome,
    Outcomes,
    Progress,
    Progressed,
    Raw,
    Refused,
    ResultAck,
    Welcome,
)
from corral.tasks import Failure, Needs, Spec
from corral.wire import (
    Beaten,
    Called,
    Dialect,
    Extended,
    Inbound,
    Parted,
    Readied,
    Replied,
    Requested,
)

if TYPE_CHECKING:
    from tests.unit.core.story import Story

ANYTHING = Kind("work", needs=tasks.needs(cpus=1.0))
T = TypeVar("T")


def packed(value: Any) -> Raw:
    """A value as the wire carries it."""
    return Raw(msgspec.msgpack.encode(value))


def spec(kind: str = "work", params: Any = None, **fields: Any) -> Spec:
    """A task as a client submits it."""
    return Spec(kind, packed({} if params is None else params), **fields)


def gpu(uuid: str, memory_gb: float = 24.0, foreign_gb: float = 0.0) -> Gpu:
    """A card."""
    return Gpu(uuid, memory_gb, "card", False, foreign_gb)


def kind(name: str = "work", needs: Needs = (), **fields: Any) -> Kind:
    """What a worker announces about a handler."""
    return Kind(name, needs=needs, **fields)


def by_worker(workers: Iterable[Native]) -> dict[str, list[str]]:
    """What each worker was given, in order: worker -> ids."""
    found: dict[str, list[str]] = {}
    for worker in workers:
        while worker.inbox:
            assigned = worker.takes(AssignTask)
            worker.tokens[assigned.id] = assigned.token
            found.setdefault(worker.name, []).append(assigned.id)
    return found


class Peer:
    """Somebody at the other end of the socket."""

    def __init__(self, story: Story, name: str) -> None:
        self.story = story
        self.name = name
        self.inbox: list[Any] = []
        self.beats = 0
        self._connections = 0
        self.connect()

    def connect(self) -> None:
        """Come from a new connection, with a new routing id."""
        self._connections += 1
        self.id = f"{self.name}#{self._connections}".encode()
        self.story.peers[self.id] = self

    def says(self, message: Inbound, who: str = "", blobs: dict[bytes, str] | None = None) -> None:
        """Send a message; a turn follows unless several things happen together.

        Args:
            blobs: token -> digest of a value that the shell has put on disk.
        """
        self.story.happens(Heard(self.id, message, who, blobs or {}))

    def takes(self, kind: type[T]) -> T:
        """The next thing in the inbox, which must be of this kind."""
        assert self.inbox, f"{self.name} got nothing; a {kind.__name__} was expected"
        found = self.inbox.pop(0)
        assert isinstance(found, kind), f"{self.name} got {found!r}, not a {kind.__name__}"
        return found

    def hears_nothing(self) -> None:
        """Nothing came."""
        assert self.inbox == [], f"{self.name} got {self.inbox!r}"


class Client(Peer):
    """A native client."""

    def __init__(self, story: Story, name: str) -> None:
        super().__init__(story, name)
        self.requests = 0

    def request(self) -> bytes:
        """A new request id."""
        self.requests += 1
        return f"{self.name}/{self.requests}".encode()

    def calls(self, call: messages.Call, who: str = "") -> None:
        """Call the broker."""
        self.says(Called(call), who)

    def submits(self, *specs: Spec, collect: bool = False, request: bytes = b"") -> list[str]:
        """Submit tasks, which are accepted; returns their ids."""
        request = request or self.request()
        self.calls(messages.Submit(request, list(specs), collect))
        ids, _, _ = self.is_accepted(request, len(specs))
        return ids

    def submit(self, kind: str = "work", params: Any = None, **fields: Any) -> str:
        """Submit one task."""
        [id] = self.submits(spec(kind, params, **fields))
        return id

    def is_accepted(self, request: bytes, count: int) -> tuple[list[str], list[int], list[str]]:
        """Ids, indices of those that were known, warnings."""
        accepted = self.takes(Accepted)
        assert accepted.request == request
        ids = accepted.ids or [tasks.request_id(request, index) for index in range(count)]
        return ids, accepted.known, accepted.warnings

    def is_refused(self, *specs: Spec) -> Refused:
        """Submit what is refused; nothing of it may be stored."""
        before = dict(self.story.state.tasks)
        self.calls(messages.Submit(self.request(), list(specs)))
        assert self.story.state.tasks == before
        return self.takes(Refused)

    def is_told(self, id: str) -> Outcome:
        """A single outcome that was pushed or asked for."""
        [outcome] = self.takes(Outcomes).items
        assert outcome.id == id
        return outcome

    def asks(self, *ids: str, wait: bool = True) -> bytes:
        """Ask for outcomes."""
        request = self.request()
        self.calls(messages.Results(request, list(ids), wait))
        return request

    def cancels(self, *ids: str, reason: str = "", who: str = "") -> Done:
        """Cancel tasks."""
        self.calls(messages.Cancel(self.request(), list(ids), reason), who)
        return self.takes(Done)

    def retries(self, *ids: str, who: str = "") -> Done:
        """Open new runs."""
        self.calls(messages.Retry(self.request(), list(ids)), who)
        return self.takes(Done)

    def is_refused_a_retry(self, *ids: str) -> Refused:
        """Ask for new runs, and get none."""
        self.calls(messages.Retry(self.request(), list(ids)))
        return self.takes(Refused)

    def drains(self, worker: str, who: str = "", **fields: Any) -> None:
        """Drain a worker."""
        self.calls(messages.Drain(self.request(), worker, **fields), who)
        assert self.takes(Done).changed == [worker]

    def resumes(self, worker: str, who: str = "") -> None:
        """Resume a worker."""
        self.calls(messages.Resume(self.request(), worker), who)
        assert self.takes(Done).changed == [worker]


class Native(Peer):
    """A native worker. It beats by itself while time passes, unless it is `silent`."""

    def __init__(self, story: Story, name: str, **document: Any) -> None:
        super().__init__(story, name)
        self.silent = False
        self.connected = False
        self.starts = 1
        self.fields: dict[str, Any] = {"kinds": [ANYTHING], "cpus": 8.0, "memory_gb": 32.0}
        self.fields |= document
        self.tokens: dict[str, bytes] = {}  #: task -> the last token it was given
        self.seq = 0

    @property
    def record(self) -> Worker:
        """What the broker knows of it."""
        return self.story.state.workers[self.name]

    def registers(self, *inflight: bytes, **document: Any) -> Welcome:
        """READY with a capability document, and WELCOME."""
        self.fields |= document
        self.connected = True
        self.says(self.readies(*inflight))
        return self.takes(Welcome)

    def readies(self, *inflight: bytes) -> Readied:
        """Its READY."""
        document = Document(
            name=self.name,
            incarnation=f"{self.name}.{self.starts}",
            inflight=list(inflight),
            **self.fields,
        )
        return Readied(Dialect.MDP02, "corral", document)

    def returns(self, *inflight: bytes, **document: Any) -> Welcome:
        """The same process comes back on a new connection."""
        self.connect()
        return self.registers(*inflight, **document)

    def restarts(self, *inflight: bytes, **document: Any) -> Welcome:
        """A new process of the same name registers."""
        self.starts += 1
        return self.returns(*inflight, **document)

    def gets(self, *ids: str) -> list[AssignTask]:
        """Exactly these tasks are next in its inbox, in this order."""
        found: list[AssignTask] = []
        while self.inbox and isinstance(self.inbox[0], AssignTask):
            found.append(self.takes(AssignTask))
        assert [one.id for one in found] == list(ids), f"{self.name} got {found!r}"
        for one in found:
            self.tokens[one.id] = one.token
        return found

    def gets_any(self, assigned: AssignTask) -> None:
        """This one, wherever it stands in the inbox."""
        self.inbox.remove(assigned)
        self.tokens[assigned.id] = assigned.token

    def token(self, id: str) -> bytes:
        """The token of the attempt it was given last."""
        return self.tokens[id]

    def ends(self, *ids: str, outcome: str = "ok", seconds: float = 1.0, **fields: Any) -> None:
        """Attempts are over; the broker acknowledges."""
        self.finishes(*(Ended(self.token(id), outcome, seconds, **fields) for id in ids))

    def finishes(self, *ended: Ended, blobs: dict[bytes, str] | None = None) -> None:
        """Report ends, and take the acknowledgement."""
        self.seq += 1
        self.says(Extended(Finished(self.seq, list(ended))), blobs=blobs)
        acks = [one for one in self.inbox if isinstance(one, ResultAck)]
        assert [ack.seqs for ack in acks] == [[self.seq]]
        self.inbox.remove(acks[0])

    def fails(
        self, id: str, type: str = "ValueError", outcome: str = "error", message: str = "bad"
    ) -> None:
        """An attempt did not succeed."""
        self.ends(id, outcome=outcome, failure=Failure(type, message))

    def begins(self, *ids: str) -> None:
        """Attempts have begun."""
        items = [Progressed(self.token(id), 0.0, started=True) for id in ids]
        self.says(Extended(Progress(items)))

    def saves(self, token: bytes, digest: str) -> None:
        """A checkpoint, which the shell has put on disk."""
        self.says(Extended(Checkpoint(token, b"state")), blobs={token: digest} if digest else {})

    def hands_back(self, *ids: str) -> None:
        """NACK: these attempts never began here."""
        self.says(Extended(Nack([self.token(id) for id in ids], "recalled")))

    def is_asked_to_stop(self, *ids: str) -> CancelAttempts:
        """CANCEL for exactly these attempts."""
        asked = self.takes(CancelAttempts)
        assert asked.tokens == [self.token(id) for id in ids]
        return asked

    def lets_go(self, id: str) -> None:
        """It stopped what it was asked to stop."""
        self.ends(id, outcome="cancelled")

    def beats_now(self) -> None:
        """HEARTBEAT."""
        self.says(Beaten(Dialect.MDP02))

    def parts(self) -> None:
        """DISCONNECT: it leaves in order."""
        self.connected = False
        self.says(Parted(Dialect.MDP02))

    def vanishes(self) -> None:
        """Its connection is gone, as ROUTER says when something is sent."""
        self.connected = False
        self.story.happens(PeerLost(self.id))


class Plain(Peer):
    """A peer that speaks plain Majordomo of one dialect: a client or a worker."""

    def __init__(self, story: Story, name: str, dialect: Dialect) -> None:
        super().__init__(story, name)
        self.dialect = dialect

    def requests(self, service: str, *frames: bytes) -> None:
        """Ask for a service."""
        self.says(Requested(self.dialect, service, list(frames)))

    def hears(self, *frames: bytes, service: str, final: bool = True, blob: str = "") -> None:
        """A reply came, and it is this."""
        reply = self.takes(ReplyPlain)
        assert (reply.dialect, reply.service) == (self.dialect, service)
        assert (reply.body, reply.final, reply.blob) == (list(frames), final, blob)

    def serves(self, service: str) -> None:
        """READY for one service."""
        self.says(Readied(self.dialect, service, None))

    def gets(self, id: str) -> bytes:
        """A task came; returns its token."""
        assigned = self.takes(AssignTask)
        assert (assigned.id, assigned.dialect, assigned.native) == (id, self.dialect, False)
        return assigned.token

    def takes_token(self) -> bytes:
        """Whatever task came; its token."""
        return self.takes(AssignTask).token

    def replies(self, token: bytes, *frames: bytes, final: bool = True, blob: str = "") -> None:
        """Answer a request."""
        blobs = {token: blob} if blob else {}
        self.says(Replied(self.dialect, token, list(frames), final), blobs=blobs)

    def beats_now(self) -> None:
        """HEARTBEAT."""
        self.says(Beaten(self.dialect))

    def parts(self) -> None:
        """DISCONNECT."""
        self.says(Parted(self.dialect))

    def is_turned_away(self) -> None:
        """DISCONNECT from the broker."""
        assert self.takes(Disconnect).dialect == self.dialect
