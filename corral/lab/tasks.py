"""Tasks: what a call starts and does not wait for. Each has a UPID, a log and an end.

A task's work runs in a thread. It passes `point` where an error would find it: there it may be
interrupted, or a fault may strike. Work that is interrupted or fails cleans up, because what it
meets is an `Exception`; a worker that is lost meets a `BaseException`, and leaves locks behind, as
a killed process does. A lab that is killed loses all its workers.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from corral.lab.access import Actor
from corral.lab.answers import Refused
from corral.lab.faults import Faults
from corral.lab.runtime import RuntimeFailed

LOST = "unexpected status"
UPID = re.compile(
    r"UPID:(?P<node>[a-zA-Z0-9-]+):(?P<pid>[0-9A-F]{8}):(?P<pstart>[0-9A-F]{8,9})"
    r":(?P<starttime>[0-9A-F]{8}):(?P<type>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):"
)
STOP_SECONDS = 5.0  # that stopping a task waits for its end


class WorkerLost(BaseException):
    """The task's process is gone: nothing cleans up."""


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """A line of the archive."""

    upid: str
    endtime: int
    status: str


class Task:
    """One task. Its work calls `log`, `warn` and `point`."""

    def __init__(self, upid: str, folder: Path, faults: Faults | None = None) -> None:
        found = UPID.fullmatch(upid)
        assert found is not None
        self.upid = upid
        self.node, self.type, self.id = found["node"], found["type"], found["id"]
        self.user: str = found["user"].partition("!")[0]
        self.token: str = found["user"].partition("!")[2]
        self.pid, self.pstart, self.starttime = (
            int(found[name], 16) for name in ("pid", "pstart", "starttime")
        )
        self.endtime: int | None = None
        self.status = ""
        self.done = threading.Event()
        self.warnings = 0
        self.path = folder / upid.replace("/", "_")
        self._faults = faults
        self._stop: type[Exception] | type[WorkerLost] | None = None

    @property
    def owner(self) -> Actor:
        """Who started it."""
        return Actor(self.user, self.token)

    def log(self, line: str) -> None:
        """Add a line to the log."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def warn(self, line: str) -> None:
        """Add a warning; the task ends with `WARNINGS` instead of `OK`."""
        self.warnings += 1
        self.log(f"WARN: {line}")

    def lines(self) -> list[str]:
        """The log so far."""
        try:
            return self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def stop(self, how: type[Exception] | type[WorkerLost]) -> None:
        """Let it meet this at its next point."""
        assert self._faults is not None
        self._stop = how
        with self._faults.changed:
            self._faults.changed.notify_all()

    def point(self, seconds: float = 0.0) -> None:
        """Where faults strike; lasts `seconds`, or until the task is let go on."""
        assert self._faults is not None
        struck = self._faults.of_task(("fail", "lose"), self.type, self.id, self.node)
        self._wait(seconds + (struck.after if struck else 0.0))
        if struck is not None and struck.kind == "lose":
            raise WorkerLost
        if struck is not None:
            raise Refused(struck.text or "the lab was told to let this task fail")

    def _wait(self, seconds: float) -> None:
        assert self._faults is not None
        until = time.monotonic() + seconds
        with self._faults.changed:
            while True:
                if self._stop is not None:
                    raise self._stop("interrupted by signal")
                held = self._faults.of_task(("hold",), self.type, self.id, self.node)
                left = until - time.monotonic()
                if held is None and left <= 0:
                    return
                self._faults.changed.wait(None if held else left)


class Tasks:
    """All tasks of all nodes."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        self._folder = folder
        self._faults = faults
        self._lock = threading.Lock()
        self._pids = itertools.count(int(time.time()) % 100_000 + 1000)
        self._boot = time.monotonic()
        self._known: dict[str, Task] = {}
        self._ended: list[Task] = []  # the oldest first
        folder.mkdir(parents=True, exist_ok=True)
        self._index = folder / "index"
        self._load()

    def _load(self) -> None:
        try:
            lines = self._index.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            ended = msgspec.json.decode(line, type=Ended)
            task = Task(ended.upid, self._folder)
            task.endtime, task.status = ended.endtime, ended.status
            task.done.set()
            self._known[task.upid] = task
            self._ended.append(task)
        for path in sorted(self._folder.glob("UPID:*")):
            if path.name not in self._known and UPID.fullmatch(path.name):
                task = Task(path.name, self._folder)
                self._known[task.upid] = task
                self._end(task, LOST)

    def find(self, upid: str) -> Task | None:
        """The task of that UPID."""
        return self._known.get(upid)

    def running(self) -> list[Task]:
        """Those at work, the newest first."""
        with self._lock:
            return [task for task in reversed(self._known.values()) if not task.done.is_set()]

    def archive(self) -> Iterator[Task]:
        """Those that have ended, the last first."""
        with self._lock:
            return reversed(self._ended.copy())

    def start(
        self, node: str, type: str, id: str | int, actor: Actor, work: Callable[[Task], Any]
    ) -> str:
        """Begin a task; returns its UPID."""
        with self._lock:
            pstart = int((time.monotonic() - self._boot) * 100) + 1000
            numbers = f"{next(self._pids):08X}:{pstart:08X}:{int(time.time()):08X}"
            task = Task(
                f"UPID:{node}:{numbers}:{type}:{id}:{actor.name}:", self._folder, self._faults
            )
            self._known[task.upid] = task
            task.path.touch()
        threading.Thread(target=self._run, args=(task, work), name=task.upid, daemon=True).start()
        return task.upid

    def stop(self, task: Task) -> None:
        """Interrupt a task, and wait for its end."""
        task.stop(Refused)
        task.done.wait(STOP_SECONDS)

    def lose(self, node: str | None = None) -> None:
        """Let the workers of a node die, or those of all nodes; waits a while for their ends."""
        lost = [task for task in self.running() if node in (None, task.node)]
        for task in lost:
            task.stop(WorkerLost)
        until = time.monotonic() + STOP_SECONDS
        for task in lost:
            task.done.wait(max(0.0, until - time.monotonic()))

    def _run(self, task: Task, work: Callable[[Task], Any]) -> None:
        try:
            work(task)
        except WorkerLost:
            self._end(task, LOST)
        except (Refused, RuntimeFailed) as error:
            self._fail(task, getattr(error, "text", str(error)))
        except Exception as error:
            self._fail(task, f"{error.__class__.__name__}: {error}")
            self._end(task, task.status)
            raise
        else:
            status = f"WARNINGS: {task.warnings}" if task.warnings else "OK"
            task.log(f"TASK {status}")
            self._end(task, status)

    def _fail(self, task: Task, text: str) -> None:
        text = " ".join(text.split("\n")).strip()
        task.log(f"TASK ERROR: {text}")
        self._end(task, text)

    def _end(self, task: Task, status: str) -> None:
        with self._lock:
            task.status, task.endtime = status, int(time.time())
            self._ended.append(task)
            with self._index.open("ab") as file:
                file.write(msgspec.json.encode(Ended(task.upid, task.endtime, status)) + b"\n")
        task.done.set()
