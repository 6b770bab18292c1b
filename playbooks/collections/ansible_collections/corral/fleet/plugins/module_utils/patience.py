"""Trying again: only while something is locked, or a node's proxy is away, and only for so long."""

from __future__ import annotations

import time
from collections.abc import Callable

from ansible_collections.corral.fleet.plugins.module_utils import seen as seeing
from ansible_collections.corral.fleet.plugins.module_utils.connection import Api
from ansible_collections.corral.fleet.plugins.module_utils.problems import (
    UNREACHED,
    ApiError,
    Problem,
    TaskFailed,
    is_lock,
)
from ansible_collections.corral.fleet.plugins.module_utils.tasks import Tasks, named

AWAY = 20.0  # seconds that a node's proxy may be away
SLOWEST = 4.0  # seconds between two tries


class Patience:
    """Tries again while something is locked or a node's proxy is away, and only then."""

    def __init__(self, api: Api, tasks: Tasks, seconds: float) -> None:
        self._api = api
        self._tasks = tasks
        self._seconds = seconds

    def do(self, call: Callable[[], str | None]) -> None:
        """Make a call, wait for its task if it begins one, and try again what may be tried."""
        began = time.monotonic()
        pause = 0.5
        while True:
            try:
                upid = call()
                if upid:
                    self._tasks.wait(upid)
            except (ApiError, TaskFailed) as problem:
                left = began + self._limit(problem) - time.monotonic()
                if left < pause:
                    raise self._given_up(problem) from None
                time.sleep(pause)
                pause = min(2 * pause, SLOWEST)
            else:
                return

    def _limit(self, problem: ApiError | TaskFailed) -> float:
        """How long it is worth while to try again."""
        if is_lock(problem.reason):
            return self._seconds
        away = isinstance(problem, ApiError) and problem.status in UNREACHED
        return min(AWAY, self._seconds) if away else 0

    def _given_up(self, problem: ApiError | TaskFailed) -> Problem:
        if not is_lock(problem.reason):
            return problem
        holders = self._holders()
        return Problem(f"{problem} It was locked for {self._seconds:g} s. {holders}")

    def _holders(self) -> str:
        """Who holds locks, as far as the token can see."""
        found = seeing.cluster(self._api.get("/cluster/resources"))
        locked = [
            f"{guest.vmid} ({guest.lock}, node {guest.node})"
            for guest in found.guests.values()
            if guest.lock
        ]
        running = []
        for node in sorted({guest.node for guest in found.guests.values() if guest.lock}):
            active = self._api.get(f"/nodes/{node}/tasks", source="active")
            running += [named(entry["upid"]) for entry in active]
        if not locked:
            return "Nothing is locked any more: run it again."
        if running:
            return f"Locked are {', '.join(locked)}, by {', '.join(running)}: wait, or stop that."
        first = locked[0].split(" ")[0]
        return (
            f"Locked are {', '.join(locked)}, and no task that this token sees runs there. If none"
            f" does (pvesh get /cluster/tasks on a node), release it there: pct unlock {first}"
        )
