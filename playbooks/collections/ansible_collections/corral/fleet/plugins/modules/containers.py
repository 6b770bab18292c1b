"""The module `containers`: the whole fleet, as it is wanted, in one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: containers
short_description: Converge every container of the fleet
version_added: 1.0.0
description:
  - Takes the whole wanted fleet, looks at the cluster, makes a plan and does exactly what the plan
    says.
  - A container's identity is its VMID, which is the O(roles[].vmid) of its role plus its ordinal
    (1, 2, 3 ...). Its tags C(corral), C(role-NAME), C(spec-HASH) and C(tpl-VERSION) say what was
    last applied, so a fleet that needs nothing costs one call.
  - A container that an interrupted run left half made is finished. A VMID that belongs to somebody
    else is an error.
  - A plan that empties a role, destroys containers without leave, asks for more than the nodes
    have, or gives an address twice is refused as a whole, before anything is changed.
options:
  roles:
    description: Every role of the fleet. Containers of the fleet whose role is not listed are no
      longer wanted.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the role; lower-case letters, digits and hyphens.
        type: str
        required: true
      count:
        description:
          - How many containers. Those that exist stay; the lowest free ordinals are filled; when
            there are too many, those in O(remove) go first and then the highest ordinals.
        type: int
        required: true
      vmid:
        description: Base of the role's VMIDs. The hundreds or thousands above it, up to the next
          base, are the role's own.
        type: int
        required: true
      hostname:
        description:
          - Host name of its containers. C({role}) and C({ordinal}) are replaced.
          - A role of more than one container needs C({ordinal}).
        type: str
        default: "{role}-{ordinal}"
      template:
        description: Version of the template that they are cloned from, as module
          M(corral.fleet.template) made it.
        type: str
        required: true
      address_offset:
        description: Their addresses are the network address of O(network.subnet) plus this plus
          the ordinal.
        type: int
        required: true
      cores:
        description: CPU cores of each.
        type: int
        default: 1
      memory_mib:
        description: Memory of each, in MiB.
        type: int
        default: 512
      swap_mib:
        description: Swap of each, in MiB.
        type: int
        default: 0
      storage:
        description:
          - Storage for a full clone. Without it clones are linked to their template, which needs
            ZFS, LVM-thin, RBD or BTRFS; on directories and NFS name a storage here.
        type: str
      nodes:
        description: Nodes that may carry this role. Default is every node that has the template.
        type: list
        elements: str
      tags:
        description: Further tags.
        type: list
        elements: str
        default: []
      onboot:
        description: Whether they start with their node.
        type: bool
        default: true
      startup:
        description: Order and delays at the start of a node, as Proxmox writes them, such as
          V(order=2,up=5).
        type: str
  network:
    description: The network of the fleet.
    type: dict
    required: true
    suboptions:
      bridge:
        description: Bridge of every container's eth0.
        type: str
        required: true
      subnet:
        description: The IPv4 network that addresses are taken from, such as V(10.90.0.0/24).
        type: str
        required: true
      gateway:
        description: The default gateway.
        type: str
      vlan:
        description: VLAN tag.
        type: int
      firewall:
        description: Whether Proxmox's own firewall filters eth0.
        type: bool
        default: false
      nameserver:
        description: Name servers, separated by spaces. Default is what the node uses.
        type: str
      searchdomain:
        description: Search domain. Default is what the node uses.
        type: str
  pool:
    description: The pool that every container belongs to, and that the token has its rights on.
    type: str
    required: true
  template_shared:
    description: Whether the templates lie on shared storage, so that any node can take a clone of
      any of them.
    type: bool
    default: false
  cordoned:
    description: Nodes that get no new container.
    type: list
    elements: str
    default: []
  remove:
    description:
      - Host names or VMIDs that go first when a role shrinks. Name idle workers here;
        RV(corral.fleet.drain#module:idle_first) gives them in order.
    type: list
    elements: str
    default: []
  replace:
    description:
      - Host names or VMIDs whose container is destroyed and made anew when its template is not the
        wanted one. V(all) names all of them. Without it a container of an old template stays, and
        is reported as stale.
    type: list
    elements: str
    default: []
  confirm_destroy:
    description: Leave to destroy containers. Without it a plan that destroys or replaces any is
      refused.
    type: bool
    default: false
  confirm_empty:
    description: Roles that may be left without a container. V(all) is leave to empty the whole
      fleet.
    type: list
    elements: str
    default: []
  cpu_ratio:
    description: How many cores may be promised for each core that a node has.
    type: float
    default: 4.0
  memory_ratio:
    description: How much memory may be promised for each byte that a node has.
    type: float
    default: 1.0
  drift:
    description:
      - Compare every container's own configuration with the wanted one, not its tags alone. Finds
        changes made by hand, for one more call per container.
    type: bool
    default: false
  plan_file:
    description:
      - With C(--check), the plan is written there. Without, exactly the plan in it is applied, and
        refused when the fleet has changed since.
    type: path
  known_hosts:
    description:
      - A file of SSH host keys, one host to a line. The addresses that new and old containers are
        about to get are taken out of it before they do, so that whoever had them before is
        forgotten even if this run is killed.
    type: path
  lock_timeout:
    description: Seconds to wait for a locked container or storage before saying who holds it.
    type: int
    default: 120
  task_timeout:
    description: Seconds that one task of Proxmox may take.
    type: int
    default: 600
extends_documentation_fragment: corral.fleet.api
attributes:
  check_mode:
    description: Returns the plan and does nothing.
    support: full
  diff_mode:
    description: Shows every container before and after.
    support: full
author: The Corral authors
"""

