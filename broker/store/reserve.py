"""Room kept back on the disk, so that results still land when it is full (promise P15).

A file that is really written, so that no file system can promise its space to somebody else.
Giving it up and taking it back is all that happens here; when, the store decides.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from broker.store import files


class Reserve:
    """The file `reserve` of `size` bytes in the data folder."""

    def __init__(self, folder: Path, size: int) -> None:
        self._path = folder / "reserve"
        self._size = size

    @property
    def missing(self) -> int:
        """Bytes that it takes to hold the reserve again."""
        return max(0, self._size - files.size(self._path))

    def hold(self) -> bool:
        """Take the room; False when that cannot be. What does not compress stays written."""
        if not self.missing:
            return True
        with suppress(OSError):  # what the system lacks now it may have when this is tried again
            if files.extend(self._path, self._size, os.urandom(1 << 16)):
                return True
        self.release()
        return False

    def release(self) -> None:
        """Give the room back to the file system, if that still takes anything."""
        with suppress(OSError):
            files.remove(self._path)
