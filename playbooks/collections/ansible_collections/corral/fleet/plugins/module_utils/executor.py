"""Doing a plan: as much at once as the cluster bears, and exactly the plan.

A clone takes the lock of its template for its whole length, so there is one queue for each
template; all else is spread over a few threads. A step that fails does not stop the others; the
next run's plan finishes it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils import seen as seeing
from ansible_collections.corral.fleet.plugins.module_utils.connection import AT_ONCE, Api
from ansible_collections.corral.fleet.plugins.module_utils.drift import to_write
from ansible_collections.corral.fleet.plugins.module_utils.patience import Patience
from ansible_collections.corral.fleet.plugins.module_utils.planner import Plan, Step
from ansible_collections.corral.fleet.plugins.module_utils.problems import (
    UNREACHED,
    ApiError,
    Failed,
    Problem,
    TaskFailed,
)
from ansible_collections.corral.fleet.plugins.module_utils.tasks import Tasks
from ansible_collections.corral.fleet.plugins.module_utils.wanted import MARK, Config

PER_STORAGE = 2  # full clones at once; storages have a lock of their own
STARTS = 4  # that Proxmox does at once
READS = 5  # of a configuration that changes each time before it can be written
MODIFIED = "detected modified configuration"


class Executor:
    """Does one plan."""

    def __init__(
        self,
        api: Api,
        tasks: Tasks,
        pool: str,
        configs: Mapping[int, Mapping[str, Any]],
        lock_timeout: float,
    ) -> None:
        self._api = api
        self._pool = pool
        self._configs = configs
        self._patience = Patience(api, tasks, lock_timeout)
        self._storages: dict[str, threading.Semaphore] = defaultdict(
            lambda: threading.Semaphore(PER_STORAGE)
        )
        self._failed: dict[int, str] = {}

    def do(self, plan: Plan) -> None:
        """Do all of a plan.

        Raises:
            Failed: some steps failed; the others are done.
        """
        with ThreadPoolExecutor(AT_ONCE, "steps") as crew:
            # Room that is given up is counted on by what is new.
            _all(
                [
                    crew.submit(self._try, step, self._destroy)
                    for step in plan.of("destroy", "replace")
                ]
            )
            self._clone_and_configure(crew, plan)
        self._start([step for step in plan.todo if "start" in step.operations])
        if self._failed:
            raise Failed([self._failed[vmid] for vmid in sorted(self._failed)])

    def _try(self, step: Step, work: Callable[[Step], None]) -> None:
        if step.vmid in self._failed:
            return
        try:
            work(step)
        except Problem as problem:
            self._failed[step.vmid] = f"{step.action} {step.name} ({step.vmid}): {problem}"

    # --- steps ----------------------------------------------------------------------------

    def _clone_and_configure(self, crew: ThreadPoolExecutor, plan: Plan) -> None:
        queues: dict[int, list[Step]] = defaultdict(list)
        for step in plan.of("replace", "create"):
            queues[step.source].append(step)
        work = [crew.submit(self._try, step, self._reconfigure) for step in plan.of("update")]
        with ThreadPoolExecutor(max(1, len(queues)), "clones") as cloners:
            _all([cloners.submit(self._clone_queue, crew, queue) for queue in queues.values()])
        _all(work)

    def _clone_queue(self, crew: ThreadPoolExecutor, queue: Sequence[Step]) -> None:
        configuring = []
        for step in queue:
            self._try(step, self._clone)
            configuring.append(crew.submit(self._try, step, self._configure))
        _all(configuring)

    def _destroy(self, step: Step) -> None:
        node = step.old_node or step.node
        if not step.tags:  # seen while it was being made, so nobody knows yet by whom
            _require_ours(step, self._unlocked(step))
        self._patience.do(
            lambda: self._api.delete(f"/nodes/{node}/lxc/{step.vmid}", force=1, purge=1)
        )

    def _clone(self, step: Step) -> None:
        def call() -> str:
            upid: str = self._api.post(
                f"/nodes/{step.source_node}/lxc/{step.source}/clone",
                newid=step.vmid,
                hostname=step.name,
                pool=self._pool,
                full=1 if step.storage else None,
                storage=step.storage,
                target=step.node if step.node != step.source_node else None,
            )
            return upid

        try:
            if step.storage:
                with self._storages[step.storage]:
                    self._patience.do(call)
            else:
                self._patience.do(call)
        except ApiError as problem:
            # An interrupted run's clone was under way unseen, or this call was made twice.
            if "already exists" not in problem.reason:
                raise
            self._adopt(step, problem)

    def _adopt(self, step: Step, problem: ApiError) -> None:
        found = seeing.cluster(self._api.get("/cluster/resources")).guests.get(step.vmid)
        if found is None:
            raise Problem(
                f"VMID {step.vmid} is taken by something that the token {self._api.door.token_id}"
                f" cannot see ({problem.reason}). Look there: pct config {step.vmid}. If a clone"
                f" whose worker was lost left it: pct destroy {step.vmid}. If it is somebody"
                f" else's: give role {step.role} another base."
            )
        if not found.ours or found.node != step.node:
            raise Problem(
                f"VMID {step.vmid} was taken meanwhile by somebody else: {found}. Move that one, or"
                " give the role another base."
            )

    def _configure(self, step: Step) -> None:
        self._write(step, step.config, None)

    def _reconfigure(self, step: Step) -> None:
        """Write what differs, and nothing that has changed since it was read.

        What an interrupted run has begun may still write to it: then it is read again.
        """
        config = self._configs.get(step.vmid)
        for reads_left in reversed(range(READS)):
            if config is None or config.get("lock"):
                config = self._unlocked(step)
            _require_ours(step, config)
            try:
                self._write(step, to_write(step.config, config), str(config["digest"]))
            except ApiError as problem:
                if MODIFIED not in problem.reason or not reads_left:
                    raise
                config = None
            else:
                return

    def _unlocked(self, step: Step) -> Mapping[str, Any]:
        """Its configuration, as soon as nobody has locked it."""
        read: dict[str, Any] = {}

        def call() -> None:
            read.clear()
            try:
                read.update(self._api.get(f"/nodes/{step.node}/lxc/{step.vmid}/config"))
            except ApiError as problem:
                if problem.status == 403:  # early in a clone, for its very maker
                    locked = f"CT is locked (create): {problem.reason}"
                    raise ApiError(problem.call, 500, locked) from None
                raise
            if read.get("lock"):
                raise ApiError("GET config", 500, f"CT is locked ({read['lock']})")

        self._patience.do(call)
        return read

    def _write(self, step: Step, config: Config, digest: str | None) -> None:
        def call() -> None:
            self._api.put(
                f"/nodes/{step.node}/lxc/{step.vmid}/config",
                **config,
                tags=";".join(step.tags),
                digest=digest,
            )

        self._patience.do(call)

    # --- starting -------------------------------------------------------------------------

    def _start(self, steps: Sequence[Step]) -> None:
        """Start all at once; one by one where that cannot be."""
        waiting = [step for step in steps if step.vmid not in self._failed]
        if not waiting:
            return
        try:
            self._patience.do(
                lambda: self._api.post(
                    "/cluster/bulk-action/guest/start",
                    vms=[step.vmid for step in waiting],
                    max__workers=STARTS,
                )
            )
        except (ApiError, TaskFailed) as problem:
            if isinstance(problem, ApiError) and problem.status not in (501, 403, *UNREACHED):
                raise
            self._start_each(waiting)

    def _start_each(self, steps: Sequence[Step]) -> None:
        """Those that do not run yet: a list with a running one fails as a whole."""
        runs: set[int] = set()
        for node in {step.node for step in steps}:
            listed = self._api.get(f"/nodes/{node}/lxc")
            runs |= {int(one["vmid"]) for one in listed if one["status"] == "running"}
        with ThreadPoolExecutor(AT_ONCE, "starts") as crew:
            rest = [step for step in steps if step.vmid not in runs]
            _all([crew.submit(self._try, step, self._start_one) for step in rest])

    def _start_one(self, step: Step) -> None:
        self._patience.do(
            lambda: self._api.post(f"/nodes/{step.node}/lxc/{step.vmid}/status/start")
        )


def _require_ours(step: Step, config: Mapping[str, Any]) -> None:
    if MARK not in seeing.tags(config.get("tags", "")):
        raise Problem(
            f"VMID {step.vmid} turned out to be somebody else's"
            f" ({config.get('hostname', 'without a name')}): give role {step.role} another base."
        )


def _all(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        future.result()
