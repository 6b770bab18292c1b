"""The module `drain`: workers fenced at the broker, and given work again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drain
short_description: Fence workers at the broker, wait until they run nothing, give them work again
version_added: 1.0.0
description:
  - Speaks to the broker through Corral's own client, so it runs where Corral is installed and the
    broker can be reached - the broker's own machine, or the controller.
  - A drained worker gets nothing new and runs nothing, and the broker has every result of it - it
    may be stopped.
options:
  state:
    description:
      - V(drained) fences the workers and waits. V(resumed) gives them work again. V(listed)
        changes nothing. V(live) changes nothing and waits until the broker has heard of all of
        them.
    type: str
    choices: [drained, resumed, listed, live]
    default: drained
  workers:
    description: Names of workers. In V(listed), default is every worker that the broker knows.
    type: list
    elements: str
    default: []
  broker:
    description: Endpoints of the broker, tried in turn. Default is what Corral's configuration
      says.
    type: list
    elements: str
    default: []
  key:
    description: Key file of an operator. Default is what Corral's configuration says.
    type: path
  reason:
    description: Shown to whoever asks why a worker is drained.
    type: str
    default: drained by Ansible
  deadline:
    description:
      - Seconds after which O(policy) decides about tasks that still run. Default is none.
      - A worker that is fenced already and still runs something gets this deadline too, in place
        of the one that it had, when O(policy) does more than wait.
    type: float
  policy:
    description:
      - What becomes of tasks at the deadline - V(wait) goes on waiting, V(requeue) gives them to
        others and lets the worker end them, V(kill) ends them at once.
    type: str
    choices: [wait, requeue, kill]
    default: wait
  leave:
    description:
      - How many other workers must be at work, live and open, while these are drained. With fewer
        the module fails and fences nobody. Workers that are not at work may always be drained.
    type: int
    default: 0
  release:
    description: In V(live), the release of Corral that the workers have to run. Default is any.
    type: str
  steady:
    description:
      - In V(live), seconds of life that the broker must have seen of each worker since it
        registered. One that starts, registers and falls is not steady.
    type: float
    default: 0
  timeout:
    description: Seconds to wait for the workers; then the module fails, and fenced ones stay so.
    type: float
    default: 3600
  missing:
    description: What a worker that the broker does not know means. V(ignore) is for one that never
      registered. O(state=live) waits for it.
    type: str
    choices: [fail, ignore]
    default: fail
attributes:
  check_mode:
    description: Says which workers it would fence or resume and does nothing.
    support: full
  diff_mode:
    description: Shows the workers before and after.
    support: full
author: The Corral authors
"""

EXAMPLES = r"""
- name: Drain a worker, and requeue what is not done in ten minutes
  corral.fleet.drain:
    workers: ["{{ inventory_hostname }}"]
    broker: ["tcp://10.90.0.10:5555"]
    key: /etc/corral/keys/operator.key
    reason: update to 1.4
    deadline: 600
    policy: requeue
  delegate_to: localhost

- name: Give it work again
  corral.fleet.drain: {state: resumed, workers: [worker-1], key: /etc/corral/keys/operator.key}
  delegate_to: localhost

- name: See who is idle
  corral.fleet.drain: {state: listed}
  delegate_to: localhost
  register: workers
"""

