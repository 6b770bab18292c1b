"""Is a store whole? Every page, every journal row, every row's record and every blob is read.

Findings are data; nothing is repaired and nothing printed here. What entries mean is not known
either: the caller's `replay` tells whether they lead to the rows, and to blobs that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from broker.store import Store
from broker.store.database import checksum
from broker.store.sqlite import SqliteStore
from corral.errors import NotFound, StoreCorrupt

#: part of a store -> what to do when it is damaged
CURES = {
    "database": "Restore the last backup.",
    "document": "Restore the last backup.",
    "journal": "Restore the last backup; what was recorded before this row is intact.",
    "task": "Restore the last backup, or submit the task again; the others are intact.",
    "blob": "Restore the file from a backup, or run the task again; the others are intact.",
    "replay": "This is a defect of Corral: please report it, with a copy of the store.",
}


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    part: str  #: a key of CURES
    name: str  #: which one: an lsn, a task's id, a digest, a file
    why: str

    @property
    def cure(self) -> str:
        """What to do about it."""
        return CURES[self.part]


def fsck(
    path: Path, replay: Callable[[Store], Iterable[tuple[str, str, str]]] | None = None
) -> list[Finding]:
    """What is wrong with the store in the folder `path`; nothing when it is whole.

    `replay` gets the store to read from (`load`, `read`, `find`, `query`, `blob_get`) and yields
    (part, name, why) where the journal does not lead to what else is there. It is only asked when
    all that can be judged without it is in order.

    Raises:
        StoreInUse: a broker works with it; names its pid.
        StoreRefused, StoreNewer: there is no store, or it cannot be opened here.
    """
    store = SqliteStore(path)
    try:
        store.inspect()
    except StoreCorrupt as error:
        return [Finding(part="database", name=str(path), why=str(error.fields["why"]))]
    try:
        found = list(
            dict.fromkeys(finding for part in _CHECKS for finding in _examine(store, part))
        )
        if not found and replay is not None:
            found = [Finding(part=part, name=name, why=why) for part, name, why in replay(store)]
        return found
    finally:
        store.close()


def _examine(store: SqliteStore, part: str) -> Iterator[Finding]:
    try:
        for name, why in _CHECKS[part](store):
            yield Finding(part=part, name=name, why=why)
    except StoreCorrupt as error:  # too damaged to be read on; only a document is told by itself
        part = part if part == "document" else "database"
        yield Finding(part=part, name=str(store.path), why=str(error.fields["why"]))


Problems = Iterator[tuple[str, str]]  #: name, why


def _database(store: SqliteStore) -> Problems:
    with store.guarded():
        for (line,) in store.db.execute("PRAGMA integrity_check"):
            if line != "ok":
                yield str(store.path), line


def _journal(store: SqliteStore) -> Problems:
    with store.guarded():
        expected = store.trimmed + 1
        for lsn, crc, entry in store.db.execute("SELECT * FROM journal ORDER BY lsn"):
            if lsn < expected:
                yield str(lsn), f"left over: everything up to {store.trimmed} is in the rows"
            if lsn > expected:
                yield f"{expected} to {lsn - 1}", "missing"
            if checksum(entry, lsn) != crc:
                yield str(lsn), "its checksum is wrong"
            expected = lsn + 1


def _tasks(store: SqliteStore) -> Problems:
    with store.guarded():
        for id, lsn, crc, record in store.db.execute("SELECT id, lsn, crc, record FROM tasks"):
            if checksum(record, lsn) != crc:
                yield id, "the checksum of its record is wrong"
            if lsn > store.last:
                yield id, f"it holds journal row {lsn}, but the journal ends at {store.last}"


def _document(store: SqliteStore) -> Problems:
    store.load()
    yield from ()


def _blobs(store: SqliteStore) -> Problems:
    for digest in sorted(set(store.named())):
        try:
            store.blob_get(digest)
        except NotFound:
            yield digest, "missing"
        except StoreCorrupt:
            yield digest, "its content is not what its name says"
        except OSError as error:
            yield digest, f"it cannot be read: {error.strerror}"


_CHECKS: dict[str, Callable[[SqliteStore], Problems]] = {
    "database": _database,
    "document": _document,
    "journal": _journal,
    "task": _tasks,
    "blob": _blobs,
}
