"""Copies of a broker's store: one at a time while it works, or of one that is stopped.

Where a copy may lie, who hears of it and when the next step is due is decided here; how it is made
is `broker.store.copying`'s. Each turn of the loop does one step, a millisecond at most.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from broker.keeper import Keeper
from broker.store import Copied
from broker.store.sqlite import SqliteStore
from corral.errors import BackupFailed, Usage
from corral.messages import SERVICE_OF, Answer, BackedUp, Backup, BackupView, Underway
from corral.settings import BrokerSettings

if TYPE_CHECKING:
    from broker.server import Server

FOLDER = "backups"  # in the broker's data, for copies that are sent nowhere else
PAUSE = 0.001  # seconds between two steps when there is nothing else to do
TELL_EVERY = 0.25  # seconds between two signs of life for the client that waits
log = logging.getLogger("corral.broker")


class _Job(Struct):
    """The copy that is being made."""

    call: Backup
    peer: bytes  #: who waits for the answer; another after a reconnect
    target: Path
    steps: Generator[float, None, Copied]
    began: float
    told: float


class Backups:
    """Answers to `corral.backup`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._job: _Job | None = None
        self._last: BackedUp | None = None

    @property
    def running(self) -> bool:
        """Whether a step is due in the next turn."""
        return self._job is not None

    def begin(self, peer: bytes, call: Backup) -> Answer | None:
        """Begin a copy; the answer comes when it is whole. A call that was sent before goes on.

        Raises:
            BackupFailed: another copy is being made, or none may lie there.
            Usage: the folder is named by a relative path.
        """
        if self._last is not None and self._last.request == call.request:
            return self._last
        if self._job is not None:
            if self._job.call.request != call.request:
                why = f"another copy is being made, to {self._job.target}"
                raise BackupFailed(path=call.to or "its default folder", why=why)
            self._job.peer = peer
            return None
        server = self._server
        target, draft = _places(server.data, call.to)
        steps = server.store.backup(target, draft, lambda: server.keeper.unfolded(server.state))
        now = time.monotonic()
        self._job = _Job(call, peer, target, steps, now, now)
        log.info("copying the store to %s", target)
        return None

    def step(self) -> bool:
        """Do one step. True when that was the last one, and there is an answer to send."""
        job = self._job
        if job is None:
            return False
        server, now = self._server, time.monotonic()
        try:
            next(job.steps)
        except StopIteration as end:
            view = _view(job.target, end.value, now - job.began)
            log.info(
                "copied the store to %s: %d tasks, %d bytes", view.path, view.tasks, view.bytes
            )
            self._last = BackedUp(job.call.request, view)
            server.to_client(job.peer, SERVICE_OF[Backup], self._last)
        except BackupFailed as error:
            log.warning("%s", error)
            server.refuse(job.peer, job.call, error)
        else:
            if now >= job.told + TELL_EVERY:
                job.told = now
                underway = Underway(job.call.request)
                server.to_client(job.peer, SERVICE_OF[Backup], underway, final=False)
            return False
        self._job = None
        return True

    def close(self) -> None:
        """Give up the copy that is being made; nothing of it is left."""
        if self._job is not None:
            self._job.steps.close()
            self._job = None


def offline(data: Path, to: str) -> BackupView:
    """Copy the store of a broker that is stopped.

    Raises:
        StoreInUse: it is not stopped; names its pid.
        StoreRefused, StoreNewer, StoreCorrupt: there is no store, or it cannot be read.
        BackupFailed: it cannot be written there.
    """
    began = time.monotonic()
    target, draft = _places(data.absolute(), str(Path(to).absolute()) if to else "")
    store = SqliteStore(data)
    store.inspect()
    try:
        keeper = Keeper(store, BrokerSettings())
        state = keeper.load()
        steps = store.backup(target, draft, lambda: keeper.unfolded(state))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return _view(target, end.value, time.monotonic() - began)
            time.sleep(PAUSE)
    finally:
        store.close()


def _places(data: Path, to: str) -> tuple[Path, Path]:
    """Where a copy will lie, and where it is until then."""
    data = data.absolute()
    if not to:
        folder = data / FOLDER
        now = datetime.now(UTC).isoformat("T", "milliseconds").replace(":", "-")
        # One name for all drafts: the next copy removes what a killed broker left.
        return folder / now.replace("+00-00", "Z"), folder / ".partial"
    if not Path(to).is_absolute():
        why = "it names a folder on the broker's machine, so it must begin with /"
        raise Usage(what=f"the path {to} is relative: {why}")
    target = Path(os.path.normpath(to))  # a look at that disk might take long: the thread's
    for store in (data, data.resolve()):
        if target.is_relative_to(store) and not target.is_relative_to(store / FOLDER):
            why = f"it lies within the store itself; {data / FOLDER} is the place for that"
            raise BackupFailed(path=to, why=why)
    return target, target.with_name(f".{target.name}.corral-partial")


def _view(target: Path, copied: Copied, seconds: float) -> BackupView:
    return BackupView(
        path=str(target), bytes=copied.bytes, tasks=copied.tasks, seconds=round(seconds, 3)
    )
