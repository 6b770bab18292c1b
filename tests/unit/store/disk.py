"""A disk that can be watched, cut from power and made to fail, under the real store.

`watched` puts itself between the store and the kernel: an apsw VFS for what SQLite does, a stand-in
for `os` in `broker.store.files` for the rest. Every step that changes the disk is passed on and
written down. A `Platter` replays such a list and tells what a disk may hold when power is cut in
the middle of it: all that was synced, and of the rest any part.

The model is harsher than POSIX and than any file system in use: each step that was not synced
stays or goes on its own, writes are torn at sectors, fsync of a file keeps neither its name nor
the steps on any other file, and SQLite's own fsyncs of folders do not count.
"""

# ruff: noqa: N802 - the names of the methods are SQLite's

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import apsw

from broker.store import files

ROOT = 0  # the inode of the watched folder


class Write(NamedTuple):
    inode: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    inode: int
    size: int


class Sync(NamedTuple):
    inode: int


class Link(NamedTuple):
    folder: int
    name: str
    inode: int
    is_folder: bool = False


class Unlink(NamedTuple):
    folder: int
    name: str


class Rename(NamedTuple):
    folder: int
    old: str
    new: str
    inode: int


Step = Write | Truncate | Sync | Link | Unlink | Rename
Fault = Callable[[Step], int]  #: an errno for a step that is to fail, else 0

# --- what survives ----------------------------------------------------------------------


class Cut(NamedTuple):
    """What becomes of the steps that were not synced."""

    keep: float  #: chance that a step stays
    torn: float = 0.0  #: chance that a write is torn instead
    sector: int = 512  #: bytes, unit of tearing


NOTHING, EVERYTHING = Cut(keep=0.0), Cut(keep=1.0)


class Platter:
    """The disk: durable content, and behind it the steps that no fsync has covered yet."""

    def __init__(self) -> None:
        self._files: dict[int, bytearray] = {}
        self._folders: dict[int, dict[str, int]] = {ROOT: {}}
        self._pending: dict[int, list[Step]] = {}

    def do(self, step: Step) -> None:
        """The next step of a recording."""
        match step:
            case Sync(inode):
                for earlier in self._pending.pop(inode, ()):
                    self._apply(earlier, self._files, self._folders)
            case Link(folder, _, inode, is_folder):
                if is_folder:
                    self._folders[inode] = {}
                else:
                    self._files[inode] = bytearray()
                self._pending.setdefault(folder, []).append(step)
            case _:
                self._pending.setdefault(step[0], []).append(step)

    def cut(self, how: Cut, draw: random.Random) -> dict[str, bytes | None]:
        """What may be there afterwards: path -> content, None for a folder."""
        contents = {inode: bytearray(content) for inode, content in self._files.items()}
        folders = {inode: dict(names) for inode, names in self._folders.items()}
        for steps in self._pending.values():
            for step in steps:
                for part in _survivors(step, how, draw):
                    self._apply(part, contents, folders)
        return dict(_walk(ROOT, "", contents, folders))

    @staticmethod
    def _apply(
        step: Step, contents: dict[int, bytearray], folders: dict[int, dict[str, int]]
    ) -> None:
        match step:
            case Write(inode, offset, data):
                content = contents[inode]
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
            case Truncate(inode, size):
                content = contents[inode]
                del content[size:]
                content.extend(bytes(size - len(content)))
            case Link(folder, name, inode):
                folders[folder][name] = inode
            case Unlink(folder, name):
                folders[folder].pop(name, None)
            case Rename(folder, old, new, inode):
                folders[folder].pop(old, None)
                folders[folder][new] = inode


def _survivors(step: Step, how: Cut, draw: random.Random) -> Iterator[Step]:
    chance = draw.random()
    if isinstance(step, Write) and chance < how.torn:
        inode, offset, data = step
        end = offset + len(data)
        while offset < end:
            border = min(end, offset - offset % how.sector + how.sector)
            piece, data = data[: border - offset], data[border - offset :]
            if draw.random() < 0.5:
                yield Write(inode, offset, piece)
            offset = border
    elif chance < how.torn + how.keep:
        yield step


def _walk(
    inode: int, path: str, contents: Mapping[int, bytearray], folders: Mapping[int, dict[str, int]]
) -> Iterator[tuple[str, bytes | None]]:
    for name, child in folders[inode].items():
        if child in folders:
            yield f"{path}{name}", None
            yield from _walk(child, f"{path}{name}/", contents, folders)
        else:
            yield f"{path}{name}", bytes(contents[child])


def lay_out(found: Mapping[str, bytes | None], folder: Path) -> None:
    """Make it real, so that a store can be opened on it."""
    folder.mkdir()
    for path, content in found.items():  # a folder comes before what it holds
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


# --- watching ---------------------------------------------------------------------------


