"""The module `fleet_info`: the fleet as the cluster shows it. It changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_info
short_description: Tell what the fleet looks like
version_added: 1.0.0
description:
  - One call gives nodes, containers and templates. O(permissions) and O(configs) add what they
    name.
options:
  permissions:
    description: Tell the token's privileges as well, for one more call.
    type: bool
    default: false
  configs:
    description: Tell every container's configuration as well, for one more call each.
    type: bool
    default: false
extends_documentation_fragment: corral.fleet.api
attributes:
  check_mode:
    description: It changes nothing in either mode.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
author: The Corral authors
"""

EXAMPLES = r"""
- name: Look at the fleet
  corral.fleet.fleet_info:
    permissions: true
  register: fleet
"""

RETURN = r"""
nodes:
  description: Nodes of the cluster.
  returned: success
  type: list
  elements: dict
  sample: [{name: pve1, online: true, cores: 8, memory_mib: 64000}]
containers:
  description: Containers of the fleet, by VMID.
  returned: success
  type: list
  elements: dict
  sample:
    - vmid: 5001
      role: worker
      node: pve1
      status: running
      template: "7"
      spec: 1a2b3c4d
      lock: ""
templates:
  description: Templates of the fleet.
  returned: success
  type: list
  elements: dict
  sample: [{vmid: 9001, node: pve1, version: "7", clones: 12}]
permissions:
  description: Privileges of the token, by path.
  returned: when asked for
  type: dict
  sample: {/pool/corral: [VM.Allocate, VM.Audit]}
calls:
  description: Calls made to the API, as M(corral.fleet.containers) counts them.
  returned: always
  type: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils import connection, rights
from ansible_collections.corral.fleet.plugins.module_utils.connection import Api
from ansible_collections.corral.fleet.plugins.module_utils.module import Result, run
from ansible_collections.corral.fleet.plugins.module_utils.replicas import listed
from ansible_collections.corral.fleet.plugins.module_utils.seen import MIB, Guest


def tell(api: Api, options: Mapping[str, Any], check: bool, result: Result) -> None:
    """Look, and tell."""
    seen = connection.look(api)
    if not any(guest.ours for guest in seen.guests.values()):
        rights.require_sight(api)
    members = [
        guest
        for _, guest in sorted(seen.guests.items())
        if guest.ours and guest.role and not guest.is_template
    ]
    result["nodes"] = [
        {
            "name": node.name,
            "online": node.online,
            "cores": node.cores,
            "memory_mib": node.memory // MIB,
        }
        for _, node in sorted(seen.nodes.items())
    ]
    result["containers"] = [_told(guest) for guest in members]
    result["templates"] = listed(seen)
    if options["configs"]:
        configs = connection.configs(api, [one for one in members if seen.online(one.node)])
        for told in result["containers"]:
            told["config"] = configs.get(told["vmid"], {})
    if options["permissions"]:
        result["permissions"] = {
            path: sorted(privileges) for path, privileges in rights.rights(api).paths.items()
        }


def _told(guest: Guest) -> dict[str, Any]:
    return {
        "vmid": guest.vmid,
        "role": guest.role,
        "node": guest.node,
        "status": guest.status,
        "template": guest.version,
        "spec": guest.spec,
        "lock": guest.lock,
    }


def main() -> None:
    run(DOCUMENTATION, tell)


if __name__ == "__main__":
    main()
