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
  - A token that sees nothing is an error and never an empty fleet. So is a file
    C(group_vars/all/vault.yml) of the inventory that the vault password does not open.
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
        C(address_offset) and C(template). These must be plain values, except that the subnet may
        come from a lookup; others may be templates.
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

import os
from typing import Any

import yaml
from ansible import context
from ansible.errors import AnsibleParserError
from ansible.parsing.vault import AnsibleVaultError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.corral.fleet.plugins.module_utils import connection, rights, seen
from ansible_collections.corral.fleet.plugins.module_utils.arguments import API
from ansible_collections.corral.fleet.plugins.module_utils.problems import BadWish, Problem
from ansible_collections.corral.fleet.plugins.module_utils.wanted import Wanted, wanted

READ = ("name", "vmid", "hostname", "address_offset", "template")


# Ansible's own classes have no types, and mypy will not have them as bases.
class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):  # type: ignore[misc]
    """Ansible ships no types."""

    NAME = "corral.fleet.proxmox"

    def verify_file(self, path: str) -> bool:
        """Whether a file is one of this plugin's."""
        return super().verify_file(path) and path.endswith(("proxmox.yml", "proxmox.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            self._open_vaults()
            fleet = self._fleet(path)
            found = self._seen(path, cache)
            for _, guest in sorted(found.guests.items()):
                if guest.kind == "lxc" and guest.ours and guest.role and not guest.is_template:
                    self._add(fleet, found, guest)
        except Problem as problem:
            raise AnsibleParserError(str(problem)) from None

    def _open_vaults(self) -> None:
        """Try every vault of the inventory: Ansible's own error names neither file nor cure."""
        for source in context.CLIARGS["inventory"]:
            folder = source if os.path.isdir(source) else os.path.dirname(source)
            vault = os.path.join(folder, "group_vars", "all", "vault.yml")
            if not self.loader.path_exists(vault):
                continue
            try:
                self.loader.load_from_file(vault, cache="none")
            except AnsibleVaultError as error:
                raise Problem(
                    f"{vault} cannot be opened ({error.message.rstrip('.')}): name the file with"
                    " its password, export ANSIBLE_VAULT_PASSWORD_FILE=FILE."
                ) from None

    def _fleet(self, path: str) -> Wanted:
        """The address plan."""
        file = os.path.join(os.path.dirname(path), self.get_option("fleet_file"))
        if not self.loader.path_exists(file):
            raise BadWish(
                f"fleet_file {file} is not there: write fleet_network and fleet_roles into it."
            )
        # Not by the loader's cache: what is there for variables must stay trusted as templates.
        variables = self.loader.load_from_file(file, cache="none", trusted_as_template=True)
        try:
            roles = [
                {key: role[key] for key in READ if key in role} for role in variables["fleet_roles"]
            ]
            subnet = self.templar.template(variables["fleet_network"]["subnet"])
            return wanted({"subnet": subnet}, roles)
        except (KeyError, TypeError) as error:
            raise BadWish(
                f"fleet_file {file} needs fleet_network with a subnet, and fleet_roles as a list of"
                f" roles: {error!r} is wrong."
            ) from None

    def _seen(self, path: str, cache: bool) -> seen.Cluster:
        """The cluster, from the cache or by one call."""
        key = self.get_cache_key(path)
        use = cache and self.get_option("cache")
        if use and key in self._cache:
            return seen.cluster(self._cache[key])
        api = connection.Api(connection.Door.of(self._door()))
        resources = api.get("/cluster/resources")
        found = seen.cluster(resources)
        if not any(guest.ours for guest in found.guests.values()):
            rights.require_sight(api)
        if self.get_option("cache"):
            self._cache[key] = resources
        return found

    def _door(self) -> dict[str, Any]:
        return {name: self.get_option(name) for name in yaml.safe_load(API)["options"]}

    def _add(self, fleet: Wanted, found: seen.Cluster, guest: seen.Guest) -> None:
        """One host, its variables and its groups."""
        role = fleet.role_of(guest.vmid)
        if role is None or role.name != guest.role:
            role = None  # no longer wanted: it has no address in the plan
        ordinal = guest.vmid - role.vmid if role else 0
        name = role.host(ordinal) if role else guest.name or f"vmid-{guest.vmid}"
        variables = {
            "ansible_host": str(fleet.address(role, ordinal)) if role else None,
            "fleet_vmid": guest.vmid,
            "fleet_role": guest.role,
            "fleet_ordinal": ordinal,
            "fleet_node": guest.node,
            "fleet_status": guest.status,
            "fleet_template": guest.version,
            "fleet_spec": guest.spec,
            "fleet_lock": guest.lock,
        }
        up = found.online(guest.node)
        groups = {
            f"role_{guest.role}": True,
            f"node_{guest.node}": True,
            f"template_{guest.version}": bool(guest.version),
            "fleet_running": guest.status == "running",
            "fleet_stopped": up and guest.status != "running",
            "fleet_stale": role is not None and guest.version != role.template,
            "fleet_node_down": not up,
        }
        self.inventory.add_host(name)
        for key, value in variables.items():
            if value is not None:
                self.inventory.set_variable(name, key, value)
        for group, is_in in groups.items():
            if is_in:
                made = self.inventory.add_group(self._sanitize_group_name(group))
                self.inventory.add_host(name, group=made)
        self._construct(name, variables)

    def _construct(self, name: str, variables: dict[str, Any]) -> None:
        """What the options of every constructed inventory add."""
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(
            self.get_option("keyed_groups"), variables, name, strict=strict
        )
