"""The disk: a `Store` in memory whose writes take time and are lost when the process dies first.

A write that returned to the broker is durable. When the process is killed while a write is under
way, the write has happened or it has not; what the process did after it has not happened at all.
A full disk takes a few more writes, then refuses; the reserve lets some results land.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from broker.store import Copied, Loaded, Row, Usage
from corral.errors import Fenced, NotFound, StoreFull

if TYPE_CHECKING:
    from tests.sim.process import BrokerProcess

RESERVE = 300  # writes that the reserve makes possible once the disk is full


class Write:
    """One write on its way to stable storage."""

    __slots__ = ("begun", "done", "ends", "entry", "lsn", "undo")

    def __init__(
        self, begun: float, ends: float, undo: Callable[[], None], lsn: int, entry: bytes
    ) -> None:
        self.begun = begun
        self.ends = ends
        self.undo = undo
        self.lsn = lsn
        self.entry = entry
        self.done = False


class Disk:
    """What survives a crash, and what is wrong with the disk at present."""

    def __init__(self) -> None:
        self.epoch = 0
        self.journal: dict[int, bytes] = {}
        self.last = 0
        self.trimmed = 0
        self.rows: dict[str, Row] = {}
        self.document = b""
        self.document_lsn = 0
        self.blobs: dict[str, bytes] = {}
        self.room: int | None = None  #: writes that it still takes; None: enough
        self.slow = 0.0  #: seconds that the next write takes in addition
        self.refusals = 0
        self.folds = 0


class SimStore:
    """The store of one broker process on the one disk."""

    notes: tuple[str, ...] = ()

    def __init__(self, process: BrokerProcess) -> None:
        self.process = process
        self.disk: Disk = process.disk
        self.epoch = 0
        self.full = ""
        self.writes: list[Write] = []
        self.reserve = RESERVE

    # --- time and loss --------------------------------------------------------------------

    def _write(self, undo: Callable[[], None], lsn: int = 0, entry: bytes = b"") -> None:
        process, disk = self.process, self.disk
        begun = process.program_time()
        random = process.world.engine.random
        took = 0.0005 + 0.002 * random.random() + disk.slow
        if random.random() < 0.002:
            took += 0.2 * random.random()
        disk.slow = 0.0
        process.spend(took)
        # Exactly when the program goes on, so that whatever it reads next comes after.
        ends = process.program_time()
        if took > 0.5:
            process.world.history.log("stalled", until=ends)
        write = Write(begun, ends, undo, lsn, entry)
        self.writes = [w for w in self.writes if w.ends > begun]
        self.writes.append(write)
        if entry:
            process.world.engine.at(write.ends, self._committed, write)
        process.wrote(write)

    def _committed(self, write: Write) -> None:
        if not write.done:
            write.done = True
            self.process.committed(write.lsn, self.epoch, write.entry)

    def crash(self, now: float) -> None:
        """The process died at `now`: undo what was not durable by then."""
        for write in reversed(self.writes):
            if write.ends <= now or write.done:
                continue
            survives = write.begun <= now and self.process.world.engine.chance(0.5)
            if survives and write.entry:
                self._committed(write)
            elif not survives:
                write.done = True
                write.undo()
        self.writes.clear()

    def _take(self) -> None:
        """Room for one write, or the error that the disk gives."""
        disk = self.disk
        if disk.room is None:
            return
        if disk.room > 0:
            disk.room -= 1
            return
        if self.full and self.reserve > 0:
            self.reserve -= 1
            return
        self.full = "no space left on device"
        disk.refusals += 1
        raise StoreFull(why=self.full)

    def _lead(self, epoch: int) -> None:
        if epoch != self.disk.epoch:
            raise Fenced(mine=epoch, current=self.disk.epoch)

    # --- the contract: see broker.store.Store --------------------------------------------------

    def lead(self, owner: str) -> int:
        """See `Store.lead`."""
        self.disk.epoch += 1
        self.epoch = self.disk.epoch
        return self.epoch

    def renew(self) -> None:
        """See `Store.renew`."""
        self._lead(self.epoch)
        if self.full and self.disk.room is None:
            self.full = ""
            self.reserve = RESERVE

    def append(self, epoch: int, entry: bytes) -> int:
        """See `Store.append`."""
        self._lead(epoch)
        try:
            self._take()
        except StoreFull:
            # The broker forgets this turn and loads the store again, as after a restart.
            self.process.world.history.log("reloaded")
            raise
        disk = self.disk
        disk.last += 1
        lsn = disk.last
        disk.journal[lsn] = entry

        def undo() -> None:
            del disk.journal[lsn]
            disk.last = lsn - 1

        self._write(undo, lsn, entry)
        return lsn

    def read(self, after: int, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
        """See `Store.read`."""
        first = max(after, self.disk.trimmed) + 1
        last = self.disk.last if limit is None else min(self.disk.last, first + limit - 1)
        for lsn in range(first, last + 1):
            yield lsn, self.disk.journal[lsn]

    def load(self) -> Loaded:
        """See `Store.load`. The contract names no order of rows, so it is the ids' own."""
        disk = self.disk
        rows = [disk.rows[id] for id in sorted(disk.rows) if disk.rows[id].live]
        counts = dict(Counter(row.state for row in disk.rows.values()))
        lsns = disk.trimmed, disk.last
        return Loaded(disk.document, disk.document_lsn, iter(rows), *lsns, counts)

    def fold(
        self,
        epoch: int,
        rows: Sequence[Row] = (),
        deletes: Sequence[str] = (),
        state: bytes | None = None,
        trim_to: int = 0,
    ) -> None:
        """See `Store.fold`."""
        self._lead(epoch)
        self._take()
        disk = self.disk
        before = {id: disk.rows.get(id) for id in [*(row.id for row in rows), *deletes]}
        document = disk.document, disk.document_lsn
        trimmed = {lsn: disk.journal[lsn] for lsn in range(disk.trimmed + 1, trim_to + 1)}

        def undo() -> None:
            for id, row in before.items():
                if row is None:
                    disk.rows.pop(id, None)
                else:
                    disk.rows[id] = row
            disk.document, disk.document_lsn = document
            disk.journal.update(trimmed)
            if trimmed:
                disk.trimmed = min(trimmed) - 1

        for row in rows:
            disk.rows[row.id] = row
        for id in deletes:
            disk.rows.pop(id, None)
        if state is not None:
            disk.document, disk.document_lsn = state, disk.last
        for lsn in trimmed:
            del disk.journal[lsn]
        disk.trimmed = max(disk.trimmed, trim_to)
        disk.folds += 1
        self._write(undo)

    def find(self, ids: Iterable[str]) -> dict[str, Row]:
        """See `Store.find`."""
        rows = self.disk.rows
        return {id: rows[id] for id in ids if id in rows}

    def prefix(self, prefix: str, limit: int = 10) -> list[str]:
        """See `Store.prefix`."""
        return sorted(id for id in self.disk.rows if id.startswith(prefix))[:limit]

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
        found = [
            row
            for row in self.disk.rows.values()
            if (not states or row.state in states)
            and (not kind or row.kind == kind)
            and (not project or row.project == project)
            and (not worker or row.worker == worker)
            and (before is None or (row.submitted, row.id) < before)
        ]
        found.sort(key=lambda row: (row.submitted, row.id), reverse=True)
        return found[:limit]

    def expired(self, before: float, limit: int = 1000) -> dict[str, str]:
        """See `Store.expired`."""
        ended = [(r.ended, r.id, r.state) for r in self.disk.rows.values() if r.ended is not None]
        return {id: state for at, id, state in sorted(ended)[:limit] if at < before}

    def blob_put(self, data: bytes) -> str:
        """See `Store.blob_put`."""
        self._take()
        digest = blake2b(data, digest_size=16).hexdigest()
        disk = self.disk
        if digest not in disk.blobs:
            disk.blobs[digest] = data

            def undo() -> None:
                disk.blobs.pop(digest, None)  # it may have been swept

            self._write(undo)
        return digest

    def blob_get(self, digest: str, offset: int = 0, size: int = -1) -> bytes:
        """See `Store.blob_get`."""
        if digest not in self.disk.blobs:
            raise NotFound(noun="blob", name=digest)
        data = self.disk.blobs[digest]
        return data[offset:] if size < 0 else data[offset : offset + size]

    def blob_size(self, digest: str) -> int:
        """See `Store.blob_size`."""
        return len(self.blob_get(digest))

    def sweep(
        self,
        keep: Collection[str],
        older_than: float,
        limit: int = 1000,
        among: Iterable[str] | None = None,
    ) -> int:
        """See `Store.sweep`. Orphans of a simulated hour are never that old."""
        process, disk = self.process, self.disk
        rows = {blob for row in disk.rows.values() for blob in row.blobs}
        going = {d for d in among or () if d in disk.blobs and d not in keep and d not in rows}
        life = process.deaths

        def remove() -> None:
            if process.deaths == life:  # else it died before
                for digest in going:
                    disk.blobs.pop(digest, None)

        if going:
            process.world.engine.at(process.program_time(), remove)
        return len(going)

    def backup(
        self, target: Path, draft: Path, unfolded: Callable[[], Collection[str]], pages: int = 64
    ) -> Generator[float, None, Copied]:
        """Nobody in the simulated hours asks for a copy; tests/chaos/test_backup.py does."""
        raise NotImplementedError

    def usage(self) -> Usage:
        """See `Store.usage`."""
        journal = sum(map(len, self.disk.journal.values()))
        return Usage(journal, journal, sum(map(len, self.disk.blobs.values())), 1 << 40)

    def close(self) -> None:
        """See `Store.close`."""
