"""Large values as files named by their content: results too big for the database.

A blob is written under a name of its own, synced, and only then renamed to its digest, so a file
that has a digest for a name is whole. Who refers to a blob is not known here: `sweep` is told.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from broker.store import files
from corral.errors import NotFound, StoreCorrupt

_DIGEST = re.compile("[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """BLAKE2b-256 (RFC 7693) in hexadecimal, 64 characters."""
    return blake2b(data, digest_size=32).hexdigest()


class Blobs:
    """The files in one folder. Errors of the disk come as OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._total: int | None = None

    def open(self) -> None:
        """Make the folder; every name in it is durable, also one that a killed process left."""
        files.make_folder(self._folder)
        files.sync_folder(self._folder)

    @property
    def total(self) -> int:
        """Bytes of all blobs together. Counted once, then kept."""
        if self._total is None:
            self._total = sum(files.size(path) for path in self)
        return self._total

    def __iter__(self) -> Iterator[Path]:
        """The blobs, by path."""
        return (path for path in self._folder.iterdir() if _DIGEST.fullmatch(path.name))

    def put(self, data: bytes) -> str:
        """Durable when it returns."""
        digest = digest_of(data)
        path = self._folder / digest
        if _holds(path, data):
            os.utime(path)  # young again: `sweep` waits until somebody can have named it
        else:
            altered = files.size(path)
            draft = path.with_suffix(".new")
            try:
                files.write(draft, data)
                files.replace(draft, path)
            except OSError:
                with suppress(OSError):  # else `sweep` removes it
                    files.remove(draft)
                raise
            if self._total is not None:
                self._total += len(data) - altered
        files.sync_folder(self._folder)
        return digest

    def get(self, digest: str, offset: int, size: int) -> bytes:
        """Raises NotFound; StoreCorrupt when all of it was read and its digest is another."""
        data = files.read(self._path(digest), offset, size)
        if offset == 0 and size < 0 and digest_of(data) != digest:
            raise StoreCorrupt(path=self._folder.parent, why=f"blob {digest} was altered")
        return data

    def size(self, digest: str) -> int:
        """Raises NotFound."""
        return files.size(self._path(digest))

    def sweep(
        self,
        named: Container[str],
        older_than: float,
        limit: int,
        among: Iterable[str] | None = None,
    ) -> int:
        """Remove at most `limit` files that are not in `named` and were put that long ago."""
        removed = 0
        young = time.time() - older_than
        if among is None:
            paths = list(self._folder.iterdir())
        else:
            paths = [path for digest in among if (path := self._folder / digest).exists()]
        for path in paths:
            if removed == limit:
                break
            if path.name not in named and path.stat().st_mtime <= young:
                if self._total is not None:
                    self._total -= files.size(path)
                removed += files.remove(path)
        return removed

    def copy(self, target: Path) -> Iterator[int]:
        """Let every blob be in the folder `target` too, durable at the end; yields their sizes.

        Another thread may do it, as long as nobody calls `sweep`.
        """
        files.make_folder(target)
        for path in self:
            files.copy(path, target / path.name)
            yield files.size(path)
        files.sync_folder(target)

    def _path(self, digest: str) -> Path:
        path = self._folder / digest
        if not _DIGEST.fullmatch(digest) or not path.exists():
            raise NotFound(noun="blob", name=digest)
        return path


def _holds(path: Path, data: bytes) -> bool:
    """Whether the file is there and whole: one that was altered is written anew."""
    try:
        return files.read(path, 0, -1) == data
    except OSError:
        return False
