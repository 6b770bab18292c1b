"""The module `drain`: workers fenced at the broker, and given work again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drain
short_description: Fence workers at the broker, wait until they run nothing, give them work again
version_added: 1.0.0
description:
  - Speaks to the broker through Corral's own client, so it runs where Corral is installed and the
    broker can be reached - the controller (C(delegate_to) localhost).
  - A drained worker gets nothing new and runs nothing, and the broker has every result of it - it
    may be stopped.
options:
  state:
    description:
      - V(drained) fences the workers and waits. V(resumed) gives them work again. V(listed)
        changes nothing.
    type: str
    choices: [drained, resumed, listed]
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
    description: Seconds after which O(policy) decides about tasks that still run. Default is none.
    type: float
  policy:
    description:
      - What becomes of tasks at the deadline - V(wait) goes on waiting, V(requeue) gives them to
        others and lets the worker end them, V(kill) ends them at once.
    type: str
    choices: [wait, requeue, kill]
    default: wait
  timeout:
    description: Seconds to wait for the workers; then the module fails, and they stay fenced.
    type: float
    default: 3600
  missing:
    description: What a worker that the broker does not know means. V(ignore) is for one that never
      registered.
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
  sample: [{name: worker-1, admission: drained, liveness: live, running: 0}]
idle_first:
  description: Their names, those that run the least first. Meant for
    O(corral.fleet.containers#module:remove).
  returned: always
  type: list
  elements: str
waited:
  description: Seconds that it took until the last worker was drained.
  returned: state is drained
  type: float
"""