class Recorder:
    """The steps that changed the files below `root`, in order."""

    def __init__(self, root: Path) -> None:
        self.steps: list[Step] = []
        self.fault: Fault = lambda step: 0
        self._root = str(root)
        self._inodes = {str(root): ROOT}
        self._next = ROOT + 1
        for path in sorted(root.rglob("*")):
            self.create(str(path), path.is_dir())
            if path.is_file():
                self.note(Write(self.inode(path), 0, path.read_bytes()))
        for inode in list(self._inodes.values()):
            self.note(Sync(inode))

    def watches(self, path: str | os.PathLike[str]) -> bool:
        return os.fspath(path).startswith(self._root)

    def inode(self, path: str | os.PathLike[str]) -> int:
        return self._inodes[os.fspath(path)]

    def note(self, step: Step) -> None:
        """Raises OSError in place of a step that is to fail."""
        if error := self.fault(step):
            raise OSError(error, os.strerror(error))
        self.steps.append(step)

    def create(self, path: str, is_folder: bool = False) -> None:
        if not self.watches(path):
            return
        folder, name = os.path.split(path)
        self.note(Link(self.inode(folder), name, self._next, is_folder))
        self._inodes[path] = self._next
        self._next += 1

    def remove(self, path: str) -> None:
        if not self.watches(path):
            return
        folder, name = os.path.split(path)
        self.note(Unlink(self.inode(folder), name))
        del self._inodes[path]

    def rename(self, old: str, new: str) -> None:
        if not self.watches(old):
            return
        folder, name = os.path.split(old)
        assert os.path.dirname(new) == folder, "the model knows renames within a folder"
        self.note(Rename(self.inode(folder), name, os.path.basename(new), self.inode(old)))
        self._inodes[new] = self._inodes.pop(old)


@contextmanager
def watched(root: Path) -> Iterator[Recorder]:
    """Record what a store in or below the existing folder `root` does to its disk."""
    recorder = Recorder(root)
    vfs = _Vfs(recorder)
    try:
        apsw.set_default_vfs(_Vfs.NAME)
        with mock.patch.object(files, "os", _Os(recorder)):
            yield recorder
    finally:
        recorder.fault = lambda step: 0
        for left in apsw.connections():  # a test that failed let go of them
            if left.open_vfs == _Vfs.NAME:
                left.close(force=True)
        apsw.set_default_vfs("unix")
        vfs.unregister()


class _Vfs(apsw.VFS):
    """SQLite's files."""

    NAME = "watched"

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(self.NAME, "unix")
        self._recorder = recorder

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not self._recorder.watches(path):
            return apsw.VFSFile("unix", name, flags)
        return _File(self._recorder, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with _as_sqlite():
            self._recorder.remove(filename)
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, path: str, name: Any, flags: list[int]) -> None:
        if flags[0] & apsw.SQLITE_OPEN_CREATE and not os.path.exists(path):
            with _as_sqlite():
                recorder.create(path)
        super().__init__("unix", name, flags)
        self._recorder = recorder
        self._inode = recorder.inode(path)

    def xWrite(self, data: bytes, offset: int) -> None:
        with _as_sqlite():
            self._recorder.note(Write(self._inode, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        with _as_sqlite():
            self._recorder.note(Truncate(self._inode, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        with _as_sqlite(apsw.IOError):  # SQLite has no other word for it
            self._recorder.note(Sync(self._inode))
        super().xSync(flags)


@contextmanager
def _as_sqlite(full: type[apsw.Error] = apsw.FullError) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = full if error.errno == errno.ENOSPC else apsw.IOError
        raise kind(error.strerror) from error


class _Os:
    """What `broker.store.files` uses of `os`; all else is the real module's."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._inodes: dict[int, int] = {}  # by file descriptor

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        existed = os.path.exists(path)
        if not existed and flags & os.O_CREAT:
            self._recorder.create(str(path))
        handle = os.open(path, flags, mode)
        if self._recorder.watches(path):
            self._inodes[handle] = self._recorder.inode(path)
            if existed and flags & os.O_TRUNC:
                self._note(handle, Truncate, 0)
        return handle

    def close(self, handle: int) -> None:
        self._inodes.pop(handle, None)
        os.close(handle)

    def write(self, handle: int, data: memoryview) -> int:
        self._note(handle, Write, os.lseek(handle, 0, os.SEEK_CUR), bytes(data))
        return os.write(handle, data)

    def pwrite(self, handle: int, data: memoryview, offset: int) -> int:
        self._note(handle, Write, offset, bytes(data))
        return os.pwrite(handle, data, offset)

    def ftruncate(self, handle: int, size: int) -> None:
        self._note(handle, Truncate, size)
        os.ftruncate(handle, size)

    def fsync(self, handle: int) -> None:
        self._note(handle, Sync)
        os.fsync(handle)

    fdatasync = fsync

    def mkdir(self, path: Path, mode: int) -> None:
        self._recorder.create(str(path), is_folder=True)
        os.mkdir(path, mode)

    def replace(self, old: Path, new: Path) -> None:
        self._recorder.rename(str(old), str(new))
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        if os.path.exists(path):
            self._recorder.remove(str(path))
        os.unlink(path)

    def _note(self, handle: int, step: Callable[..., Step], *details: Any) -> None:
        if handle in self._inodes:
            self._recorder.note(step(self._inodes[handle], *details))
