"""The SQLite engine as the conformance suite binds it, and what only its own tests do to it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw

from broker.store import Store
from broker.store.sqlite import SqliteStore


class SqliteBinding:
    """A data folder. Small reserve and log: a test opens many stores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def store(self) -> SqliteStore:
        return self.at(self.folder)

    def at(self, path: Path) -> SqliteStore:
        return SqliteStore(path, reserve=1 << 16, low=1 << 16, wal_bytes=1 << 16)

    def depose(self, store: Store) -> None:
        os.rename(self.folder / "lock", self.folder / "lock.old")
        (self.folder / "lock").write_text("4711 99 usurper\n", encoding="utf-8")

    def kill(self, store: Store) -> SqliteStore:
        """What the page cache holds is what `kill -9` leaves."""
        left = self.folder.with_name("left")
        shutil.copytree(self.folder, left)
        store.close()
        shutil.rmtree(self.folder)
        left.rename(self.folder)
        return self.store()

    def alter_entry(self, lsn: int) -> None:
        self._alter("journal", "entry", "lsn", lsn)

    def alter_record(self, id: str) -> None:
        self._alter("tasks", "record", "id", id)

    def lose_entry(self, lsn: int) -> None:
        self.execute("DELETE FROM journal WHERE lsn = ?", lsn)

    def alter_blob(self, digest: str) -> None:
        path = self.folder / "blobs" / digest
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def execute(self, statement: str, *values: apsw.SQLiteValue) -> list[apsw.SQLiteValues]:
        """Run a statement on the database of a store that nobody leads."""
        connection = apsw.Connection(str(self.folder / "store.db"))
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def _alter(self, table: str, column: str, key: str, value: int | str) -> None:
        where = f"FROM {table} WHERE {key} = ?"
        [(data,)] = self.execute(f"SELECT {column} {where}", value)
        assert isinstance(data, bytes)
        altered = bytearray(data)
        altered[len(altered) // 2] ^= 1
        self.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", bytes(altered), value)
