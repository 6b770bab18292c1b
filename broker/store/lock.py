"""The lock on a data folder: at most one process leads the store in it.

flock(2) on the file `lock`: the kernel lets go of it when the process ends, however it ends. The
file says who holds it, for the message that a second process gets. It is never removed, since a
process that had just opened the old file would then share the folder with one that made a new one.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from corral.errors import StoreInUse

_LENGTH = 255


class Lock:
    """Holds the folder from `acquire` to `release`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "lock"
        self._handle = -1

    def acquire(self) -> None:
        """Raises `StoreInUse`, with the other's pid; OSError when the folder cannot be written."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StoreInUse(pid=self._said()[0], path=self._folder) from None
        self._handle = handle
        self.sign(0, "")

    def sign(self, epoch: int, owner: str) -> None:
        """Say in the file who leads. Always as long: a full disk must not keep a leader out."""
        self._write(f"{os.getpid()} {epoch} {owner}")

    def usurper(self) -> int | None:
        """None while the folder is ours; else the epoch of who has it now, 0 for nobody."""
        try:
            there, ours = os.stat(self._path), os.fstat(self._handle)
        except FileNotFoundError:
            return 0
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
            return None
        epoch = self._said()[1]
        return int(epoch) if epoch.isdigit() else 0

    def release(self) -> None:
        if self._handle >= 0:
            with suppress(OSError):  # a full disk; a stale name misleads nobody
                self._write("")
            os.close(self._handle)
            self._handle = -1

    def _write(self, line: str) -> None:
        os.pwrite(self._handle, line.encode()[:_LENGTH].ljust(_LENGTH) + b"\n", 0)

    def _said(self) -> tuple[str, str]:
        """pid and epoch, as the holder wrote them."""
        words = self._path.read_text(encoding="utf-8", errors="replace").split()
        return (words[0], words[1]) if len(words) > 1 else ("unknown", "")
