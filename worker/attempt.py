"""What a handler sees of its attempt: the `Run` of `corral.handlers`, inside a child process."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from corral.errors import TooLarge
from corral.handlers import Cancelled
from corral.messages import Item
from worker.logs import workdir_of
from worker.pipe import FromChild, Saved, Setup, Told, Want, pack

TELL_EVERY = 0.2  # seconds between progress messages of one attempt
MAX_CHECKPOINT = 16 << 20  # bytes

_TELLING = threading.Lock()  # progress of any attempt, so that none overtakes another
_unpack = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode


class Outlet:
    """The way to the agent, for every thread of the child."""

    def __init__(self, data: socket.socket) -> None:
        self._data = data
        self._lock = threading.Lock()

    def send(self, message: FromChild) -> None:
        """Send a message whole.

        Raises:
            SystemExit: the agent is gone, so nobody hears it and there is no reason to go on.
        """
        packed = pack(message)
        try:
            with self._lock:
                self._data.sendall(packed)
        except OSError as gone:
            raise SystemExit(1) from gone


class Attempt:
    """One attempt; implements `corral.handlers.Run`, whose docstrings say what each part means."""

    __slots__ = (
        "_latest", "_outlet", "_parents", "_pending", "_saved_late", "_setup", "_soft_seen",
        "_told_at", "_workdir", "attempt", "began", "cpus", "gpus", "id", "item", "used", "want",
    )  # fmt: skip

    def __init__(self, setup: Setup, outlet: Outlet, item: Item, cpus: float) -> None:
        self.item = item
        self.id = item.id
        self.attempt = item.attempt
        self.cpus = cpus
        self.gpus = setup.gpus
        self.began = 0.0
        self.want: Want | None = None
        self.used = False  #: something must be cleaned up after it
        self._setup = setup
        self._outlet = outlet
        self._latest = item.checkpoint
        self._parents: Mapping[str, Any] | None = None
        self._workdir: Path | None = None
        self._pending: Told | None = None
        self._told_at = 0.0
        self._soft_seen = self._saved_late = False

    @property
    def parents(self) -> Mapping[str, Any]:
        if self._parents is None:
            self._parents = {name: _unpack(raw) for name, raw in self.item.parents.items()}
        return self._parents

    @property
    def workdir(self) -> Path:
        if self._workdir is None:
            self._workdir = workdir_of(self._setup.folder, self.id, self.attempt)
            self._workdir.mkdir(parents=True, exist_ok=True)
            self.used = True
        return self._workdir

    @property
    def soft_limit(self) -> bool:
        near = self.want is Want.SOFT or self.want is Want.HAND_BACK
        self._soft_seen = self._soft_seen or near
        return near

    def check_cancelled(self) -> None:
        if self.want is Want.CANCEL or self.want is Want.HAND_BACK:
            raise Cancelled

    @property
    def handed_back(self) -> bool:
        """Whether a return means no result: it saw that the worker leaves, saved, and stopped."""
        return self._saved_late and self.want is Want.HAND_BACK

    # --- progress -----------------------------------------------------------------------

    def progress(self, fraction: float, **metrics: float) -> None:
        figures = {name: float(figure) for name, figure in metrics.items()}
        told = Told(self.item.token, min(1.0, max(0.0, float(fraction))), figures)
        with _TELLING:
            wait = self._told_at + TELL_EVERY - monotonic()
            if wait <= 0:
                self._tell(told)
            elif self._pending is not None:
                self._pending = told  # the latest one wins
            else:
                self._pending = told
                self.used = True
                timer = threading.Timer(wait, self._tell_pending)
                timer.daemon = True
                timer.start()

    def _tell(self, told: Told) -> None:
        self._pending = None  # it would be old news
        self._told_at = monotonic()
        self._outlet.send(told)

    def _tell_pending(self) -> None:
        with _TELLING:
            if self._pending is not None:
                self._tell(self._pending)

    # --- checkpoints --------------------------------------------------------------------

    @property
    def checkpoint(self) -> Attempt:
        return self  # `load` and `save` are below: one object for each attempt is enough

    def load(self) -> Any:
        return None if self._latest is None else _unpack(self._latest)

    def save(self, state: Any) -> None:
        packed = _pack(state)
        if len(packed) > MAX_CHECKPOINT:
            raise TooLarge(what="The checkpoint", size=len(packed), limit=MAX_CHECKPOINT)
        self._latest = packed
        self._saved_late = self._soft_seen
        self._outlet.send(Saved(self.item.token, packed))

    # --- the end ------------------------------------------------------------------------

    def clean_up(self) -> None:
        """Remove what only this attempt needed."""
        with _TELLING:
            self._pending = None
        if self._workdir is not None:
            shutil.rmtree(self._workdir, ignore_errors=True)
