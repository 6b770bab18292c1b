"""The SQLite database of a store: its schema, how it is made and opened, what its errors mean.

One connection holds it exclusively. That keeps the index of the write-ahead log in this process
(no shared memory, two system calls less for each commit) and keeps everybody else out, whatever
happens to the lock file. What is read and written through the connection is in
`broker.store.sqlite`.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import apsw

from broker.store import files
from corral.errors import StoreCorrupt, StoreFull, StoreInUse, StoreNewer, StoreRefused

NAME = "store.db"
APPLICATION = 0x436F7272  #: "Corr" in the header: this file is ours
VERSION = 1  #: of the schema; a newer one is refused

#: Measured with entries of 0.3, 3 and 30 kB: 8 KiB pages cost as much CPU as 4 KiB ones for the
#: small entries and a fifth less for the others (a page in the log is two writes and a checksum).
_PAGE_BYTES = 8192


def checksum(data: bytes, lsn: int) -> int:
    """CRC-32 (zlib) that begins from the lsn: an entry in another's place is an altered one."""
    return crc32(data, lsn & 0xFFFFFFFF)


_SCHEMA = f"""
CREATE TABLE journal (
    lsn INTEGER PRIMARY KEY, crc INTEGER NOT NULL, entry BLOB NOT NULL
) STRICT;
CREATE TABLE tasks (
    id TEXT NOT NULL, state TEXT NOT NULL, live INTEGER NOT NULL, kind TEXT NOT NULL,
    project TEXT NOT NULL, worker TEXT NOT NULL, submitted REAL NOT NULL, ended REAL,
    lsn INTEGER NOT NULL, blobs TEXT NOT NULL, crc INTEGER NOT NULL, record BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX tasks_id ON tasks (id);
CREATE INDEX tasks_listing ON tasks (submitted, id, state, kind, project, worker);
CREATE INDEX tasks_live ON tasks (live) WHERE live;
CREATE INDEX tasks_ended ON tasks (ended) WHERE NOT live;
CREATE INDEX tasks_blobs ON tasks (blobs) WHERE blobs <> '';
CREATE TABLE document (
    one INTEGER PRIMARY KEY CHECK (one = 1), lsn INTEGER NOT NULL, crc INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT;
CREATE TABLE meta (
    name TEXT PRIMARY KEY, value INTEGER NOT NULL, crc INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES
    ('epoch', 0, {checksum(b"epoch", 0)}), ('trimmed', 0, {checksum(b"trimmed", 0)}),
    ('failures', 0, 0);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


def create(folder: Path) -> None:
    """Make an empty database in `folder` unless it has one.

    A draft first, so that a crash leaves no half-made database under the real name.
    """
    path, draft = folder / NAME, folder / "draft.db"
    if path.exists():
        return
    beside = [name for name in ("blobs", "reserve") if (folder / name).exists()]
    if beside:  # they are made after it
        why = f"{NAME} is gone, and {' and '.join(beside)} beside it are left of a store"
        raise StoreCorrupt(path=folder, why=why)
    for suffix in ("", "-wal", "-journal"):
        files.remove(folder / f"{draft.name}{suffix}")
    try:
        connection = apsw.Connection(str(draft))
        try:
            connection.pragma("page_size", _PAGE_BYTES)
            _configure(connection)
            connection.execute(f"BEGIN; {_SCHEMA} COMMIT")
            connection.wal_checkpoint()  # closing it would hide that there was no room for that
        finally:
            connection.close()
    except apsw.Error as error:
        found = failure(error, folder)
        if isinstance(found, StoreFull):
            found = StoreRefused(path=folder, why=str(error))
        raise found from error
    files.replace(draft, path)
    files.sync_folder(folder)


def connect(folder: Path, wal_bytes: int) -> apsw.Connection:
    """Open the database in `folder`.

    Its write-ahead log is at least `wal_bytes` long from the start. SQLite begins it anew after a
    checkpoint and ignores what follows the last valid frame (https://sqlite.org/fileformat2.html,
    4.4), so zeros may stand there; and an fsync after overwriting is several times faster than one
    after appending, which has to write the file's new length too.

    Raises:
        StoreCorrupt: it is no database, or was cut short.
        StoreRefused: there is none, it cannot be opened, or it is another program's.
        StoreNewer: a newer Corral made it.
        StoreInUse: a process without the lock has it open.
    """
    path = folder / NAME
    if not path.exists():
        raise StoreRefused(path=folder, why="there is no store in it")
    if not files.size(path):
        raise StoreCorrupt(path=folder, why=f"{NAME} is empty")
    if wal_bytes:
        files.extend(path.with_name(f"{NAME}-wal"), wal_bytes)
    try:
        connection = apsw.Connection(str(path))
    except apsw.Error as error:
        raise StoreRefused(path=folder, why=f"{NAME} cannot be opened ({error})") from error
    try:
        _configure(connection)
        application = connection.pragma("application_id")
        version = connection.pragma("user_version")
    except apsw.Error as error:
        connection.close(force=True)
        raise failure(error, folder) from error
    if application != APPLICATION:
        connection.close()
        raise StoreRefused(path=folder, why=f"{NAME} belongs to another program")
    if version > VERSION:
        connection.close()
        raise StoreNewer(path=folder, schema=version, known=VERSION)
    return connection


def failure(error: apsw.Error, folder: Path) -> Exception:
    """What an error of SQLite means here; the error itself when it is a defect of ours."""
    match error:
        case apsw.FullError() | apsw.IOError() | apsw.ReadOnlyError() | apsw.CantOpenError():
            return StoreFull(why=f"{error} ({files.free(folder) >> 20} MiB free at {folder})")
        case apsw.CorruptError() | apsw.NotADBError() | apsw.SQLError():
            return StoreCorrupt(path=folder, why=f"{NAME}: {error}")
        case apsw.BusyError() | apsw.LockedError():
            return StoreInUse(path=folder, pid="unknown")
        case _:
            return error


def _configure(connection: apsw.Connection) -> None:
    connection.pragma("locking_mode", "exclusive")
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("cache_size", -4 * 1024)  # KiB
    connection.pragma("trusted_schema", 0)
    connection.wal_autocheckpoint(0)  # the store says when