RETURN = r"""
workers:
  description: The workers as the broker sees them now.
  returned: always
  type: list
  elements: dict
  sample:
    - name: worker-1
      status: drained
      health: live
      admission: drained
      running: 0
      drain_reason: update to 1.4
      about: {host: worker-1}
idle_first:
  description: Their names, those that get no work first, then those that run the least. Meant
    for O(corral.fleet.containers#module:remove).
  returned: always
  type: list
  elements: str
waited:
  description: Seconds that it took until the last worker was drained.
  returned: state is drained
  type: float
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.corral.fleet.plugins.module_utils.arguments import argument_spec
from ansible_collections.corral.fleet.plugins.module_utils.problems import Problem

from corral.client import Client
from corral.errors import CorralError
from corral.messages import WorkerView

LOOK = 0.25  # seconds between two looks at workers that are waited for
OPEN = "open"
DRAINING = "draining"
DRAINED = "drained"
LIVE = "live"


class Fence:
    """The workers that are meant, and what the broker says of them."""

    def __init__(self, client: Client, options: Mapping[str, Any]) -> None:
        self.client = client
        self.options = options

    def look(self) -> list[WorkerView]:
        """Those that are meant, or all."""
        known = {worker.name: worker for worker in self.client.workers()}
        names: list[str] = self.options["workers"]
        missing = [name for name in names if name not in known]
        if missing and self.options["missing"] == "fail" and self.options["state"] != LIVE:
            raise Problem(
                f"The broker knows no worker {', '.join(missing)}; it knows"
                f" {', '.join(sorted(known)) or 'none'}. Mend the name, or say missing: ignore for"
                " one that never registered."
            )
        wanted = names or sorted(known)
        return [known[name] for name in wanted if name in known]

    def drain(self, check: bool) -> tuple[bool, float]:
        """Fence them and wait; whether that changed anything, and the seconds it took."""
        began = time.monotonic()
        deadline, policy = self.options["deadline"], self.options["policy"]
        meant = self.look()
        fenced = [worker for worker in meant if worker.admission == OPEN]
        # Whoever waits for one that was fenced may give it a deadline now. One that only waits is
        # none, and would take back a policy that was given before.
        sooner = deadline is not None and policy != "wait"
        hurried = [worker for worker in meant if worker.admission == DRAINING and sooner]
        self._leave_enough({worker.name for worker in fenced})
        changed = bool(fenced or hurried)
        if check:
            return changed, 0.0
        # All are fenced before any is waited for, so that work does not move to the next.
        for worker in fenced:
            self.client.drain(worker.name, self.options["reason"], deadline, policy)
        for worker in hurried:
            self.client.drain(worker.name, "", deadline, policy)  # the reason stays
        while busy := [worker for worker in self.look() if worker.admission != DRAINED]:
            if given_back := [worker.name for worker in busy if worker.admission == OPEN]:
                raise Problem(
                    f"Somebody gave {', '.join(given_back)} work again: ask, then repeat."
                )
            if time.monotonic() - began > self.options["timeout"]:
                raise Problem(self._still(busy))
            time.sleep(LOOK)
        return changed, time.monotonic() - began

    def _leave_enough(self, names: set[str]) -> None:
        working = {one.name for one in self.client.workers() if _at_work(one)}
        left, leave = len(working - names), self.options["leave"]
        if left < leave and working & names:
            raise Problem(
                f"Without {', '.join(sorted(names))} there would be {left} workers at work, and"
                f" {leave} must be. Nobody was drained. See corral worker list; bring others back"
                " to work, drain fewer at once, or accept a lower leave."
            )

    def _still(self, busy: list[WorkerView]) -> str:
        running = "; ".join(f"{one.name} runs {', '.join(one.tasks)}" for one in busy)
        return (
            f"Not drained in {self.options['timeout']:g} s: {running}. Wait longer (timeout), let"
            " go of what runs (deadline and policy), or give them work again (state: resumed)."
        )

    def resume(self, check: bool) -> bool:
        """Give them work again; whether that changed anything."""
        fenced = [worker for worker in self.look() if worker.admission != OPEN]
        if not check:
            for worker in fenced:
                self.client.resume(worker.name)
        return bool(fenced)

    def wait(self) -> None:
        """Until the broker has heard of all of them."""
        began = time.monotonic()
        while late := {name: why for name, why in self._late() if why}:
            if time.monotonic() - began > self.options["timeout"]:
                told = "; ".join(f"{name} {why}" for name, why in late.items())
                raise Problem(
                    f"Not all are well after {self.options['timeout']:g} s: {told}. See journalctl"
                    " -u corral-worker there."
                )
            time.sleep(LOOK)

    def _late(self) -> Iterator[tuple[str, str]]:
        """Each of them, and what it still lacks, if anything."""
        known = {worker.name: worker for worker in self.client.workers()}
        release, steady = self.options["release"], self.options["steady"]
        for name in self.options["workers"]:
            worker = known.get(name)
            if worker is None:
                yield name, "has not registered"
            elif worker.health != LIVE:
                yield name, f"is {worker.health}"
            elif release and (has := worker.about.get("corral", "none")) != release:
                yield name, f"runs release {has} and not {release}"
            elif worker.seen - worker.since < steady:
                yield name, "does not stay: it registered again a moment ago"
            else:
                yield name, ""


def work(client: Client, options: Mapping[str, Any], check: bool, result: dict[str, Any]) -> None:
    """Do what is asked for."""
    fence = Fence(client, options)
    before = fence.look()
    try:
        if options["state"] == "drained":
            result["changed"], result["waited"] = fence.drain(check)
        elif options["state"] == "resumed":
            result["changed"] = fence.resume(check)
        elif options["state"] == LIVE:
            fence.wait()
    finally:
        after = fence.look()
        wanted = DRAINED if options["state"] == "drained" else OPEN
        result["workers"] = [_told(worker) for worker in after]
        idle = sorted(after, key=lambda one: (one.admission == OPEN, len(one.tasks), one.name))
        result["idle_first"] = [worker.name for worker in idle]
        if options["state"] in ("drained", "resumed"):
            result["diff"] = {
                "before": "".join(f"{one.name} {one.admission}\n" for one in before),
                "after": "".join(f"{one.name} {wanted}\n" for one in before),
            }


def _at_work(worker: WorkerView) -> bool:
    return worker.health == LIVE and worker.admission == OPEN


def _told(worker: WorkerView) -> dict[str, Any]:
    keys = ("name", "status", "health", "admission", "incarnation", "drain_reason", "drained_by")
    shown = {key: getattr(worker, key) for key in keys}
    return shown | {
        "running": len(worker.tasks),
        "tasks": worker.tasks,
        "kinds": worker.kinds,
        "about": worker.about,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec(DOCUMENTATION, api=False),
        supports_check_mode=True,
        required_if=[("state", state, ["workers"]) for state in ("drained", "resumed", LIVE)],
    )
    options = module.params
    result: dict[str, Any] = {"changed": False}
    if options["policy"] != "wait" and options["deadline"] is None:
        module.fail_json(msg=f"policy {options['policy']} needs a deadline: say after how long.")
    try:
        with Client(options["broker"] or None, key=options["key"]) as client:
            work(client, options, module.check_mode, result)
    except Problem as problem:
        module.fail_json(msg=str(problem), **result)
    except CorralError as error:
        module.fail_json(msg=f"{error.message} {error.cure}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
