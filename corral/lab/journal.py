"""The request log: one JSON line for each request, for those who count calls.

A line has method, path (without /api2/json), actor, status, seconds. A mark is a line with a name:
who counts marks, does something, and reads what came after the mark.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec


class Entry(msgspec.Struct, omit_defaults=True):
    """One request, or a mark."""

    number: int
    at: float  # seconds since the epoch
    method: str = ""
    path: str = ""
    actor: str = ""
    status: int = 0
    seconds: float = 0.0
    mark: str = ""


class Journal:
    """Lines in a file; only appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._number = len(self._lines())

    def begin(self, method: str, path: str) -> Entry:
        """A request has come."""
        return Entry(0, time.time(), method, path)

    def end(self, entry: Entry) -> Entry:
        """It is answered: write it down; entries are numbered as they are answered."""
        with self._lock:
            self._number += 1
            entry.number = self._number
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
        return entry

    def mark(self, name: str) -> Entry:
        """Write a mark."""
        return self.end(Entry(0, time.time(), mark=name))

    def since(self, number: int) -> list[Entry]:
        """What came after an entry."""
        with self._lock:
            lines = self._lines()
        return [msgspec.json.decode(line, type=Entry) for line in lines[number:]]

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().splitlines() if self._path.exists() else []
