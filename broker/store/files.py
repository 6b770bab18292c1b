"""Files that survive a power cut: the few operations on them that the store needs.

A file is on stable storage after fsync, its name only after fsync of its folder. Whatever the
store does beside SQLite goes through here, so that a test can watch every step. What kind of file
system a folder is on is told here too. Nothing here knows what the files are for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import time
from pathlib import Path

#: f_type of statfs(2) -> what a person calls it. None of these keeps the promises that locks and
#: fsync make on a local disk (https://sqlite.org/howtocorrupt.html, 2.1 and 3).
NETWORK: dict[int, str] = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x01021997: "9P",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x73757245: "Coda",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
}
MEMORY: dict[int, str] = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}

#: Errors that mean "this disk takes nothing more", as opposed to a defect of ours.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})

# Written in pieces: one large write makes one large folio of the page cache, and every later
# overwrite of a part of it then costs 4 us more (Linux 6.18, ext4).
_PIECE = 1 << 16
_LARGE_PIECE = 1 << 20  # for a whole file on another disk

_libc = ctypes.CDLL(None, use_errno=True)


def filesystem(path: Path) -> int:
    """f_type of the file system that `path` is on."""
    found = (ctypes.c_long * 32)()  # struct statfs begins with it, and has 120 bytes on 64 bits
    if _libc.statfs(os.fsencode(path), ctypes.byref(found)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return found[0] & 0xFFFFFFFF


def free(path: Path) -> int:
    """Bytes that the file system of `path` still gives to an ordinary user."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def size(path: Path) -> int:
    """Bytes of a file; 0 when it does not exist."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def make_folder(path: Path) -> None:
    """Make a folder, and those above it; its name is durable."""
    if not path.is_dir():
        make_folder(path.parent)
        os.mkdir(path, 0o700)
        sync_folder(path.parent)


def sync(path: Path) -> None:
    """Make the content of a file durable."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Make every name in the folder durable: new ones, renamed ones, removed ones."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Write a new file; its content is durable, its name is not yet."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, offset: int, length: int) -> bytes:
    """At most `length` bytes from `offset` on; -1: all."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if length < 0:
            length = max(0, os.fstat(handle).st_size - offset)
        return os.pread(handle, length, offset)
    finally:
        os.close(handle)


def extend(path: Path, length: int, filler: bytes = bytes(_PIECE)) -> bool:
    """Let the file be at least `length` bytes, really written; False when there is no room.

    What is there stays; without room the file is as it was.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        before = at = os.fstat(handle).st_size
        try:
            while at < length:
                at += os.pwrite(handle, memoryview(filler)[: length - at], at)
            os.fsync(handle)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            os.ftruncate(handle, before)
            return False
        return True
    finally:
        os.close(handle)


def replace(source: Path, target: Path) -> None:
    """Rename, over what may be there; durable after `sync_folder`."""
    os.replace(source, target)


def remove(path: Path) -> bool:
    """Remove a file if it is there; durable after `sync_folder`."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def copy(source: Path, target: Path) -> None:
    """A second name for a file that never changes, or a copy where that is impossible."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # another file system, or one without hard links
        with source.open("rb") as whole, target.open("wb") as twin:
            os.fchmod(twin.fileno(), 0o600)
            shutil.copyfileobj(whole, twin, _LARGE_PIECE)
            twin.flush()
            os.fsync(twin.fileno())


def sync_seconds(folder: Path) -> float:
    """How long the disk takes for the fsync of one small overwrite: the best of five."""
    path = folder / "fsync-probe"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        best = float("inf")
        for _ in range(6):  # the first one also pays for the new file
            os.pwrite(handle, bytes(4096), 0)
            begin = time.perf_counter()
            os.fdatasync(handle)
            best = min(best, time.perf_counter() - begin)
        return best
    finally:
        os.close(handle)
        os.unlink(path)
