"""The embedded engine: one folder with a SQLite database, blobs and a lock. Contract: `Store`.

    store.db (and -wal)   journal, rows, document        lock      who leads
    blobs/DIGEST          large values                   reserve   room for when the disk is full
    backup.db             a copy that is being made

Every commit is synced (`synchronous=FULL`); a checkpoint runs when the write-ahead log has grown by
`_CHECKPOINT_PAGES`, after the commit that made it so. The database file does not shrink: pages that
rows and journal leave are used again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from broker.store import Copied, Loaded, Row, Usage, database, files
from broker.store.blobs import Blobs
from broker.store.copying import Copying
from broker.store.database import checksum
from broker.store.lock import Lock
from broker.store.reserve import Reserve
from corral.errors import Fenced, StoreCorrupt, StoreFull, StoreRefused

_CHECKPOINT_PAGES = 512  #: 4 MiB of log: a pause of 0.3 ms (small entries) to 3 ms (large ones)
_FAST_SYNC = 20e-6  #: seconds; no disk that keeps its promise is quicker

_APPEND = "INSERT INTO journal VALUES (?, ?, ?)"
_COLUMNS = "id, state, live, kind, project, worker, submitted, ended, lsn, blobs, crc, record"
_PUT = f"""INSERT INTO tasks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, live = excluded.live,
    kind = excluded.kind, project = excluded.project, worker = excluded.worker,
    submitted = excluded.submitted, ended = excluded.ended, lsn = excluded.lsn,
    blobs = excluded.blobs, crc = excluded.crc, record = excluded.record"""


class SqliteStore:
    """A store in the folder `path`. Nothing is opened before `lead`.

    `reserve` is the room kept back for a full disk, `low` the free space below which the store
    calls itself full before a write fails, `wal_bytes` the initial length of the log; all bytes.
    """

    def __init__(
        self, path: Path, *, reserve: int = 16 << 20, low: int = 64 << 20, wal_bytes: int = 8 << 20
    ) -> None:
        self.path = path
        self.epoch = 0
        self.full = ""
        self.notes: tuple[str, ...] = ()
        self._low = low
        self._wal_bytes = wal_bytes
        self._lock = Lock(path)
        self._blobs = Blobs(path / "blobs")
        self._reserve = Reserve(path, reserve)
        self._connection: apsw.Connection | None = None
        self.last = 0  #: newest journal row
        self.trimmed = 0  #: newest journal row that is gone
        self._journal_bytes = 0
        self._log_pages = 0
        self._blob_refused = False  #: since the disk last had room
        self._sweeping = True  #: False while a backup goes on, which counts on every blob
        self._checkpoint_at = _CHECKPOINT_PAGES

    # --- leading ------------------------------------------------------------------------

    def lead(self, owner: str) -> int:
        """See `Store.lead`."""
        try:
            files.make_folder(self.path)
            kind = files.filesystem(self.path)
            if kind in files.NETWORK:
                why = f"it is on {files.NETWORK[kind]}, where locks and fsync cannot be relied on"
                raise StoreRefused(path=self.path, why=why)
            self._lock.acquire()
            database.create(self.path)
            self._open(self._wal_bytes)
            self._take_over(owner)
            self.notes = tuple(self._doubts(kind))
        except OSError as error:
            self.close()
            why = f"{error.strerror} ({error.filename or self.path})"
            raise StoreRefused(path=self.path, why=why) from error
        except BaseException:
            self.close()
            raise
        return self.epoch

    def inspect(self) -> None:
        """Open for reading, without leading. Raises what `lead` raises; makes nothing new."""
        if not self.path.is_dir():
            raise StoreRefused(path=self.path, why="there is no such folder")
        try:
            self._lock.acquire()
            self._open(wal_bytes=0)
            self.db.pragma("query_only", 1)
        except OSError as error:
            self.close()
            why = f"{error.strerror} ({error.filename or self.path})"
            raise StoreRefused(path=self.path, why=why) from error
        except BaseException:
            self.close()
            raise

    def _open(self, wal_bytes: int) -> None:
        self._blobs.open()
        self._connection = database.connect(self.path, wal_bytes)
        self._connection.set_wal_hook(self._committed)
        with self.guarded():
            self.trimmed = self._meta("trimmed")
            last, size = self._one("SELECT max(lsn), sum(length(entry)) FROM journal")
            self.last = self.trimmed if last is None else last
            self._journal_bytes = size or 0

    def _take_over(self, owner: str) -> None:
        epoch = self._meta("epoch") + 1
        try:
            self._claim(epoch)
        except StoreFull:  # which gave the reserve up
            self._claim(epoch)
        files.sync_folder(self.path)  # the name of the log is durable too
        self._lock.sign(epoch, owner)
        self.epoch = epoch
        self._look_for_room()

    def _claim(self, epoch: int) -> None:
        with self._transaction():
            self._put_meta("epoch", epoch)

    def renew(self) -> None:
        """See `Store.renew`."""
        usurper = self._lock.usurper()
        if usurper is not None:
            mine, self.epoch = self.epoch, usurper
            raise Fenced(mine=mine, current=usurper)
        self._look_for_room()

    def close(self) -> None:
        """See `Store.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()  # copies the log into the database and removes it
            except apsw.Error:  # no room for that: the log stays and is read at the next start
                connection.close(force=True)
        self.epoch = 0
        self._lock.release()

    # --- the journal --------------------------------------------------------------------

    def append(self, epoch: int, entry: bytes) -> int:
        """See `Store.append`."""
        if epoch != self.epoch:
            raise Fenced(mine=epoch, current=self.epoch)
        lsn = self.last + 1
        try:
            self.db.execute(_APPEND, (lsn, checksum(entry, lsn), entry))
        except apsw.Error as error:
            raise self._failed(error) from error
        self.last = lsn
        self._journal_bytes += len(entry)
        if self._log_pages >= self._checkpoint_at:
            self._checkpoint()
        return lsn

    def read(self, after: int, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
        """See `Store.read`."""
        expected = max(after, self.trimmed) + 1
        with self.guarded():
            for lsn, crc, entry in self.db.execute(
                "SELECT lsn, crc, entry FROM journal WHERE lsn > ? ORDER BY lsn LIMIT ?",
                (after, -1 if limit is None else limit),
            ):
                if lsn != expected:
                    raise self._corrupt(f"journal row {expected} is missing")
                if checksum(entry, lsn) != crc:
                    raise self._corrupt(f"journal row {lsn} was altered")
                yield lsn, entry
                expected += 1

    def load(self) -> Loaded:
        """See `Store.load`."""
        with self.guarded():
            found = self._one("SELECT lsn, crc, state FROM document") or (0, 0, b"")
            counts = dict(self.db.execute("SELECT state, count(*) FROM tasks GROUP BY state"))
        lsn, crc, state = found
        if checksum(state, lsn) != crc:
            raise self._corrupt("the document was altered")
        return Loaded(
            state=state,
            state_lsn=lsn,
            rows=self._rows("tasks WHERE live"),
            lsn=self.trimmed,
            last=self.last,
            counts=counts,
        )

    def fold(
        self,
        epoch: int,
        rows: Sequence[Row] = (),
        deletes: Sequence[str] = (),
        state: bytes | None = None,
        trim_to: int = 0,
    ) -> None:
        """See `Store.fold`."""
        if epoch != self.epoch:
            raise Fenced(mine=epoch, current=self.epoch)
        gone = 0
        trim_to = min(trim_to, self.last)
        with self._transaction() as db:
            db.executemany(_PUT, map(_columns, rows))
            db.executemany("DELETE FROM tasks WHERE id = ?", ((id,) for id in deletes))
            if state is not None:
                db.execute(
                    "INSERT OR REPLACE INTO document VALUES (1, ?, ?, ?)",
                    (self.last, checksum(state, self.last), state),
                )
            if trim_to > self.trimmed:
                gone = self._one(
                    "SELECT coalesce(sum(length(entry)), 0) FROM journal WHERE lsn <= ?", trim_to
                )[0]
                db.execute("DELETE FROM journal WHERE lsn <= ?", (trim_to,))
                self._put_meta("trimmed", trim_to)
        self.trimmed = max(self.trimmed, trim_to)
        self._journal_bytes -= gone
        if self._log_pages >= self._checkpoint_at:
            self._checkpoint()

    # --- the rows -----------------------------------------------------------------------

    def find(self, ids: Iterable[str]) -> dict[str, Row]:
        """See `Store.find`."""
        # One statement for all: a tenth of a statement for each. Its array takes no NUL, which
        # stands in no id.
        wanted = tuple(id for id in ids if "\0" not in id)
        if not wanted:
            return {}
        source = "carray(?) AS wanted CROSS JOIN tasks ON tasks.id = wanted.value"
        return {row.id: row for row in self._rows(source, apsw.carray(wanted))}

    def prefix(self, prefix: str, limit: int = 10) -> list[str]:
        """See `Store.prefix`."""
        with self.guarded():
            found = self.db.execute(
                "SELECT id FROM tasks WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                (prefix, prefix + "\U0010ffff", limit),
            )
            return [id for (id,) in found]

    def query(
        self,
        states: Collection[str] = (),
        kind: str = "",
        project: str = "",
        worker: str = "",
        limit: int = 100,
        before: tuple[float, str] | None = None,
    ) -> list[Row]:
        """See `Store.query`."""
        conditions = {
            f"state IN ({', '.join('?' * len(states))})": tuple(states),
            "kind = ?": (kind,) if kind else (),
            "project = ?": (project,) if project else (),
            "worker = ?": (worker,) if worker else (),
            "(submitted, id) < (?, ?)": before or (),
        }
        asked = {text: values for text, values in conditions.items() if values}
        where = f"WHERE {' AND '.join(asked)}" if asked else ""
        values = [value for values in asked.values() for value in values]
        return list(
            self._rows(f"tasks {where} ORDER BY submitted DESC, id DESC LIMIT ?", *values, limit)
        )

    def expired(self, before: float, limit: int = 1000) -> dict[str, str]:
        """See `Store.expired`."""
        with self.guarded():
            found = self.db.execute(
                "SELECT id, state FROM tasks WHERE NOT live AND ended < ? ORDER BY ended LIMIT ?",
                (before, limit),
            )
            return {str(id): str(state) for id, state in found}

    # --- blobs --------------------------------------------------------------------------

    def blob_put(self, data: bytes) -> str:
        """See `Store.blob_put`."""
        try:
            return self._blobs.put(data)
        except OSError as error:
            if error.errno not in files.NO_ROOM:
                raise
            self._blob_refused = True
            self._give_way(str(error.strerror))
            raise StoreFull(why=self.full) from error

    def blob_get(self, digest: str, offset: int = 0, size: int = -1) -> bytes:
        """See `Store.blob_get`."""
        return self._blobs.get(digest, offset, size)

    def blob_size(self, digest: str) -> int:
        """See `Store.blob_size`."""
        return self._blobs.size(digest)

    def sweep(
        self,
        keep: Collection[str],
        older_than: float,
        limit: int = 50,
        among: Iterable[str] | None = None,
    ) -> int:
        """See `Store.sweep`."""
        if not self._sweeping:
            return 0
        return self._blobs.sweep({*keep, *self.named()}, older_than, limit, among)

    def named(self) -> Iterator[str]:
        """The digests that rows name."""
        with self.guarded():
            for (digests,) in self.db.execute("SELECT blobs FROM tasks WHERE blobs <> ''"):
                yield from digests.split()

    # --- the whole ----------------------------------------------------------------------

    def backup(
        self, target: Path, draft: Path, unfolded: Callable[[], Collection[str]], pages: int = 64
    ) -> Generator[float, None, Copied]:
        """See `Store.backup`."""
        copying = Copying(self.path, self.db, self._blobs, target, draft, self._low)
        self._sweeping = False
        try:
            return (yield from copying.steps(unfolded, pages))
        finally:
            self._sweeping = True

    def usage(self) -> Usage:
        """See `Store.usage`."""
        path = self.path / database.NAME
        return Usage(
            journal_bytes=self._journal_bytes,
            db_bytes=files.size(path) + files.size(path.with_name(f"{path.name}-wal")),
            blob_bytes=self._blobs.total,
            free_bytes=files.free(self.path),
        )

    @property
    def db(self) -> apsw.Connection:
        """The connection; for this module, fsck and tests."""
        if self._connection is None:
            raise RuntimeError("lead the store first")
        return self._connection

    # --- within -------------------------------------------------------------------------

    def _rows(self, source: str, *values: apsw.SQLiteValue | apsw.CArrayBinding) -> Iterator[Row]:
        with self.guarded():
            for (
                id, state, live, kind, project, worker, submitted, ended, lsn, blobs, crc, record,
            ) in self.db.execute(f"SELECT {_COLUMNS} FROM {source}", values):  # fmt: skip
                if checksum(record, lsn) != crc:
                    raise self._corrupt(f"the record of task {id} was altered")
                yield Row(
                    id, state, live == 1, kind, project, worker, submitted, ended, lsn,
                    tuple(blobs.split()), record,
                )  # fmt: skip

    def _one(self, statement: str, *values: apsw.SQLiteValue) -> Any:
        """The first row, as a tuple; None when there is none."""
        return self.db.execute(statement, values).fetchone()

    def _meta(self, name: str) -> int:
        with self.guarded():
            found = self._one("SELECT value, crc FROM meta WHERE name = ?", name)
        value, crc = found or (0, None)
        if checksum(name.encode(), value) != crc:
            raise self._corrupt(f"its {name} was altered")
        return int(value)

    def _put_meta(self, name: str, value: int) -> None:
        crc = checksum(name.encode(), value)
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, value, crc))

    @contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        """All of it or nothing."""
        db = self.db
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except BaseException as error:
            if not db.get_autocommit():  # a full disk may have ended the transaction already
                db.execute("ROLLBACK")
            if isinstance(error, apsw.Error):
                raise self._failed(error) from error
            raise

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let errors of SQLite come out as ours."""
        try:
            yield
        except apsw.Error as error:
            raise self._failed(error) from error
        except UnicodeDecodeError as error:  # a damaged column
            raise self._corrupt(f"it holds text that is none: {error}") from error

    def _failed(self, error: apsw.Error) -> Exception:
        found = database.failure(error, self.path)
        if isinstance(found, StoreFull):
            self._give_way(str(error))
            self._bury()
            self._checkpoint()
        return found

    def _bury(self) -> None:
        """Write over the refused commit: after an fsync that failed, the log may well hold it.

        Left there it would come back to life at the next start. When this fails too, nothing
        better can be done: the first commit that succeeds will lie where the refused one was.
        """
        with suppress(apsw.Error):
            self.db.execute("UPDATE meta SET value = value + 1 WHERE name = 'failures'")

    def _give_way(self, why: str) -> None:
        self.full = f"{why} ({files.free(self.path) >> 20} MiB free at {self.path})"
        self._reserve.release()

    def _corrupt(self, why: str) -> StoreCorrupt:
        return StoreCorrupt(path=self.path, why=why)

    def _committed(self, connection: apsw.Connection, schema: str, pages: int) -> int:
        self._log_pages = pages  # in the log, since it last began anew
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """Copy the log into the database, so that the next commit begins it anew.

        On a full disk this takes the reserve: the log's own room is then free for results. When it
        fails, all is still safe in the log, which grows on.
        """
        for _ in range(2):
            try:
                self.db.wal_checkpoint()
            except apsw.Error as error:
                if not isinstance(database.failure(error, self.path), StoreFull):
                    raise self._failed(error) from error
                self._give_way(str(error))
                self._checkpoint_at = self._log_pages + _CHECKPOINT_PAGES
            else:
                self._checkpoint_at = _CHECKPOINT_PAGES
                return

    def _look_for_room(self) -> None:
        """Decide whether the store is full, and take the reserve back when the disk has room.

        What lacks to the reserve is no room. Free pages of the database are, but not for blobs:
        once one was refused, the disk itself must have room. Once full, the store wants twice the
        room to be no longer so.
        """
        room = disk = files.free(self.path)
        if not self._blob_refused:
            room += self.db.pragma("freelist_count") * self.db.pragma("page_size")
        missing = self._reserve.missing
        wanted = (2 if self.full else 1) * self._low + missing
        if room >= wanted:
            self.full = ""
            self._blob_refused = False
        else:
            had, want = room >> 20, wanted >> 20
            self.full = f"{had} MiB free at {self.path}, and {want} MiB are kept for results"
        if missing and disk > self._low + missing:
            self._reserve.hold()

    def _doubts(self, kind: int) -> Iterator[str]:
        """What about this place makes its promises doubtful."""
        if kind in files.MEMORY:
            yield f"{self.path} is on {files.MEMORY[kind]}: nothing in it survives a reboot"
        elif (seconds := files.sync_seconds(self.path)) < _FAST_SYNC:
            yield (
                f"an fsync at {self.path} takes {seconds * 1e6:.0f} us: "
                "this disk may not keep what it confirms when the power fails"
            )


def _columns(row: Row) -> tuple[apsw.SQLiteValue, ...]:
    return (
        row.id, row.state, row.live, row.kind, row.project, row.worker, row.submitted, row.ended,
        row.lsn, " ".join(row.blobs), checksum(row.record, row.lsn), row.record,
    )  # fmt: skip
