"""Faults on demand: what may go wrong in a cluster, made to go wrong here and now.

    answer  a call is answered with an error of the proxy instead of being carried out
    fail    a task fails after a while, and cleans up
    lose    a task's worker dies, and cleans nothing up
    hold    tasks stand still until the fault is cleared
    slow    each operation on a storage takes longer
    full    nothing more fits on a storage
    node    a node is down
    lock    a container keeps a lock that nobody holds

A fault strikes `count` times, or until it is cleared. What a fault means is told where it strikes;
here is which one applies.
"""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Iterator
from typing import Literal

import msgspec

Kind = Literal["answer", "fail", "lose", "hold", "slow", "full", "node", "lock"]


class Fault(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One thing that goes wrong."""

    kind: Kind
    id: int = 0  # given by the lab
    count: int | None = None  # how often it strikes; None: until it is cleared
    after: float = 0.0  # seconds into the task
    seconds: float = 0.0  # that a slow storage takes
    task: str = "*"  # type of the tasks: vzclone, vzstart, ...
    vmid: int | None = None  # the task's container (a clone's source), or the locked one
    node: str = "*"
    storage: str = "*"
    method: str = "*"
    path: str = "*"  # of the calls, without /api2/json: /nodes/*/lxc
    status: int = 595
    text: str = ""  # the error told
    lock: str = "backup"  # the lock's name


class Faults:
    """The faults that are set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: list[Fault] = []
        self._last = 0
        self.changed = threading.Condition()

    def add(self, fault: Fault) -> Fault:
        """Set one; it gets an id."""
        with self._lock:
            self._last += 1
            fault.id = self._last
            self._set.append(fault)
        self._tell()
        return fault

    def clear(self, id: int | None) -> list[Fault]:
        """Clear one, or all; returns those that were set."""
        with self._lock:
            gone = [fault for fault in self._set if id in (None, fault.id)]
            self._set = [fault for fault in self._set if fault not in gone]
        self._tell()
        return gone

    def all(self) -> list[Fault]:
        """What is set."""
        with self._lock:
            return list(self._set)

    def answer(self, method: str, path: str) -> Fault | None:
        """The fault that answers this call."""
        return self._strike(
            fault
            for fault in self.all()
            if fault.kind == "answer"
            and fnmatch.fnmatchcase(method, fault.method)
            and fnmatch.fnmatchcase(path, fault.path)
        )

    def of_task(self, kinds: tuple[Kind, ...], type: str, id: str, node: str) -> Fault | None:
        """The fault of one of some kinds that strikes this task."""
        return self._strike(
            fault
            for fault in self.all()
            if fault.kind in kinds
            and fnmatch.fnmatchcase(type, fault.task)
            and fnmatch.fnmatchcase(node, fault.node)
            and fault.vmid in (None, int(id) if id.isdecimal() else -1)
        )

    def delay(self, node: str, storage: str) -> float:
        """Seconds that an operation on a storage takes longer."""
        return sum(
            fault.seconds
            for fault in self.all()
            if fault.kind == "slow"
            and fnmatch.fnmatchcase(node, fault.node)
            and fnmatch.fnmatchcase(storage, fault.storage)
        )

    def is_full(self, node: str, storage: str) -> bool:
        """Whether nothing more fits on a storage."""
        return any(
            fault.kind == "full"
            and fnmatch.fnmatchcase(node, fault.node)
            and fnmatch.fnmatchcase(storage, fault.storage)
            for fault in self.all()
        )

    def is_down(self, node: str) -> bool:
        """Whether a node is down."""
        return any(
            fault.kind == "node" and fnmatch.fnmatchcase(node, fault.node) for fault in self.all()
        )

    def _strike(self, fitting: Iterator[Fault]) -> Fault | None:
        fault = next(fitting, None)
        if fault is None or fault.count is None:
            return fault
        with self._lock:
            fault.count -= 1
            if fault.count <= 0 and fault in self._set:
                self._set.remove(fault)
        return fault

    def _tell(self) -> None:
        with self.changed:
            self.changed.notify_all()
