"""The agent: one thread and one loop that bring events to the mind and carry out what it says.

Nothing here decides and nothing waits, except for the disk when results are put there: whatever its
attempts do, the agent beats. What is to be done is decided in `worker.core`; sockets, children,
disk and machine each have their own file.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from types import FrameType
from typing import Any

import msgspec
import zmq
from msgspec import structs

from corral import wire
from corral.messages import Document, Gpu, LogChunk, Resources
from corral.systemd import Systemd
from worker import core, events, hardware, logs
from worker.children import Child, Home
from worker.events import Changed, ChildEnded, ChildSaid, Event, MemoryExceeded, StopRequested
from worker.processes import Census, agent_mark, memory_gb
from worker.session import Link
from worker.spool import Spool

log = logging.getLogger("corral.worker")

IN, OUT = int(zmq.POLLIN), int(zmq.POLLOUT)
MEMORY_EVERY = 0.15  # seconds between looks at children with a memory limit
CHORES_EVERY = 1.0  # seconds between looks at the guard, the logs and the status
HARDWARE_EVERY = 10.0  # seconds between looks at the machine
PRUNE_EVERY = 86400.0  # seconds between removals of old logs
FOREIGN_STEP = 0.25  # GiB of a GPU that others take or free before the broker is told
SAME_EVERY = 60.0  # seconds between equal complaints about the connection
LAST_WORDS = 2.0  # seconds for DISCONNECT to leave
OVERTIME = 15.0  # seconds that leaving may take beyond the grace


class Agent:
    """One worker: `run` it once."""

    def __init__(
        self,
        document: Document,
        link: Link,
        home: Home,
        look: Callable[[hardware.IsOurs], hardware.Machine],
        spool_after: float,
        grace: float,
    ) -> None:
        """`look` finds what the machine has, given which processes are our own."""
        now = monotonic()
        self._link = link
        self._home = home
        self._look = look
        self._grace = grace
        self._census = Census(home.folder, home.incarnation)
        self._ours: set[int] = set()
        self._children: dict[int, Child] = {}
        self._machine = look(self._is_ours)
        self._document = _with_machine(document, self._machine)
        self._spool = Spool(home.folder / "spool" / logs.folder_name(document.name), log.warning)
        offer = core.Machine(
            slots=document.slots,
            kinds=frozenset(kind.kind for kind in document.kinds if not kind.extra),
            cores=self._machine.cores,
            gpus=frozenset(gpu.uuid for gpu in self._machine.gpus),
            spool_after=spool_after,
        )
        self._core = core.Core(offer, self._spool.load(), now)
        self._waiting: deque[Event] = deque()
        self._systemd = Systemd()
        self._status: int | None = None
        self._signals: deque[int] = deque()
        self._complaint = ("", 0.0)
        self._wakes, self._wake = socket.socketpair()
        for end in (self._wakes, self._wake):
            end.setblocking(False)
        #: what is done from time to time: how often, when it is due, how
        self._chores: list[tuple[float, float, Callable[[], None]]] = [
            (MEMORY_EVERY, now, self._watch_memory),
            (CHORES_EVERY, now, self._look_after),
            (HARDWARE_EVERY, now + HARDWARE_EVERY, self._watch_machine),
            (PRUNE_EVERY, now, self._prune),
        ]
        self._guard = self._start_guard()

    # --- the loop -----------------------------------------------------------------------

    def run(self) -> int:
        """Work until a signal ends it; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._link.open(monotonic())
        self._systemd.tell(READY=1)
        try:
            while self._status is None:
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
            self._close()
        return self._status

    def _turn(self) -> None:
        due = min(self._core.next_deadline(), *(at for _, at, _ in self._chores))
        if self._link.open_at is not None:
            due = min(due, self._link.open_at)
        sources: dict[Any, Callable[[], None]] = {self._wakes.fileno(): self._heed_signals}
        poll: list[tuple[Any, int]] = [(self._wakes.fileno(), IN)]
        if self._link.socket is not None:
            poll += (self._link.socket, self._link.wanted), (self._link.monitor, IN)
            sources[self._link.socket] = self._listen
            sources[self._link.monitor] = self._watch_link
        for child in self._children.values():
            for end, outbox in child.outboxes.items():
                wanted = (IN if end is child.data else 0) | (OUT if outbox else 0)
                if wanted:
                    poll.append((end.fileno(), wanted))
                    sources[end.fileno()] = partial(self._converse, child, end)
            poll.append((child.ended, IN))
            sources[child.ended] = partial(self._child_ended, child)
        wait = max(0.0, due - monotonic())
        for source, _ in zmq.zmq_poll(poll, int(wait * 1000) + 1):
            sources[source]()
        now = monotonic()
        if self._link.open_at is not None and now >= self._link.open_at:
            self._link.open(now)
        for index, (every, at, chore) in enumerate(self._chores):
            if now >= at:
                self._chores[index] = (every, now + every, chore)
                chore()
        if now >= self._core.next_deadline():
            self._happened(events.Ticked())
        self._systemd.turned(now)

    def _happened(self, event: Event) -> None:
        self._waiting.append(event)
        while self._waiting:
            for instruction in self._core.handle(self._waiting.popleft(), monotonic()):
                _DEEDS[type(instruction)](self, instruction)

    # --- what brings events -------------------------------------------------------------

    def _listen(self) -> None:
        self._link.push()
        for event in self._link.listen():
            self._happened(event)

    def _watch_link(self) -> None:
        for event in self._link.watch():
            self._happened(event)

    def _converse(self, child: Child, end: socket.socket) -> None:
        if child.number not in self._children:
            return
        child.push(end)
        if end is child.data:
            self._hear(child)

    def _hear(self, child: Child, most: int = 16) -> None:
        """Events of what a child said, in at most so many pieces."""
        try:
            for message in child.listen(most):
                self._happened(ChildSaid(child.number, message))
        except (msgspec.MsgspecError, core.Illegal) as bad:
            log.warning("child %d of %s is killed: %s", child.number, child.kind, bad)
            child.kill()

    def _child_ended(self, child: Child) -> None:
        if child.number not in self._children:
            return
        self._hear(child, sys.maxsize)
        how, begun = child.close()
        del self._children[child.number]
        self._happened(ChildEnded(child.number, how, begun))
        child.clean_up()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _heed_signals(self) -> None:
        with suppress(BlockingIOError):
            while self._wakes.recv(64):
                pass
        while self._signals:
            name = signal.Signals(self._signals.popleft()).name
            left = int((self._grace + OVERTIME) * 1e6)
            self._systemd.tell(STOPPING=1, EXTEND_TIMEOUT_USEC=left)
            self._happened(StopRequested(f"the worker got {name}", self._grace))

    # --- chores -------------------------------------------------------------------------

    def _watch_memory(self) -> None:
        limited = [child for child in self._children.values() if child.limit_gb > 0]
        if not limited:
            return
        processes = self._census.take()
        for child in limited:
            used = memory_gb(processes.get(child.number, set()), child.limit_gb)
            if used > child.limit_gb:
                self._happened(MemoryExceeded(child.number, used))

    def _look_after(self) -> None:
        if self._guard.poll() is not None:
            log.warning("the guard (process %d) ended; starting another", self._guard.pid)
            self._guard = self._start_guard()
        for child in self._children.values():
            if logs.trim(child.catch):
                log.warning(
                    "child %d of %s writes too much; its log begins anew", child.number, child.kind
                )
        running = len(self._core.where)
        self._systemd.status(f"{self._core.session}, {running} attempts, {self._link.endpoint}")

    def _watch_machine(self) -> None:
        self._ours = set().union(*self._census.take().values())
        machine = self._look(self._is_ours)
        if _differ(machine, self._machine):
            self._machine = machine
            self._document = _with_machine(self._document, machine)
            gpus, caches = list(machine.gpus), self._document.caches
            self._happened(Changed(Resources(machine.memory_gb, gpus, caches)))

    def _is_ours(self, gpu: str, pid: int) -> bool:
        if pid in self._ours:
            return True
        # In a container the library may give ids of the host's. On a card that a child of ours
        # holds, a process that is not to be seen from here is taken for that child.
        held = any(gpu in child.gpus for child in self._children.values())
        return held and not os.path.exists(f"/proc/{pid}")

    def _prune(self) -> None:
        logs.prune(self._home.folder)

    def _start_guard(self) -> subprocess.Popen[bytes]:
        mark = agent_mark(self._home.folder, self._home.incarnation)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.guard", os.fsdecode(mark)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    # --- deeds --------------------------------------------------------------------------

    def _greet(self, deed: events.Greet) -> None:
        self._document = structs.replace(self._document, session=self._document.session + 1)
        document = _within_bounds(self._document, deed.inflight)
        self._link.send(wire.ready(document.kinds[0].kind, document))

    def _beat(self, deed: events.Beat) -> None:
        self._link.send(wire.heartbeat())

    def _depart(self, deed: events.Depart) -> None:
        self._link.send(wire.disconnect())

    def _send(self, deed: events.Send) -> None:
        self._link.send(wire.extension(deed.message))

    def _reconnect(self, deed: events.Reconnect) -> None:
        now = monotonic()
        why, said_at = self._complaint
        self._link.reconnect(now, self._core.lease)
        if deed.why != why or now >= said_at + SAME_EVERY:
            self._complaint = deed.why, now
            log.warning("%s; trying %s", deed.why, self._link.endpoint)

    def _spawn(self, deed: events.Spawn) -> None:
        try:
            child = Child(self._home, deed)
        except OSError as bad:
            self._waiting.append(ChildEnded(deed.child, str(bad), 0))
        else:
            self._children[deed.child] = child

    def _child(self, number: int) -> Child | None:
        """None between an end and the event that tells of it."""
        return self._children.get(number)

    def _confine(self, deed: events.Confine) -> None:
        if child := self._child(deed.child):
            child.confine(deed.cores, self._machine.cores, deed.memory_gb)

    def _tell(self, deed: events.Tell) -> None:
        if child := self._child(deed.child):
            child.tell(deed.message)

    def _retire(self, deed: events.Retire) -> None:
        if child := self._child(deed.child):
            child.retire()

    def _kill(self, deed: events.Kill) -> None:
        if (child := self._child(deed.child)) and (stubborn := child.kill()):
            log.warning("processes %s do not die; they hang in the kernel", sorted(stubborn))

    def _keep(self, deed: events.Keep) -> None:
        self._spool.keep(deed.batches)

    def _forget(self, deed: events.Forget) -> None:
        self._spool.forget(deed.seqs)

    def _bury(self, deed: events.Bury) -> None:
        folder = self._home.folder
        catch = self._home.catch(deed.child)
        try:
            if catch.exists() and catch.stat().st_size:
                logs.hand_over(str(catch), logs.path_of(folder, deed.id, deed.attempt))
        except OSError as bad:
            log.warning("%s attempt %d: its log is lost: %s", deed.id, deed.attempt, bad)
        shutil.rmtree(logs.workdir_of(folder, deed.id, deed.attempt), ignore_errors=True)

    def _read_log(self, deed: events.ReadLog) -> None:
        catch = None if deed.child is None else self._home.catch(deed.child)
        try:
            chunk = logs.read(self._home.folder, deed.fetch, catch)
        except Exception:  # nobody's wish to read may end what runs here
            log.exception("the log of %s cannot be read", deed.fetch.id)
            chunk = LogChunk(deed.fetch.fetch, b"", 0, found=False)
        self._link.send(wire.extension(chunk))

    def _say(self, deed: events.Say) -> None:
        log.log(logging.WARNING if deed.warning else logging.INFO, "%s", deed.text)

    def _exit(self, deed: events.Exit) -> None:
        self._status = deed.status

    def _close(self) -> None:
        for child in self._children.values():
            child.kill()
            child.close()
            child.clean_up()
        self._link.close(LAST_WORDS)
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self._guard.wait()
        self._wakes.close()
        self._wake.close()


