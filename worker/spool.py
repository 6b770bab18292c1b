"""Results on disk until the broker acknowledges them, so that they outlive the agent.

One file for each RESULTS message: a magic word, the CRC-32 of the rest, and msgpack. It is written
beside its place, synced, renamed into it, and the folder is synced (a rename alone may be lost in a
power failure). When to keep and when to forget is decided in `worker.core`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from corral.messages import Ended, Raw
from worker.events import Batch

_MAGIC = b"corral results 1\n"
_encode = msgspec.msgpack.Encoder().encode


class _Stored(Struct, frozen=True, array_like=True):
    seq: int
    tokens: list[bytes]
    items: Raw


_decode = msgspec.msgpack.Decoder(_Stored).decode


class Spool:
    """The results that one worker, known by its name, has on disk."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._full = False
        folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> list[Batch]:
        """What an earlier agent left, in its order. Damaged files are set aside, never sent."""
        found = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix == ".new":  # its writer died before it was whole
                path.unlink(missing_ok=True)
            elif path.suffix == ".results":
                batch = _parse(path.read_bytes())
                if batch is None:
                    path.rename(path.with_suffix(".damaged"))
                    self._say(f"{path} is damaged; its attempts will run again")
                else:
                    found.append(batch)
        return found

    def keep(self, batches: Iterable[Batch]) -> None:
        """Put results on disk. On a disk that takes no more they stay in memory alone."""
        try:
            for batch in batches:
                self._write(batch)
            _sync_folder(self._folder)
        except OSError as bad:
            if not self._full:
                self._say(f"results cannot be put on disk, so they are in memory alone: {bad}")
            self._full = True
        else:
            self._full = False

    def _write(self, batch: Batch) -> None:
        body = _encode(_Stored(batch.seq, batch.tokens, _packed(batch.items)))
        path = self._path(batch.seq)
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                file.write(_MAGIC + zlib.crc32(body).to_bytes(4, "big") + body)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        except OSError:
            with suppress(OSError):
                fresh.unlink()
            raise

    def forget(self, seqs: Iterable[int]) -> None:
        """The broker has them."""
        for seq in seqs:
            with suppress(OSError):
                self._path(seq).unlink(missing_ok=True)

    def _path(self, seq: int) -> Path:
        return self._folder / f"{seq:016d}.results"


def _packed(items: Raw | list[Ended]) -> Raw:
    return items if isinstance(items, Raw) else Raw(_encode(items))


def _parse(data: bytes) -> Batch | None:
    """The results in a file; None when it is damaged."""
    head = len(_MAGIC)
    body = data[head + 4 :]
    if data[:head] != _MAGIC or data[head : head + 4] != zlib.crc32(body).to_bytes(4, "big"):
        return None
    try:
        stored = _decode(body)
    except msgspec.MsgspecError:
        return None
    return Batch(stored.seq, stored.tokens, stored.items, on_disk=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