EXAMPLES = r"""
- name: Have a broker and three workers
  corral.fleet.containers:
    host: pve1.example.org
    token_id: corral@pve!deploy
    token_secret: "{{ proxmox_token_secret }}"
    ca_file: /etc/corral/pve-root-ca.pem
    pool: corral
    network:
      bridge: vmbr0
      subnet: 10.90.0.0/24
      gateway: 10.90.0.1
    roles:
      - name: broker
        count: 1
        vmid: 4000
        hostname: broker
        template: "7"
        address_offset: 9
        cores: 2
        memory_mib: 2048
      - name: worker
        count: 3
        vmid: 5000
        template: "7"
        address_offset: 100
        cores: 2
        memory_mib: 4096
  register: fleet

- name: Shrink to two workers, the idle ones first
  corral.fleet.containers:
    pool: corral
    network: "{{ fleet_network }}"
    roles: "{{ fleet_roles }}"
    remove: "{{ workers.idle_first }}"
    confirm_destroy: true
"""

RETURN = r"""
plan:
  description: What is to be done, in order, or was done.
  returned: always
  type: dict
  contains:
    id:
      description: Hash of the steps and of what they were made from.
      type: str
    summary:
      description: Number of steps of each action.
      type: dict
      sample: {create: 2, update: 1, start: 0, replace: 0, destroy: 0, none: 7}
    steps:
      description: One for each container.
      type: list
      elements: dict
      contains:
        action:
          description: One of create, update, start, replace, destroy and none.
          type: str
        reason:
          description: Why.
          type: str
        vmid:
          description: The container.
          type: int
        name:
          description: Its host name.
          type: str
        role:
          description: Its role.
          type: str
        node:
          description: Where it is, or will be.
          type: str
        changes:
          description: Options of its configuration that change, each with its value before and
            after.
          type: dict
capacity:
  description: For each node, cores and memory in MiB - what may be promised, and what is, before
    and after.
  returned: always
  type: dict
  sample:
    pve1:
      cores: {limit: 32, before: 4, after: 6}
      memory_mib: {limit: 64000, before: 8192, after: 12288}
containers:
  description: The wanted fleet after the plan, by role and ordinal.
  returned: success
  type: list
  elements: dict
  sample:
    - vmid: 5001
      name: worker-1
      role: worker
      ordinal: 1
      node: pve1
      address: 10.90.0.101
      template: "7"
      stale: false
refusals:
  description: Why the plan is not done, each with its cure.
  returned: when refused
  type: list
  elements: str
calls:
  description: Calls made to the API.
  returned: always
  type: dict
  contains:
    total:
      description: All of them.
      type: int
    by_kind:
      description: Those of each kind.
      type: dict
      sample: {"GET /cluster/resources": 1, "POST /nodes/N/lxc/V/clone": 2}
"""

