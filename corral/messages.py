"""One frozen struct per message: everything that crosses the wire, after its frames are parsed.

Three parts: what a client asks and is answered, what broker and worker tell each other, and the
views (task, worker, explanation) that API, command line and dashboard all show. How these become
frames lives in `corral.wire`. Hot messages are arrays (`array_like`), views are maps: the JSON of
a view is the stable contract that scripts read.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from corral.tasks import FEW, MANY, Failure, Needs, Spec, State

Raw = msgspec.Raw
NIL = Raw(b"\xc0")  #: msgpack nil

# Whatever a peer may send has a longest length (`corral.tasks.MANY`).
Request = Annotated[bytes, Meta(min_length=1, max_length=64)]
Ids = Annotated[list[str], Meta(max_length=1_000_000)]
Tokens = Annotated[list[bytes], MANY]
# Figures are finite, so that nobody has to think of a NaN in a sum or a deadline.
Amount = Annotated[float, Meta(ge=-1e6, le=1e6)]  #: cores or GiB
Seconds = Annotated[float, Meta(ge=-1e9, le=1e9)]
Moment = Annotated[float, Meta(ge=-1e12, le=1e12)]  #: wall-clock time in seconds
Bytes = Annotated[int, Meta(ge=0, le=1 << 62)]  #: a place in a file, or a length
NO_ROOM = "the broker is full"  # why a retry left a task as it was
MAX_REASON = 2000  # characters; what a person writes through the gateway has at most half
Reason = Annotated[str, Meta(max_length=MAX_REASON)]

# --- a client asks ----------------------------------------------------------------------
# The first field of every call is `request`: bytes that the client chose, echoed in each answer.


class Submit(Struct, frozen=True, array_like=True):
    """Store these tasks, all or none. Idempotent per `request`."""

    request: Request
    tasks: Annotated[list[Spec], MANY]
    collect: bool = False  #: send each outcome to this client as soon as it is recorded
    resend: bool = False  #: the same request was sent before


class Results(Struct, frozen=True, array_like=True):
    """Answer with the outcome of each task, now or when it ends. Ids are whole."""

    request: Request
    ids: Ids
    wait: bool = True  #: False: answer at once; tasks that go on are left out


class Show(Struct, frozen=True, array_like=True):
    """Views of single tasks. An id may be a unique prefix, or `last`."""

    request: Request
    ids: Ids


class List(Struct, frozen=True, array_like=True):
    """A page of tasks, newest first."""

    request: Request
    states: Annotated[list[State], FEW] = []  #: empty: all
    kind: str = ""
    project: str = ""
    worker: str = ""
    limit: int = 100
    before: str = ""  #: the id that ended the page before


class Explain(Struct, frozen=True, array_like=True):
    """Why a task does not run, worker by worker and need by need."""

    request: Request
    id: str


class Watch(Struct, frozen=True, array_like=True):
    """A stream of updates, from sequence number `since` on; None: from now."""

    request: Request
    ids: Ids = []  #: empty: every task
    since: int | None = None


class Unwatch(Struct, frozen=True, array_like=True):
    """End the stream that `watch` began."""

    request: Request
    watch: bytes


class Cancel(Struct, frozen=True, array_like=True):
    """Cancel these tasks for good: durable before it is answered. Ids are whole."""

    request: Request
    ids: Ids
    reason: Reason = ""


class Retry(Struct, frozen=True, array_like=True):
    """Open a new run of tasks that ended without success. Ids are whole."""

    request: Request
    ids: Ids


class Workers(Struct, frozen=True, array_like=True):
    """Every worker in the registry."""

    request: Request


class Drain(Struct, frozen=True, array_like=True):
    """Give a worker nothing new, and let go of what it runs by `policy` at the deadline."""

    request: Request
    worker: str
    reason: Reason = ""
    deadline: Seconds | None = None  #: seconds from now; None: no deadline
    policy: str = "wait"  #: wait | requeue | kill, once the deadline has passed


class Resume(Struct, frozen=True, array_like=True):
    """Give a drained or draining worker work again."""

    request: Request
    worker: str


class Status(Struct, frozen=True, array_like=True):
    """The broker's own figures."""

    request: Request


class Logs(Struct, frozen=True, array_like=True):
    """A piece of an attempt's log, from byte `offset` on."""

    request: Request
    id: str
    attempt: int = 0  #: 0: the last one
    offset: Bytes = 0
    size: Bytes = 65536


class Blob(Struct, frozen=True, array_like=True):
    """A piece of a large result, by its digest."""

    request: Request
    digest: str
    offset: Bytes = 0
    size: Bytes = 1 << 20


