"""The store: what a broker keeps on stable storage, as a contract that engines implement.

It knows nothing of what a task means: entries, records and the document are bytes that the core
packs and unpacks. `broker.store.sqlite` is the embedded engine; the suite in tests/unit/store is
what any engine has to pass.

Three things are kept. The **journal** is the truth: one row for all that one turn of the broker
decided, numbered 1, 2, 3 without a gap (its lsn, log sequence number). **Rows** are the tasks as
tables, for queries and for letting go of memory; the **document** is whatever else the core
remembers. Both follow the journal from time to time (`fold`), after which its older rows go.
Large values are **blobs**, named by their digest.

How a broker uses it, all from one thread:

1. `lead`, then `load`, then `read(after=loaded.lsn)`. An entry counts for a task only when its lsn
   is above that task's `Row.lsn`, and for the document when it is above `loaded.state_lsn`; ask
   `find` about a task that an entry names and that is not among the loaded rows.
2. Each turn: `blob_put` what is large, `append` once, and only then send.
3. When enough has changed: `fold`, in pieces of about 1,000 rows, so that no pause is long.
4. Every second or so: `renew`. Now and then: `expired` and `fold(deletes=...)`, then `sweep`.
5. `append` or `blob_put` raised `StoreFull`: nothing of it was stored. Load again, refuse new work
   while `full` says why, and go on appending what must still land: the store has just given up its
   reserve for that. `renew` takes it back and clears `full` when there is room again.
6. `Fenced`: somebody else leads. Say nothing more to anybody and stop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct


class Row(Struct, frozen=True, gc=False):
    """One task as the tables know it. Only `record` holds all of it, packed by the core."""

    id: str
    state: str
    live: bool  #: memory needs it after a restart: it is not over, or something still runs for it
    kind: str
    project: str
    worker: str  #: of the last attempt
    submitted: float  #: seconds since the epoch
    ended: float | None  #: seconds since the epoch
    lsn: int  #: the last journal row that this row holds
    blobs: tuple[str, ...]  #: digests that the record names: `sweep` leaves them alone
    record: bytes


class Loaded(Struct, frozen=True):
    """What a leader starts from."""

    state: bytes  #: the document of the last fold; b"" at first
    state_lsn: int  #: the last journal row that the document holds
    rows: Iterator[Row]  #: the live rows; read them before the next write
    lsn: int  #: rows and document hold every journal row up to this one; it is gone
    last: int  #: the newest journal row
    counts: dict[str, int]  #: state -> rows


class Usage(Struct, frozen=True):
    """Bytes on disk."""

    journal_bytes: int  #: of the entries that are not folded yet
    db_bytes: int  #: of the database, its write-ahead log and free pages included
    blob_bytes: int
    free_bytes: int  #: what the file system still gives


class Copied(Struct, frozen=True):
    """What a backup holds."""

    bytes: int
    tasks: int


class Store(Protocol):
    """One leader at a time. Every method may raise `StoreCorrupt`; all but `lead` want a leader."""

    epoch: int  #: the fencing epoch of this leader; 0 before `lead`
    full: str  #: why new work is refused: no room, or a write failed; empty when it is not
    notes: tuple[str, ...]  #: what `lead` found worth a warning, as sentences

    def lead(self, owner: str) -> int:
        """Become the leader, or raise `StoreInUse`. Returns an epoch that was never used before.

        Raises:
            StoreInUse: another process leads; names its pid.
            StoreRefused: no place for a store: read-only, a network file system.
            StoreNewer: a newer Corral made it.
        """

    def renew(self) -> None:
        """Check that this is still the leader, and look after the disk. About once a second.

        Raises:
            Fenced: somebody else leads, or the store was taken away.
        """

    def append(self, epoch: int, entry: bytes) -> int:
        """Write one journal row; it is on stable storage when this returns. Returns its lsn.

        Raises:
            Fenced: `epoch` does not lead; nothing was stored.
            StoreFull: the disk did not take it; nothing was stored and its lsn is free.
        """

    def read(self, after: int, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
        """The journal rows with an lsn above `after` that are not folded, in order, checked.

        Exhaust or drop the iterator before the next write. Raises `StoreCorrupt`, naming the lsn,
        at a row that is missing or whose checksum is wrong.
        """

    def load(self) -> Loaded:
        """The document, the live rows, and where the journal takes over."""

    def fold(
        self,
        epoch: int,
        rows: Sequence[Row] = (),
        deletes: Sequence[str] = (),
        state: bytes | None = None,
        trim_to: int = 0,
    ) -> None:
        """One transaction: put `rows`, delete rows by id, replace the document, trim the journal.

        `state` is the document as of the newest journal row. `trim_to` says that rows and
        document now hold every journal row up to it, so those go; 0 leaves the journal alone.

        Raises:
            Fenced, StoreFull: nothing of it was stored.
        """

    def find(self, ids: Iterable[str]) -> dict[str, Row]:
        """The rows with these ids, those that exist."""

    def prefix(self, prefix: str, limit: int = 10) -> list[str]:
        """The ids that begin with `prefix`, in order, at most `limit`."""

    def query(
        self,
        states: Collection[str] = (),
        kind: str = "",
        project: str = "",
        worker: str = "",
        limit: int = 100,
        before: tuple[float, str] | None = None,
    ) -> list[Row]:
        """A page of rows, newest first; empty filters let everything pass.

        `before` is (submitted, id) of the row that ended the page before.
        """

    def expired(self, before: float, limit: int = 1000) -> dict[str, str]:
        """Rows that ended before that time and are not live, the oldest first: id -> state.

        Their records are not looked at, so a damaged one expires like all others.
        """

    def blob_put(self, data: bytes) -> str:
        """Keep `data`; it is on stable storage when this returns. Returns its digest.

        Equal data is kept once.

        Raises:
            StoreFull: the disk has no room.
            OSError: the system could not write a file now; nothing of it was stored.
        """

    def blob_get(self, digest: str, offset: int = 0, size: int = -1) -> bytes:
        """At most `size` bytes from `offset` on; -1: all. Checked when it is read whole.

        Raises:
            NotFound: there is no such blob.
        """

    def blob_size(self, digest: str) -> int:
        """Its length in bytes. Raises `NotFound`."""

    def sweep(
        self,
        keep: Collection[str],
        older_than: float,
        limit: int = 50,
        among: Iterable[str] | None = None,
    ) -> int:
        """Remove blobs that neither a row nor `keep` names; returns how many.

        Of all blobs, or only `among` these. While a backup is made none goes.

        `keep` holds the digests that only the journal and memory name. A blob is left alone until
        `older_than` seconds after it was last put. At most `limit` go at once (2 ms each at worst).
        """

    def backup(
        self, target: Path, draft: Path, unfolded: Callable[[], Collection[str]], pages: int = 64
    ) -> Generator[float, None, Copied]:
        """Copy the store to the folder `target` while it works; yields the fraction done.

        Each step copies at most so many `pages` and takes about a millisecond; all other calls may
        come between the steps. The copy holds what was committed when `unfolded` is asked for the
        ids of tasks that may be in no row yet, which is done once. It is durable when the generator
        ends, and nothing is at `target` before; until then `draft` is used, a folder beside it.

        Raises:
            BackupFailed: something is at `target`, or cannot be written. Nothing is left behind.
        """

    def usage(self) -> Usage:
        """How much there is."""

    def close(self) -> None:
        """Let go of the store; another may lead at once."""