import hmac
import json
from base64 import b64decode
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.corral.fleet.plugins.module_utils import connection, drift, rights
from ansible_collections.corral.fleet.plugins.module_utils.connection import Api
from ansible_collections.corral.fleet.plugins.module_utils.executor import Executor
from ansible_collections.corral.fleet.plugins.module_utils.module import Result, run
from ansible_collections.corral.fleet.plugins.module_utils.planner import (
    Plan,
    Rules,
    half_made,
    plan,
)
from ansible_collections.corral.fleet.plugins.module_utils.problems import BadWish, Refused
from ansible_collections.corral.fleet.plugins.module_utils.seen import Cluster, Guest
from ansible_collections.corral.fleet.plugins.module_utils.tasks import Tasks
from ansible_collections.corral.fleet.plugins.module_utils.wanted import Config, Wanted, wanted


def converge(api: Api, options: Mapping[str, Any], check: bool, result: Result) -> None:
    """Look, plan, and do the plan unless it is refused or this is check mode."""
    fleet = wanted(options["network"], options["roles"])
    rules = _rules(options)
    seen = connection.look(api)
    if not any(guest.ours for guest in seen.guests.values()):
        rights.require_sight(api)
    configs: dict[int, Mapping[str, Any]] = {}
    if options["drift"]:
        configs |= connection.configs(api, [one for one in _members(seen, fleet) if not one.lock])
    made = plan(fleet, seen, rules, configs, {})
    # What is to be changed is read first: the plan shows the difference, and a digest guards it.
    changing = [seen.guests[step.vmid] for step in made.of("update") if step.vmid not in configs]
    configs |= connection.configs(api, [guest for guest in changing if not guest.lock])
    taken = _taken(api, seen, fleet) if made.of("create", "replace") else {}
    if changing or taken:
        made = plan(fleet, seen, rules, configs, taken)
    refusals = list(made.refusals)
    if made.todo and not refusals:
        refusals += rights.refusals(api, made, fleet, seen, options["pool"])
    result |= {
        "plan": made.as_dict(),
        "capacity": made.capacity,
        "diff": _diff(made, seen),
    }
    if refusals:
        result["refusals"] = refusals
        raise Refused(refusals)
    _keep_to(options["plan_file"], made, check)
    result["changed"] = bool(made.todo)
    if made.todo and not check:
        _forget(options["known_hosts"], _new_addresses(made, configs))
        with Tasks(api, options["task_timeout"]) as tasks:
            Executor(api, tasks, options["pool"], configs, options["lock_timeout"]).do(made)
    result["containers"] = _containers(made)


def _rules(options: Mapping[str, Any]) -> Rules:
    return Rules(
        cordoned=frozenset(options["cordoned"]),
        remove=tuple(options["remove"]),
        replace=frozenset(options["replace"]),
        confirm_destroy=options["confirm_destroy"],
        confirm_empty=frozenset(options["confirm_empty"]),
        cpu_ratio=options["cpu_ratio"],
        memory_ratio=options["memory_ratio"],
        template_shared=options["template_shared"],
    )


def _members(seen: Cluster, fleet: Wanted) -> list[Guest]:
    """Containers of the fleet that can be read."""
    return [
        guest
        for guest in seen.guests.values()
        if guest.ours and guest.role and fleet.role_of(guest.vmid) and seen.online(guest.node)
    ]


