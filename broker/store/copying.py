"""A copy of a store in use: the database in small steps, all that may take long on a thread.

SQLite's own backup copies pages between two commits; what the same connection writes meanwhile goes
into the copy as well, so nothing begins anew (https://sqlite.org/c3ref/backup_finish.html). These
steps write beside the store and nowhere else: a slow target delays the thread, never the caller.
The thread syncs what the steps wrote, gives the blobs a second name (or copies them to another file
system), and renames last. What a killed process leaves behind has no database under its real name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import apsw

from broker.store import Copied, database, files
from broker.store.blobs import Blobs
from corral.errors import BackupFailed

#: Bytes between two syncs of the copy. More, and commits wait behind them on the same disk.
_UNSYNCED = 4 << 20

T = TypeVar("T")


class Copying:
    """One copy of the store in `folder`, read through its own `connection`."""

    def __init__(
        self,
        folder: Path,
        connection: apsw.Connection,
        blobs: Blobs,
        target: Path,
        draft: Path,
        low: int,
    ) -> None:
        self._folder, self._connection, self._blobs = folder, connection, blobs
        self._target, self._draft = target, draft
        self._low = low  #: bytes that must stay free wherever something is written
        self._staged = folder / "backup.db"
        self._given_up = Event()
        self._named = False  #: the copy has its name, and nobody knows it yet

    def steps(
        self, unfolded: Callable[[], Collection[str]], pages: int
    ) -> Generator[float, None, Copied]:
        """See `Store.backup`."""
        thread = ThreadPoolExecutor(1, "corral-backup")
        try:
            yield from _ended(thread.submit(self._begin), 0.0)
            yield from self._pages(thread, pages)
            whole = thread.submit(self._finish, tuple(unfolded()))
            return (yield from _ended(whole, 1.0))
        except GeneratorExit:  # nobody wants it any more
            self._given_up.set()
            thread.submit(self._remove).result()
            raise
        except (OSError, apsw.Error, BackupFailed) as error:
            yield from _ended(thread.submit(self._remove), 1.0)
            if isinstance(error, BackupFailed):
                raise
            raise BackupFailed(path=self._target, why=_why(error)) from error
        finally:
            thread.shutdown()

    # --- on the caller's thread -------------------------------------------------------------

    def _pages(self, thread: ThreadPoolExecutor, pages: int) -> Iterator[float]:
        """Copy the database to the file `_staged`, which the thread has emptied."""
        copy = apsw.Connection(str(self._staged))
        try:
            copy.pragma("synchronous", "off")  # the thread syncs
            copy.pragma("journal_mode", "off")  # a copy that breaks off is removed
            bytes_of_page = self._connection.pragma("page_size")
            unsynced = 0
            with copy.backup("main", self._connection, "main") as backup:
                backup.step(pages)
                while not backup.done:  # when it is, nothing may be written before `unfolded`
                    fraction = 1 - backup.remaining / max(1, backup.page_count)
                    yield fraction
                    unsynced += pages * bytes_of_page
                    if unsynced >= _UNSYNCED:
                        unsynced = 0
                        self._need(self._folder, backup.remaining * bytes_of_page)
                        yield from _ended(thread.submit(files.sync, self._staged), fraction)
                    backup.step(pages)
        finally:
            copy.close(force=True)

    def _need(self, folder: Path, size: int) -> None:
        free = files.free(folder)
        if free < size + self._low:
            why = (
                f"{folder} has {free >> 20} MiB free, and the copy takes {size >> 20} MiB "
                f"besides {self._low >> 20} MiB that the broker keeps for its work"
            )
            raise BackupFailed(path=self._target, why=why)

    # --- on the thread ------------------------------------------------------------------------

    def _begin(self) -> None:
        """Look whether it can be done, and remove what a killed process may have left."""
        if self._target.exists():
            if not self._target.is_dir() or any(self._target.iterdir()):
                raise BackupFailed(path=self._target, why="something is there already")
            if self._target.is_mount():
                raise BackupFailed(
                    path=self._target, why="it is a mount point; name a folder in it"
                )
        self._remove()
        files.make_folder(self._draft)
        database_bytes = files.size(self._folder / database.NAME)
        self._need(self._folder, database_bytes)
        if self._draft.stat().st_dev != self._folder.stat().st_dev:
            self._need(self._draft, database_bytes + sum(map(files.size, self._blobs)))

    def _finish(self, unfolded: tuple[str, ...]) -> Copied:
        """Make the copy whole and durable, and give it its name."""
        tasks = _tasks(self._staged, unfolded)
        files.sync(self._staged)
        size = files.size(self._staged)
        for blob_bytes in self._blobs.copy(self._draft / "blobs"):
            size += blob_bytes
            if self._given_up.is_set():
                raise InterruptedError
        files.copy(self._staged, self._draft / database.NAME)
        files.remove(self._staged)
        files.sync_folder(self._draft)
        files.replace(self._draft, self._target)
        self._named = True
        files.sync_folder(self._target.parent)
        return Copied(size, tasks)

    def _remove(self) -> None:
        """Leave nothing of a copy that is not whole, or that nobody will be told of."""
        with suppress(OSError):
            files.remove(self._staged)
        shutil.rmtree(self._draft, ignore_errors=True)
        if self._named:
            shutil.rmtree(self._target, ignore_errors=True)


def _ended(work: Future[T], fraction: float) -> Generator[float, None, T]:
    """Wait for the thread, and let the caller do something else meanwhile."""
    while not work.done():
        yield fraction
    return work.result()


def _tasks(path: Path, unfolded: tuple[str, ...]) -> int:
    """How many tasks the copy holds: its rows, and what of `unfolded` has no row."""
    # Nobody writes the file, and only so does SQLite read a database of this kind without a log.
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    copy = apsw.Connection(f"{path.absolute().as_uri()}?immutable=1", flags=flags)
    try:
        rows: Any = copy.execute("SELECT count(*) FROM tasks").fetchall()[0][0]
        twice: Any = 0
        if unfolded:
            found = "carray(?) AS wanted CROSS JOIN tasks ON tasks.id = wanted.value"
            wanted = apsw.carray(unfolded)
            twice = copy.execute(f"SELECT count(*) FROM {found}", (wanted,)).fetchall()[0][0]
    finally:
        copy.close()
    return int(rows + len(unfolded) - twice)


def _why(error: OSError | apsw.Error) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})" if error.filename else str(error)
    return f"SQLite: {error}"