class Keys(Struct, frozen=True, array_like=True):
    """List, add or revoke keys on the running broker."""

    request: Request
    action: str = "list"  #: list | add | revoke
    public: str = ""  #: Z85, 40 characters
    role: str = ""  #: client | viewer | operator | worker
    name: str = ""


class Backup(Struct, frozen=True, array_like=True):
    """Copy the store of the running broker; answered when the copy is durable.

    The copy holds every task that was acknowledged before. Idempotent per `request`.
    """

    request: Request
    to: str = ""  #: a new or empty folder on the broker's machine; "": one in its data folder


Call = (
    Submit | Results | Show | List | Explain | Watch | Unwatch | Cancel | Retry | Workers | Drain
    | Resume | Status | Logs | Blob | Keys | Backup
)  # fmt: skip

#: service name -> struct of its body
SERVICES: dict[str, type[Call]] = {
    f"corral.{cls.__name__.lower()}": cls
    for cls in (
        Submit, Results, Show, List, Explain, Watch, Unwatch, Cancel, Retry, Workers, Drain,
        Resume, Status, Logs, Blob, Keys, Backup,
    )
}  # fmt: skip
SERVICE_OF: dict[type[Call], str] = {cls: name for name, cls in SERVICES.items()}

#: service name -> roles whose keys may call it, beside `operator`, who may call everything
ROLES: dict[str, frozenset[str]] = {
    **dict.fromkeys(SERVICES, frozenset({"client", "viewer"})),
    **dict.fromkeys(("corral.submit", "corral.cancel", "corral.retry"), frozenset({"client"})),
    **dict.fromkeys(("corral.drain", "corral.resume", "corral.keys", "corral.backup"), frozenset()),
}


# --- views: the API's own structs -------------------------------------------------------


class GpuView(Struct, frozen=True, kw_only=True):
    uuid: str
    memory_gb: float
    name: str = ""
    declared: bool = False  #: named in the configuration, not found by NVML
    holder: str = ""  #: id of the task that has it
    foreign_gb: float = 0.0  #: memory that programs outside Corral use


class Step(Struct, frozen=True, array_like=True):
    """One line of a task's story."""

    at: float  #: seconds since the epoch
    state: State
    cause: str
    why: str = ""
    worker: str = ""
    attempt: int = 0


class AttemptView(Struct, frozen=True, kw_only=True):
    number: int
    worker: str
    started: float
    ended: float | None = None
    outcome: str = ""  #: "" while it runs, else ok, error, out_of_memory, time_limit, lost, ...
    gpus: list[str] = []
    variant: int = 0  #: index into the task's needs
    decision: str = ""  #: why this variant and this worker


class TaskView(Struct, frozen=True, kw_only=True):
    id: str
    kind: str
    state: State
    name: str = ""
    project: str = ""
    priority: int = 0
    params: Any = None
    after: dict[str, str] = {}
    needs: Needs = ()
    run: int = 1
    attempts: list[AttemptView] = []
    worker: str = ""
    progress: float | None = None  #: 0 to 1
    metrics: dict[str, float] = {}
    submitted: float = 0.0
    started: float | None = None
    ended: float | None = None
    retry_at: float | None = None
    failure: Failure | None = None
    result_bytes: int | None = None
    story: list[Step] = []


class KindView(Struct, frozen=True, kw_only=True):
    kind: str
    workers: int  #: live and open
    code_version: str = ""
    data_snapshot: str = ""
    content: bool = False  #: content identifies a task
    queued: int = 0  #: tasks that may start as soon as a worker fits
    slowest: float = 0.0  #: of attempts that run: the longest, in multiples of what was expected


class WorkerView(Struct, frozen=True, kw_only=True):
    name: str
    status: str  #: available, busy, suspect, unavailable, gone, draining, drained
    health: str
    admission: str
    incarnation: str = ""
    dialect: str = "native"
    kinds: list[str] = []
    slots: int = 1
    slots_used: int = 0
    cpus: float = 0.0
    cpus_used: float = 0.0
    memory_gb: float = 0.0
    memory_gb_used: float = 0.0
    gpus: list[GpuView] = []
    labels: dict[str, str] = {}
    caches: list[str] = []
    tasks: list[str] = []
    seen: float = 0.0  #: last sign of life, seconds since the epoch
    since: float = 0.0  #: registered
    drained_by: str = ""
    drain_reason: str = ""
    drain_since: float | None = None
    about: dict[str, str] = {}


