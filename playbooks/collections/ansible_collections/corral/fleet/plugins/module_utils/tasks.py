"""Waiting for Proxmox's tasks: one call per node and second for all of them together.

`/cluster/tasks` shows a token nothing, so each node is asked for its own. Only `OK` and
`WARNINGS: n` are success; a failure carries the last line of the task's own log.
"""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils.connection import Api
from ansible_collections.corral.fleet.plugins.module_utils.problems import (
    UNREACHED,
    ApiError,
    Problem,
    TaskFailed,
)

EVERY = 1.0  #: seconds between two looks at one node
FIRST = 0.25  # seconds from a task's start to the first look
RUNNING = "RUNNING"


class TaskLost(Problem):
    """A task whose end nobody saw."""


class Tasks:
    """Waits for tasks, from any thread. Use it with `with`."""

    def __init__(self, api: Api, timeout: float) -> None:
        self._api = api
        self._timeout = timeout
        self._wake = threading.Condition()
        self._waiting: dict[str, tuple[Future[None], float]] = {}  # upid -> future, since
        self._looked: dict[str, float] = {}  # node -> when
        self._over = False
        self._thread = threading.Thread(target=self._work, name="tasks", daemon=True)

    def __enter__(self) -> Tasks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._wake:
            self._over = True
            self._wake.notify()
        self._thread.join()

    def wait(self, upid: str) -> None:
        """Return when a task has ended well.

        Raises:
            TaskFailed: it has not.
            TaskLost: it did not end in time.
        """
        future: Future[None] = Future()
        with self._wake:
            self._waiting[upid] = (future, time.monotonic())
            self._wake.notify()
        future.result()

    def _work(self) -> None:
        while True:
            with self._wake:
                if self._over:
                    return
                due = self._due()
                now = time.monotonic()
                later = [at - now for at in due.values() if at > now]
                nodes = [node for node, at in due.items() if at <= now]
                if not nodes:
                    self._wake.wait(min(later, default=None))
                    continue
            for node in nodes:
                self._looked[node] = time.monotonic()
                try:
                    self._look(node)
                except Exception as error:  # whoever waits would never hear of it
                    for upid in self._waiting_on(node):
                        self._end(upid, TaskLost(f"Task {upid} was lost sight of: {error!r}"))

    def _due(self) -> dict[str, float]:
        """When each node with tasks in flight is asked next."""
        first: dict[str, float] = {}
        for upid, (_, since) in self._waiting.items():
            node = node_of(upid)
            first[node] = min(first.get(node, since), since)
        return {
            node: max(since + FIRST, self._looked.get(node, 0) + EVERY)
            for node, since in first.items()
        }

    def _waiting_on(self, node: str) -> dict[str, tuple[Future[None], float]]:
        with self._wake:
            return {upid: it for upid, it in self._waiting.items() if node_of(upid) == node}

    def _look(self, node: str) -> None:
        waiting = self._waiting_on(node)
        try:
            listed: list[dict[str, Any]] = self._api.get(
                f"/nodes/{node}/tasks",
                source="all",
                since=min(started(upid) for upid in waiting),
                limit=500,
            )
        except Problem as problem:
            # A node that is away for a moment is asked again; whoever waits has a limit.
            gone = isinstance(problem, ApiError) and problem.status in (0, *UNREACHED)
            for upid, (_, since) in waiting.items():
                if not gone or time.monotonic() - since > self._timeout:
                    self._end(upid, TaskLost(f"Task {upid} was lost sight of: {problem}"))
            return
        ended = {entry["upid"]: entry["status"] for entry in listed if _has_ended(entry)}
        for upid, (_, since) in waiting.items():
            if upid in ended:
                self._end(upid, self._judge(upid, ended[upid]))
            elif time.monotonic() - since > self._timeout:
                self._end(
                    upid,
                    TaskLost(
                        f"Task {upid} has not ended in {self._timeout:g} s. It goes on; look at it:"
                        f" pvesh get /nodes/{node}/tasks/{upid}/log. If it is only slow, raise"
                        " task_timeout."
                    ),
                )

    def _judge(self, upid: str, status: str) -> TaskFailed | None:
        if status == "OK" or status.startswith("WARNINGS"):
            return None
        reason = status
        with suppress(Problem):
            log = self._api.get(f"/nodes/{node_of(upid)}/tasks/{upid}/log", limit=5000)
            last = {
                word: line["t"].removeprefix(word)
                for line in log
                for word in ("TASK ERROR: ", "ERROR: ")
                if line["t"].startswith(word)
            }
            reason = last.get("TASK ERROR: ", status)
            if "ERROR: " in last:  # a job of several guests says only that there were errors
                reason += f" ({last['ERROR: ']})"
        return TaskFailed(upid, reason)

    def _end(self, upid: str, problem: Problem | None) -> None:
        with self._wake:
            future, _ = self._waiting.pop(upid)
        if problem is None:
            future.set_result(None)
        else:
            future.set_exception(problem)


def node_of(upid: str) -> str:
    """The node that a task runs on."""
    return upid.split(":")[1]


def started(upid: str) -> int:
    """When a task began, in seconds since the epoch, by its node's clock."""
    return int(upid.split(":")[4], 16)


def named(upid: str) -> str:
    """A task as a person names it."""
    _, node, _, _, _, kind, target, user, *_ = upid.split(":")
    return re.sub(r"\s+", " ", f"task {kind} {target} of {user} on {node}").strip()


def _has_ended(entry: dict[str, Any]) -> bool:
    return bool(entry.get("endtime")) or entry.get("status", RUNNING) != RUNNING