def _taken(api: Api, seen: Cluster, fleet: Wanted) -> dict[IPv4Address, str]:
    """Addresses of guests that are not the fleet's."""
    others = [
        guest
        for guest in seen.guests.values()
        if not guest.role and not guest.is_template and not half_made(guest, fleet)
        if seen.online(guest.node)
    ]
    found = {
        vmid: drift.address(config) for vmid, config in connection.configs(api, others).items()
    }
    return {
        address: f"guest {vmid} ({seen.guests[vmid]})"
        for vmid, address in found.items()
        if address is not None
    }


def _keep_to(plan_file: str | None, made: Plan, check: bool) -> None:
    """Write the plan for review, or hold this one against the one that was reviewed."""
    if plan_file is None:
        return
    file = Path(plan_file)
    if check:
        file.write_text(json.dumps(made.as_dict(), indent=2) + "\n")
        return
    try:
        reviewed = json.loads(file.read_text())["id"]
    except (OSError, ValueError, KeyError) as error:
        raise BadWish(
            f"plan_file {plan_file} cannot be read ({error}): make it with --check first."
        ) from None
    if reviewed != made.id:
        raise Refused(
            [
                f"The fleet has changed since {plan_file} was made (plan {reviewed}, now"
                f" {made.id}): look at it again with --check."
            ]
        )


def _new_addresses(made: Plan, configs: Mapping[int, Mapping[str, Any]]) -> set[str]:
    """Addresses that somebody else may have until now."""
    moved = {
        step.address
        for step in made.of("update")
        if str(drift.address(configs.get(step.vmid, {}))) != step.address
    }
    return moved | {step.address for step in made.of("create", "replace")}


def _forget(known_hosts: str | None, addresses: Collection[str]) -> None:
    """Take addresses out of a file of host keys."""
    if known_hosts is None or not Path(known_hosts).exists():
        return
    file = Path(known_hosts)
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(_is_of(line, one) for one in addresses)]
    if kept == lines:
        return
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text("".join(kept))
    fresh.chmod(file.stat().st_mode)
    fresh.replace(file)


def _is_of(line: str, address: str) -> bool:
    """Whether a line of known_hosts is about an address, which ssh may have hashed (sshd(8))."""
    name = line.partition(" ")[0]
    if not name.startswith("|1|"):
        return name == address
    salt, _, digest = name.removeprefix("|1|").partition("|")
    return hmac.digest(b64decode(salt), address.encode(), "sha1") == b64decode(digest)


def _diff(made: Plan, seen: Cluster) -> dict[str, str]:
    """Every container that changes, before and after."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for step in made.todo:
        key = f"{step.vmid} {step.name}"
        guest = seen.guests.get(step.vmid)
        if guest is not None:
            shown: Config = {option: change["before"] for option, change in step.changes.items()}
            tags = ";".join(sorted(guest.tags))
            before[key] = shown | {"node": guest.node, "status": guest.status, "tags": tags}
        if step.action != "destroy":
            whole = step.action in ("create", "replace")
            shown = {
                option: value
                for option, value in step.config.items()
                if whole or option in step.changes
            }
            tags = ";".join(step.tags)
            after[key] = shown | {"node": step.node, "status": "running", "tags": tags}
    return {name: yaml.safe_dump(those) for name, those in (("before", before), ("after", after))}


def _containers(made: Plan) -> list[dict[str, Any]]:
    staying = [step for step in made.steps if step.action != "destroy"]
    keys = ("vmid", "name", "role", "ordinal", "node", "address", "template", "stale")
    return [
        {key: getattr(step, key) for key in keys}
        for step in sorted(staying, key=lambda step: (step.role, step.ordinal))
    ]


def main() -> None:
    run(DOCUMENTATION, converge)


if __name__ == "__main__":
    main()