class Verdict(Struct, frozen=True, kw_only=True):
    """One need against what is there. `met` is the predicate the scheduler itself asks."""

    need: str  #: kind, health, admission, slots, cpus, memory_gb, gpus, label.x, named.x, reserved
    wanted: str
    has: str
    met: bool


class WorkerVerdict(Struct, frozen=True, kw_only=True):
    worker: str
    variant: int
    verdicts: list[Verdict]
    fits: bool


class Part(Struct, frozen=True, kw_only=True):
    """One part of a cure: apply all of them and the task starts; leave one out and it does not.

    Parts change the world as it is now, all at once; nothing else happens meanwhile. By `action`:

    - `free`: `amount` of `need` (slots, cpus, memory_gb, gpus) in use on the worker `subject` must
      be let go; of GPUs, the smallest that would do
    - `add`: the machine of worker `subject` must have `amount` more of `need` than it has; a GPU
      has the memory that the task asks for
    - `resume`, `revive`: worker `subject` must be open, or live, again
    - `install`: worker `subject` must serve the task's kind
    - `label`: worker `subject` must carry the label that `need` names (`label.x`)
    - `named`: `amount` of the fleet-wide resource `subject` must be let go, or there must be more
    - `finish`: the parent `subject` must succeed
    - `ahead`: the `amount` queued tasks that the queue offers before it must be gone; where
      `subject` names a worker, only those that this worker could run
    - `wait`: `amount` seconds must pass, for `need` (back_off, or gpus: the bounded wait for a GPU)
    - `add_worker`: one more worker, with exactly what the variant asks for, must serve `subject`,
      the task's kind
    """

    action: str  #: what would have to change, a word for programs
    subject: str  #: worker, task, resource or kind that it concerns
    need: str = ""
    amount: float = 0.0  #: how much of it
    variant: int = 0  #: of the task's needs, that the cure leads to
    text: str = ""  #: the same for people


class Explanation(Struct, frozen=True, kw_only=True):
    id: str
    state: State
    summary: str
    reasons: list[str] = []  #: causes that lie with no single worker: parents, back-off, the queue
    workers: list[WorkerVerdict] = []
    cure: list[Part] = []
    decision: str = ""  #: for a running task: why it runs where it runs
    blocked: str = ""  #: why no worker that is there could run it, even an idle one


