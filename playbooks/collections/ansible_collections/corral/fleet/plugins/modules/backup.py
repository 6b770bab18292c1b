"""The module `backup`: whole containers by vzdump, and back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back up containers, list and prune backups, restore one
version_added: 1.0.0
description:
  - Makes and restores backups of whole containers by Proxmox's own vzdump. The broker's store is
    copied by the role C(backup) as well, which is smaller and more frequent.
options:
  state:
    description:
      - V(present) makes a backup of every container named and then prunes.
      - V(listed) changes nothing.
      - V(pruned) destroys all but the newest O(keep) backups of every container named.
      - V(restored) brings back the one container named, from O(archive) or from its newest backup.
        One that exists is left alone unless O(force).
    type: str
    choices: [present, listed, pruned, restored]
    default: present
  vmids:
    description: The containers. In V(listed), default is every container that the token can see
      backups of.
    type: list
    elements: int
    default: []
  storage:
    description: The storage that keeps backups.
    type: str
    required: true
  mode:
    description: How a running container is saved.
    type: str
    choices: [snapshot, suspend, stop]
    default: snapshot
  compress:
    description: How the archive is packed.
    type: str
    choices: [zstd, gzip, lzo, none]
    default: zstd
  notes:
    description: A line that is kept with the backup.
    type: str
  keep:
    description: How many backups of each container stay. Default is all of them.
    type: int
  archive:
    description: O(state=restored) - The volume to restore, as V(listed) names it. Default is the
      newest.
    type: str
  node:
    description: O(state=restored) - Where to. Default is where the container is, or the node that
      its backup was read on.
    type: str
  target_storage:
    description: O(state=restored) - The storage of the root file system. Default is the one that
      the backup names.
    type: str
  pool:
    description: O(state=restored) - The pool that the container belongs to.
    type: str
  force:
    description: O(state=restored) - Replace a container that exists. It is stopped first.
    type: bool
    default: false
  start:
    description: O(state=restored) - Start it when it is restored.
    type: bool
    default: true
  lock_timeout:
    description: Seconds to wait for a locked container or storage before saying who holds it.
    type: int
    default: 120
  task_timeout:
    description: Seconds that one task of Proxmox may take.
    type: int
    default: 3600
extends_documentation_fragment: corral.fleet.api
attributes:
  check_mode:
    description: Says what it would do and does nothing.
    support: full
  diff_mode:
    description: Shows the backups before and after.
    support: full
author: The Corral authors
"""

EXAMPLES = r"""
- name: Back up the broker, and keep a week
  corral.fleet.backup:
    vmids: [4001]
    storage: nas
    keep: 7

- name: Bring the broker back
  corral.fleet.backup:
    state: restored
    vmids: [4001]
    storage: nas
    pool: corral
"""

RETURN = r"""
backups:
  description: Backups of the containers named, newest first.
  returned: success
  type: list
  elements: dict
  sample:
    - volid: nas:backup/vzdump-lxc-4001-2026_11_26-10_00_00.tar.zst
      vmid: 4001
      time: 1795687200
      size: 104857600
steps:
  description: What was done, or is to be done, one line each.
  returned: success
  type: list
  elements: str
calls:
  description: Calls made to the API, as M(corral.fleet.containers) counts them.
  returned: always
  type: dict
"""