_DEEDS: dict[type[Any], Callable[[Agent, Any], None]] = {
    events.Greet: Agent._greet,
    events.Beat: Agent._beat,
    events.Depart: Agent._depart,
    events.Send: Agent._send,
    events.Reconnect: Agent._reconnect,
    events.Spawn: Agent._spawn,
    events.Confine: Agent._confine,
    events.Tell: Agent._tell,
    events.Retire: Agent._retire,
    events.Kill: Agent._kill,
    events.Keep: Agent._keep,
    events.Forget: Agent._forget,
    events.Bury: Agent._bury,
    events.ReadLog: Agent._read_log,
    events.Say: Agent._say,
    events.Exit: Agent._exit,
}


def _with_machine(document: Document, machine: hardware.Machine) -> Document:
    return structs.replace(
        document, cpus=machine.cpus, memory_gb=machine.memory_gb, gpus=list(machine.gpus)
    )


def _within_bounds(document: Document, inflight: list[bytes]) -> Document:
    """The document with as many tokens as fit; the broker takes the others as not here."""
    room = wire.MAX_DOCUMENT - size_of(document)
    listed = []
    for token in inflight:
        room -= len(token) + 5  # msgpack: at most five bytes say how long it is
        if room < 0:
            break
        listed.append(token)
    return structs.replace(document, inflight=listed)


def size_of(document: Document) -> int:
    """Bytes of the capability document, and of the head of its list of tokens."""
    return len(msgspec.msgpack.encode(document)) + 5


def _differ(new: hardware.Machine, old: hardware.Machine) -> bool:
    """Whether the broker must know: other GPUs, other memory, or much more or less foreign use."""

    def plain(gpu: Gpu) -> Gpu:
        return structs.replace(gpu, foreign_gb=0.0)

    if new.memory_gb != old.memory_gb or list(map(plain, new.gpus)) != list(map(plain, old.gpus)):
        return True
    pairs = zip(new.gpus, old.gpus, strict=True)
    return any(abs(a.foreign_gb - b.foreign_gb) >= FOREIGN_STEP for a, b in pairs)
