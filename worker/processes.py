"""Processes as the kernel shows them: which ones belong to us, what they hold, and how they end.

A process is ours when its environment carries our mark. Every descendant inherits it, whatever
session it opens and whoever adopts it, so nothing that a handler started can hide by accident.
Ends processes by id only. Linux, proc(5).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

AGENT = "CORRAL_AGENT"  # the data folder and the incarnation of the agent
CHILD = "CORRAL_CHILD"  # the same, and the number of the child
_PATIENCE = 0.2  # seconds for killed processes to vanish; one that hangs in the kernel takes longer


def agent_mark(folder: Path, incarnation: str = "") -> bytes:
    """What the environment of an agent's processes holds; without incarnation, how it begins."""
    return f"{AGENT}={folder}\x1f{incarnation}".encode()


def child_mark(folder: Path, incarnation: str, number: int) -> bytes:
    """What the environment of one child and its descendants holds."""
    return f"{CHILD}={folder}\x1f{incarnation}\x1f{number}".encode()


def environment(mark: bytes) -> tuple[str, str]:
    """A mark as the name and value of an environment variable."""
    name, _, value = mark.decode().partition("=")
    return name, value


def everybody() -> Iterator[int]:
    """The ids of all processes."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def marked(mark: bytes, whole: bool = True) -> set[int]:
    """The living processes whose environment carries `mark`; not whole: something it begins."""
    found = set()
    for pid in everybody():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = b"\0" + file.read()
        except OSError:  # gone, or somebody else's
            continue
        if (b"\0" + mark + (b"\0" if whole else b"")) in environ:  # a zombie's is empty
            found.add(pid)
    return found


class Census:
    """Which processes belong to which child of an agent; cheap enough for several times a second.

    A process that is not ours stays that, so each is looked at once.
    """

    def __init__(self, folder: Path, incarnation: str) -> None:
        self._mark = b"\0" + child_mark(folder, incarnation, 0)[:-1]
        self._others: set[int] = set()

    def take(self) -> dict[int, set[int]]:
        """Number of a child -> the processes that it and its descendants are now."""
        ours: dict[int, set[int]] = {}
        alive = set(everybody())
        self._others &= alive
        for pid in alive - self._others:
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    environ = b"\0" + file.read()
            except OSError:
                continue
            _, found, rest = environ.partition(self._mark)
            if found:
                ours.setdefault(int(rest.partition(b"\0")[0]), set()).add(pid)
            elif len(environ) > 1:  # it is empty while a process is being made
                self._others.add(pid)
        return ours


def kill_all(find: Callable[[], set[int]], patience: float = _PATIENCE) -> set[int]:
    """Kill what `find` finds, again until it finds nothing. Returns what would not die in time."""
    until = time.monotonic() + patience
    while found := find() - {os.getpid()}:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= until:
            return found
        time.sleep(0.002)
    return set()


def memory_gb(pids: set[int], limit_gb: float) -> float:
    """Memory that these processes hold together, GiB.

    Their resident sets count shared pages once for each process. Only when that is over the limit
    is the proportional set size read, which counts them once and costs more.
    """
    resident = sum(_resident(pid) for pid in pids) / (1 << 30)
    if resident <= limit_gb or len(pids) == 1:
        return resident
    return sum(_proportional(pid) for pid in pids) / (1 << 30)


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return _resident(pid)


def bind(pid: int, cores: set[int]) -> None:
    """Bind every thread of a process to these cores."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)
    except OSError:  # it ended, or a thread of it did; or the cores are not ours any more
        pass


def how_it_ended(status: int) -> str:
    """A return code of `subprocess` in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
