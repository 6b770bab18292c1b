"""Where the output of attempts goes: one file each, which exists once something was written.

A child's file descriptors 1 and 2 point at a catch file. It becomes the log of the attempt that
wrote to it by being renamed, when that attempt ends; so output of libraries and subprocesses is
caught too, an attempt that is silent costs one system call, and nothing waits on a reader.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from corral.messages import FetchLog, Item, LogChunk

KEEP = 14 * 86400.0  # seconds that a log is kept
MAX_CHUNK = 1 << 20  # bytes of one answer
MAX_LOG = 256 << 20  # bytes of one attempt's output


def folder_name(id: str) -> str:
    """A task's id as the name of a folder; ids may hold slashes and dots."""
    return quote(id, safe="").replace(".", "%2E")


def path_of(folder: str | Path, id: str, attempt: int) -> Path:
    """The log of one attempt, in an agent's data folder."""
    return Path(folder, "logs", folder_name(id), f"{attempt}.log")


def workdir_of(folder: str | Path, id: str, attempt: int) -> Path:
    """The scratch folder of one attempt."""
    return Path(folder, "work", f"{folder_name(id)}.{attempt}")


def hand_over(catch: str, log: Path) -> None:
    """Make what was caught the log of an attempt.

    Raises:
        OSError: the disk does not let us.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    os.rename(catch, log)


class Catch:
    """The catch file of this process, on descriptors 1 and 2."""

    def __init__(self, folder: str, path: str) -> None:
        self._folder = folder
        self._path = path
        self._next = str(Path(path).with_suffix(".next.log"))
        self._file = os.dup(1)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper here
        self._flush_out = sys.stdout.flush
        self._flush_err = sys.stderr.flush

    def settle(self, item: Item) -> str:
        """An attempt ended: what was written is its log. What was lost of it, and why, or nothing.

        Nothing is raised: the attempt's result does not depend on its log.
        """
        lost = ""
        try:
            self._flush_out()
            self._flush_err()
        except ValueError:  # the handler closed them
            pass
        except OSError as bad:
            lost = f"the end of its log is lost: {bad}"
            self._drop_unwritten()
        try:
            if os.lseek(self._file, 0, os.SEEK_END):
                self._hand_over(path_of(self._folder, item.id, item.attempt))
        except OSError as bad:
            lost = f"its log is lost: {bad}"
            with suppress(OSError):
                os.ftruncate(self._file, 0)
        return lost

    def _drop_unwritten(self) -> None:
        """Let no later attempt's log begin with what the disk did not take of this one's."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            self._write_to(nowhere)
            os.close(nowhere)
            with suppress(ValueError):
                self._flush_out()
                self._flush_err()
            self._write_to(self._file)

    def _hand_over(self, log: Path) -> None:
        # First the next file: without one, what is written later would end in this log.
        fresh = os.open(self._next, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            hand_over(self._path, log)
            os.rename(self._next, self._path)
            self._write_to(fresh)
            os.dup2(fresh, self._file, inheritable=False)
        finally:
            os.close(fresh)

    def _write_to(self, file: int) -> None:
        for descriptor in (1, 2):
            os.dup2(file, descriptor)


def read(folder: Path, fetch: FetchLog, catch: Path | None) -> LogChunk:
    """A piece of a log; `catch` is where the attempt's output is while it runs."""
    for path in (path_of(folder, fetch.id, fetch.attempt), catch):
        with suppress(OSError):
            if path is not None:
                with path.open("rb") as log:
                    log.seek(max(0, fetch.offset))
                    data = log.read(max(0, min(fetch.size, MAX_CHUNK)))
                    return LogChunk(fetch.fetch, data, os.fstat(log.fileno()).st_size)
    return LogChunk(fetch.fetch, b"", 0, found=False)


def trim(catch: Path, most: int = MAX_LOG) -> bool:
    """Begin a catch file anew when it is larger than `most` bytes. Whether it was."""
    with suppress(OSError):
        size = catch.stat().st_size
        if size > most:
            os.truncate(catch, 0)
            with catch.open("ab") as file:
                file.write(f"[{size} bytes of output were removed here]\n".encode())
            return True
    return False


def prune(folder: Path) -> None:
    """Remove logs that are older than `KEEP`."""
    oldest = time.time() - KEEP
    with suppress(OSError):
        for task in list((folder / "logs").iterdir()):
            with suppress(OSError):
                if task.is_dir() and task.stat().st_mtime < oldest:
                    shutil.rmtree(task)
