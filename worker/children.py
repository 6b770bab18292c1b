"""The agent's side of its child processes: start them, talk with them, bound them, end them.

What a child does is in `worker.runner`; which child runs what, and when it must die, is decided in
`worker.core`.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from worker.events import Spawn
from worker.pipe import Ask, FromChild, GiveBack, Inbox, Setup, ToChild, Work, pack
from worker.processes import (
    agent_mark,
    bind,
    child_mark,
    environment,
    how_it_ended,
    kill_all,
    marked,
)

READ = 1 << 18  # bytes

# What tells numerical libraries how many threads to use.
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
# The agent's own business with systemd.
PRIVATE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Home:
    """Where an agent keeps things, and how the processes that it starts are marked."""

    def __init__(self, folder: Path, incarnation: str, result_limit: int) -> None:
        self.folder = folder
        self.incarnation = incarnation
        self.result_limit = result_limit
        for name in ("logs", "work", "spool"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def catch(self, number: int) -> Path:
        """Where a child's output goes until the attempt that wrote it ends."""
        return self.folder / "logs" / f"child-{number}.log"

    def environment(self, extra: dict[str, str]) -> dict[str, str]:
        """The environment of a process that the agent starts."""
        inherited = {name: value for name, value in os.environ.items() if name not in PRIVATE}
        return inherited | dict([environment(agent_mark(self.folder, self.incarnation))]) | extra


class Child:
    """One child process, from its start until it and all that it started are dead."""

    def __init__(self, home: Home, spawn: Spawn) -> None:
        """Start it.

        Raises:
            OSError: the system has no room for another process, or the disk for its output.
        """
        self.number = spawn.child
        self.kind = spawn.kind
        self.gpus = spawn.gpus
        self.limit_gb = 0.0
        self.catch = home.catch(spawn.child)
        self._mark = child_mark(home.folder, home.incarnation, spawn.child)
        self._inbox: Inbox[FromChild] = Inbox(FromChild)
        self._cores: tuple[int, ...] = ()
        with ExitStack() as parts, ExitStack() as theirs:
            self.data, data = _pair(parts, theirs)
            self.control, control = _pair(parts, theirs)
            page = os.memfd_create("corral-page")
            theirs.callback(os.close, page)
            os.ftruncate(page, mmap.PAGESIZE)
            self._page = parts.enter_context(mmap.mmap(page, mmap.PAGESIZE))
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            catch = os.open(self.catch, flags, 0o644)
            theirs.callback(os.close, catch)
            passed = (data.fileno(), control.fileno(), page)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.runner", spawn.kind, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=catch,
                stderr=catch,
                pass_fds=passed,
                cwd=home.folder / "work",
                env=home.environment(_variables(spawn) | dict([environment(self._mark)])),
                start_new_session=True,
            )
            self.ended = os.pidfd_open(self.process.pid)
            parts.callback(os.close, self.ended)
            self._parts = parts.pop_all()
        self.outboxes = {self.data: bytearray(), self.control: bytearray()}
        setup = Setup(spawn.kind, spawn.gpus, str(home.folder), str(self.catch), home.result_limit)
        self._send(self.data, setup)

    # --- talking ------------------------------------------------------------------------

    def tell(self, message: Work | Ask | GiveBack) -> None:
        """Send it, or as much of it as the socket takes now; `push` sends the rest."""
        self._send(self.data if isinstance(message, Work) else self.control, message)

    def _send(self, to: socket.socket, message: ToChild) -> None:
        outbox = self.outboxes[to]
        waits = bool(outbox)
        outbox += pack(message)
        if not waits:
            self.push(to)

    def push(self, to: socket.socket) -> None:
        """Send what waits for room in the socket."""
        outbox = self.outboxes[to]
        try:
            while outbox:
                del outbox[: to.send(outbox)]
        except BlockingIOError:
            pass
        except OSError:  # the child is dead or dying; its end is an event of its own
            outbox.clear()

    def listen(self, most: int) -> Iterator[FromChild]:
        """What it said, read in at most so many pieces.

        Raises:
            msgspec.MsgspecError: it wrote nonsense into its socket.
        """
        for _ in range(most):
            try:
                data = self.data.recv(READ)
            except OSError:  # nothing more, at present or ever
                return
            if not data:
                return
            yield from self._inbox.fill(data)
            if len(data) < READ:
                return

    @property
    def begun(self) -> int:
        """How many attempts it began in its life."""
        return int.from_bytes(self._page[:8], sys.byteorder)

    # --- bounds and ends ----------------------------------------------------------------

    def confine(self, cores: tuple[int, ...], everything: tuple[int, ...], limit_gb: float) -> None:
        """Bind it to `cores`, or to everything the agent has; watch its memory."""
        self.limit_gb = limit_gb
        cores = cores or everything
        if cores != (self._cores or everything):
            self._cores = cores
            bind(self.process.pid, set(cores))

    def retire(self) -> None:
        """Let it end by itself."""
        with suppress(OSError):
            self.data.shutdown(socket.SHUT_WR)

    def kill(self) -> set[int]:
        """Kill it and all that it started; returns what would not die at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return kill_all(lambda: marked(self._mark))

    def close(self) -> tuple[str, int]:
        """It is dead: see that its descendants are too; how it ended, and how many it had begun."""
        self.kill()
        how, begun = how_it_ended(self.process.wait()), self.begun
        self._parts.close()
        return how, begun

    def clean_up(self) -> None:
        """Remove what became no attempt's log. A disk that refuses keeps it: the agent goes on."""
        with suppress(OSError):
            self.catch.unlink()


def _pair(parts: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A socket pair; the first end does not block and stays ours."""
    ours, other = socket.socketpair()
    parts.enter_context(ours)
    theirs.enter_context(other)
    ours.setblocking(False)
    return ours, other


def _variables(spawn: Spawn) -> dict[str, str]:
    """What a child's environment says about threads and GPUs."""
    return {
        **dict.fromkeys(THREADS, str(spawn.threads)),
        "CUDA_VISIBLE_DEVICES": ",".join(spawn.gpus),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
