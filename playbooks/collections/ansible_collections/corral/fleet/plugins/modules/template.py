"""The module `template`: versions of the template, from a tarball to a replica on every node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: template
short_description: Make, replicate, try and retire versions of the template
version_added: 1.0.0
description:
  - A version of the template is made in steps, because its inside is made over SSH by a role.
    O(state=building) gives a running container to work in, O(state=sealed) turns it into a
    template on every node, O(state=tried) clones each replica once and waits for SSH, and
    O(state=retired) destroys versions that nothing was cloned from.
  - Versions stand beside each other. A template that has clones is never destroyed.
  - Every step finds what an interrupted run left behind and goes on from there.
options:
  state:
    description: The step.
    type: str
    choices: [building, sealed, tried, retired]
    required: true
  version:
    description:
      - The version; lower-case letters, digits, hyphens, dots and plus signs.
      - In O(state=retired), the version in use, which stays.
    type: str
    required: true
  vmid:
    description: Base of the VMIDs of templates. The hundred above it are theirs.
    type: int
    default: 9000
  pool:
    description: The pool of the templates.
    type: str
    required: true
  nodes:
    description:
      - Nodes that get a replica. The first one builds. Default is every node that is online.
      - On shared storage one node is enough.
    type: list
    elements: str
  archive:
    description: O(state=building) - A root file system as a tarball on this machine; it is
      uploaded when the storage lacks it.
    type: path
  archive_storage:
    description: O(state=building) - The storage that keeps tarballs.
    type: str
    default: local
  storage:
    description: O(state=building) - The storage of the root file system.
    type: str
  disk_gib:
    description: O(state=building) - Size of the root file system, in GiB.
    type: int
    default: 8
  cores:
    description: O(state=building) - Cores while building; every clone says its own.
    type: int
    default: 2
  memory_mib:
    description: O(state=building) - Memory while building, in MiB.
    type: int
    default: 1024
  ssh_public_keys:
    description: O(state=building) - Keys that may log in as root while building.
    type: list
    elements: str
    default: []
  bridge:
    description: O(state=building) and O(state=tried) - Bridge of eth0.
    type: str
  address:
    description: O(state=building) and O(state=tried) - Address of eth0 with its prefix length,
      such as V(10.90.0.5/24).
    type: str
  gateway:
    description: O(state=building) and O(state=tried) - The default gateway.
    type: str
  nameserver:
    description: O(state=building) - Name servers, separated by spaces.
    type: str
  keep:
    description: O(state=retired) - How many versions without clones stay beside O(version), the
      newest first.
    type: int
    default: 1
  lock_timeout:
    description: Seconds to wait for a locked container or storage before saying who holds it.
    type: int
    default: 120
  task_timeout:
    description: Seconds that one task of Proxmox may take.
    type: int
    default: 1800
extends_documentation_fragment: corral.fleet.api
attributes:
  check_mode:
    description: Says what it would do and does nothing.
    support: full
  diff_mode:
    description: Shows the templates before and after.
    support: full
author: The Corral authors
"""

EXAMPLES = r"""
- name: Have a container to build in
  corral.fleet.template:
    state: building
    version: "7"
    pool: corral
    archive: build/debian-12.tar.zst
    storage: local-lvm
    bridge: vmbr0
    address: 10.90.0.5/24
    gateway: 10.90.0.1
    ssh_public_keys: ["{{ lookup('ansible.builtin.file', '~/.ssh/corral.pub') }}"]
  register: build

- name: Let the role work in it
  ansible.builtin.add_host:
    name: template
    ansible_host: "{{ build.address }}"
  when: not build.sealed
  changed_when: false

- name: Turn it into a template on every node
  corral.fleet.template: {state: sealed, version: "7", pool: corral}

- name: Clone each replica once
  corral.fleet.template:
    state: tried
    version: "7"
    pool: corral
    bridge: vmbr0
    address: 10.90.0.6/24

- name: Destroy old versions
  corral.fleet.template: {state: retired, version: "7", pool: corral}
"""

RETURN = r"""
sealed:
  description: Whether the version is a template already, so that there is nothing to build.
  returned: state is building
  type: bool
vmid:
  description: The container to build in.
  returned: state is building
  type: int
node:
  description: The node that builds.
  returned: state is building
  type: str
address:
  description: Where the container to build in is reached.
  returned: state is building
  type: str
steps:
  description: What was done, or is to be done, one line each.
  returned: success
  type: list
  elements: str
templates:
  description: The templates of the fleet as they are now.
  returned: success
  type: list
  elements: dict
  sample: [{vmid: 9001, node: pve1, version: "7", clones: 12}]
calls:
  description: Calls made to the API, as M(corral.fleet.containers) counts them.
  returned: always
  type: dict
"""