class Update(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a watch: a durable change of state, or sampled telemetry (`cause` progress)."""

    seq: int
    at: float
    id: str
    kind: str = ""
    state: State | None = None
    cause: str = ""
    why: str = ""
    worker: str = ""
    attempt: int = 0
    progress: float | None = None
    metrics: dict[str, float] = {}
    name: str = ""  #: told, as the next two are, when the task is submitted
    project: str = ""
    priority: int = 0
    gpus: list[str] = []  #: that it was given; told when it is assigned


class SubmittedView(Struct, frozen=True, kw_only=True):
    """A task that was accepted."""

    id: str
    known: bool  #: it was there already
    warnings: tuple[str, ...]  #: why it cannot run at present
    kept: tuple[str, ...]  #: settings that were asked for, while it goes on with its own


class ResultView(Struct, frozen=True, kw_only=True):
    """What a task returned, or why it did not; while it goes on, only its state."""

    id: str
    state: State
    value: Any
    failure: Failure | None


class StoreView(Struct, frozen=True, kw_only=True):
    """What the broker has on its disk, in bytes."""

    journal: int  #: entries that are not folded into the tables yet
    tables: int
    blobs: int  #: results, and checkpoints, that are files
    free: int  #: what the file system still gives


class BrokerView(Struct, frozen=True, kw_only=True):
    version: str
    epoch: int
    seq: int  #: last durable sequence number
    started: float
    endpoint: str
    data: str
    tasks: dict[str, int]  #: state -> how many there are, of all that the store keeps
    workers: dict[str, int]  #: status -> how many
    kinds: list[KindView] = []
    named: dict[str, tuple[int, int]] = {}  #: named resource -> (used, there are)
    refused: dict[str, int] = {}  #: malformed and refused messages by reason
    store_full: bool = False
    rss_bytes: int = 0
    store: StoreView | None = None
    waited: float | None = None  #: seconds that the next task in line has waited, in the worst line


class KeyView(Struct, frozen=True, kw_only=True):
    public: str
    role: str
    name: str
    added: float
    revoked: float | None = None


class BackupView(Struct, frozen=True, kw_only=True):
    """A copy of the store. A broker can be started on it."""

    path: str  #: on the broker's machine
    bytes: int
    tasks: int
    seconds: float


# --- the broker answers -----------------------------------------------------------------
# Answers to one client travel together: the body of a reply is a list of these.


class Outcome(Struct, frozen=True, array_like=True):
    """How a run ended."""

    id: str
    state: State
    value: Raw = NIL  #: the handler's return value, packed
    blob: str = ""  #: its digest when it is too large to travel inline
    failure: Failure | None = None


class Accepted(Struct, frozen=True, array_like=True, tag=0):
    """The tasks of one submission are on stable storage."""

    request: bytes
    ids: list[str] | None = None  #: None: `tasks.request_id(request, index)`
    known: list[int] = []  #: indices of tasks that existed already
    warnings: list[str] = []  #: why some of them cannot run at present
    #: index -> settings in which one that goes on differs from what is asked, and which it keeps
    kept: dict[int, list[str]] | None = None


class Refused(Struct, frozen=True, array_like=True, tag=1):
    """The call changed nothing. `code` and `fields` name a class of `corral.errors`."""

    request: bytes
    code: str
    fields: dict[str, Any] = {}


class Outcomes(Struct, frozen=True, array_like=True, tag=2):
    """Ended tasks that the client collects. `last`: nothing more comes for this request.

    Without a request they are pushed, those that the client submitted with `collect`; `last` then
    says that the broker has lost track of all that this client waits for, which must ask again.
    """

    request: bytes
    items: list[Outcome]
    last: bool = False


class Shown(Struct, frozen=True, array_like=True, tag=3):
    request: bytes
    tasks: list[TaskView]


class Explained(Struct, frozen=True, array_like=True, tag=4):
    request: bytes
    explanation: Explanation


class Updates(Struct, frozen=True, array_like=True, tag=5):
    """A piece of a watch. `snapshot`: the watcher was too far behind, so forget and begin here."""

    request: bytes
    items: list[Update]
    snapshot: list[TaskView] | None = None
    seq: int = 0
    last: bool = False


class Done(Struct, frozen=True, array_like=True, tag=6):
    """Cancel, retry, drain, resume, unwatch: what changed, by id or name."""

    request: bytes
    changed: list[str] = []
    unchanged: dict[str, str] = {}  #: id -> why it was left as it is


class WorkersAre(Struct, frozen=True, array_like=True, tag=7):
    request: bytes
    workers: list[WorkerView]


class StatusIs(Struct, frozen=True, array_like=True, tag=8):
    request: bytes
    broker: BrokerView


class Chunk(Struct, frozen=True, array_like=True, tag=9):
    """A piece of a log or blob. `end`: nothing follows at present."""

    request: bytes
    data: bytes
    offset: int
    total: int
    end: bool


class KeysAre(Struct, frozen=True, array_like=True, tag=10):
    request: bytes
    keys: list[KeyView]


class BackedUp(Struct, frozen=True, array_like=True, tag=11):
    request: bytes
    backup: BackupView


class Underway(Struct, frozen=True, array_like=True, tag=12):
    """A call that takes long is being worked on: its answer is still to come."""

    request: bytes


Answer = (
    Accepted | Refused | Outcomes | Shown | Explained | Updates | Done | WorkersAre | StatusIs
    | Chunk | KeysAre | BackedUp | Underway
)  # fmt: skip


# --- broker and worker ------------------------------------------------------------------


class Gpu(Struct, frozen=True, array_like=True):
    uuid: str
    memory_gb: Amount
    name: str = ""
    declared: bool = False
    foreign_gb: Amount = 0.0


class Kind(Struct, frozen=True, array_like=True):
    """What a worker announces about one handler."""

    kind: str
    schema: str = ""  #: JSON schema of the params; "": anything goes
    code_version: str = ""
    data_snapshot: str = ""
    content: bool = False  #: content identifies a task
    needs: Needs = ()
    strategy: str = "resource_aware"
    never: Annotated[tuple[str, ...], FEW] = ()  #: error types that are not retried
    frames: bool = False  #: takes raw Majordomo frames
    extra: str = ""  #: what pip must install before it can run here: corral[research]


class Document(Struct, frozen=True, kw_only=True):
    """The capability document: the extra frame of READY, at most 64 KiB."""

    name: str
    incarnation: str
    kinds: Annotated[list[Kind], FEW]
    session: int = 0  #: counts the READYs of this incarnation; one that comes late is known by it
    started: Moment = 0.0  #: when this incarnation did, by the worker's clock
    v: int = 1
    slots: int = 1
    cpus: Amount = 1.0
    memory_gb: Amount = 0.0
    gpus: Annotated[list[Gpu], FEW] = []
    labels: Annotated[dict[str, str], FEW] = {}
    caches: Annotated[list[str], FEW] = []
    extensions: Annotated[list[str], FEW] = []
    inflight: Tokens = []  #: tokens running or spooled
    about: Annotated[dict[str, str], FEW] = {}  #: processor, system, versions: for people


class Welcome(Struct, frozen=True, array_like=True):
    """The broker's answer to a capability document."""

    epoch: int
    heartbeat: float  #: seconds between beats
    lease: float  #: seconds without a beat after which the worker is unavailable
    now: float
    adopted: Tokens  #: tokens that stay current; the worker stops and forgets all others


class Item(Struct, frozen=True, array_like=True):
    """One attempt, as its worker gets it."""

    token: bytes
    id: str
    attempt: int
    params: Raw
    parents: Annotated[dict[str, Raw], MANY] = {}
    checkpoint: bytes | None = None  #: what an earlier attempt saved last


class Lane(Struct, frozen=True, array_like=True):
    """A booking and the attempts that run on it, one after the other."""

    booking: int
    kind: str
    cpus: float
    memory_gb: float
    gpus: Annotated[list[str], FEW]
    run_limit: float | None
    items: Annotated[list[Item], MANY]


class Assign(Struct, frozen=True, array_like=True):
    lanes: Annotated[list[Lane], MANY]


class Ended(Struct, frozen=True, array_like=True):
    """How one attempt ended on its worker."""

    token: bytes
    outcome: str  #: ok, error, out_of_memory, time_limit, killed, cancelled, handed_back, refused
    seconds: Seconds = 0.0  #: run time
    value: Raw = NIL
    failure: Failure | None = None
    waited: Seconds = 0.0  #: seconds between its arrival at the worker and its start
    peak_gb: Amount = 0.0


class Finished(Struct, frozen=True, array_like=True):
    """RESULTS: kept by the worker until RESULT_ACK names `seq`."""

    seq: int
    items: Annotated[list[Ended], MANY]


class ResultAck(Struct, frozen=True, array_like=True):
    seqs: Annotated[list[int], MANY]


class Progressed(Struct, frozen=True, array_like=True):
    token: bytes
    fraction: float
    metrics: Annotated[dict[str, float], FEW] = {}
    started: bool = False  #: True: nothing more than that the attempt began


class Progress(Struct, frozen=True, array_like=True):
    items: Annotated[list[Progressed], MANY]


class CancelAttempts(Struct, frozen=True, array_like=True):
    tokens: Tokens
    reason: str
    grace: float  #: seconds between asking and killing


class Recall(Struct, frozen=True, array_like=True):
    """Hand back, by NACK, those of these attempts that have not begun."""

    tokens: Tokens


class Nack(Struct, frozen=True, array_like=True):
    """Attempts that never began here."""

    tokens: Tokens
    reason: str = ""


class DrainWorker(Struct, frozen=True, array_like=True):
    """To the worker: stop (or resume) asking. From it: it wants to leave and takes nothing new."""

    draining: bool
    reason: str = ""


class Resources(Struct, frozen=True, array_like=True):
    """What changed on the worker since its READY."""

    memory_gb: Amount
    gpus: Annotated[list[Gpu], FEW]
    caches: Annotated[list[str], FEW]


class Checkpoint(Struct, frozen=True, array_like=True):
    token: bytes
    data: bytes


class FetchLog(Struct, frozen=True, array_like=True):
    fetch: int
    id: str
    attempt: int
    offset: int
    size: int


class LogChunk(Struct, frozen=True, array_like=True):
    fetch: int
    data: bytes
    total: int
    found: bool = True


Extension = (
    Welcome | CancelAttempts | Progress | ResultAck | Nack | DrainWorker | Resources | Checkpoint
    | Assign | Finished | Recall | FetchLog | LogChunk
)  # fmt: skip

#: command byte -> struct of its body; only between peers that announced them
EXTENSIONS: dict[int, type[Extension]] = {
    0x40: Welcome,
    0x41: CancelAttempts,
    0x42: Progress,
    0x43: ResultAck,
    0x44: Nack,
    0x45: DrainWorker,
    0x46: Resources,
    0x47: Checkpoint,
    0x48: Assign,
    0x49: Finished,
    0x4A: Recall,
    0x4B: FetchLog,
    0x4C: LogChunk,
}
CODE_OF: dict[type[Extension], int] = {cls: code for code, cls in EXTENSIONS.items()}
