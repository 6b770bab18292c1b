"""The inventory plugin `proxmox`: the fleet's hosts from one call to the API."""

from __future__ import annotations

DOCUMENTATION = r"""
name: proxmox
short_description: The fleet, from Proxmox
version_added: 1.0.0
description:
  - Reads the containers of the fleet in one call. A host's name and address come from its VMID by
    the plan in O(fleet_file), so a container that was made a second ago has both.
  - Groups are C(role_NAME), C(node_NAME), C(template_VERSION), C(fleet_running), C(fleet_stopped),
    C(fleet_stale) (its template is not the wanted one) and C(fleet_node_down) (its node is
    offline). Characters that a group cannot have become underscores.
  - A token that sees nothing is an error and never an empty fleet.
  - The file's name ends in C(proxmox.yml) or C(proxmox.yaml).
options:
  plugin:
    description: V(corral.fleet.proxmox).
    type: str
    required: true
    choices: [corral.fleet.proxmox]
  fleet_file:
    description:
      - A file of variables with C(fleet_network) and C(fleet_roles), as M(corral.fleet.containers)
        takes them; commonly a file in C(group_vars) beside this one, which playbooks read as well.
        A relative path starts at this file.
      - Of the network C(subnet) is read, and of every role C(name), C(vmid), C(hostname),
        C(address_offset) and C(template). These must be plain values; others may be templates.
    type: str
    default: group_vars/all/fleet.yml
extends_documentation_fragment:
  - corral.fleet.api.inventory
  - constructed
  - inventory_cache
author: The Corral authors
"""

EXAMPLES = r"""
# inventory/production/fleet.proxmox.yml
plugin: corral.fleet.proxmox
host: [pve1.example.org, pve2.example.org]
ca_file: /etc/corral/pve-root-ca.pem
token_id: corral@pve!inventory   # the secret is in PROXMOX_TOKEN_SECRET
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_timeout: 60

# inventory/production/group_vars/all/fleet.yml
# fleet_network: {bridge: vmbr0, subnet: 10.90.0.0/24, gateway: 10.90.0.1}
# fleet_roles:
#   - {name: broker, count: 1, vmid: 4000, hostname: broker, address_offset: 9, template: "7"}
#   - {name: worker, count: "{{ fleet_workers }}", vmid: 5000, address_offset: 100, template: "7"}
#
# Every host has: ansible_host, fleet_vmid, fleet_role, fleet_ordinal, fleet_node, fleet_status,
# fleet_template, fleet_spec, fleet_lock.
"""
