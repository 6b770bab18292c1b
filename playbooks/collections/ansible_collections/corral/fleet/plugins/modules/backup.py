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
    description:
      - The storage that keeps backups. With its container a token loses the privileges that the
        container's pool gave, so to bring back one that is gone it needs Datastore.Allocate on
        this storage.
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
    description:
      - O(state=restored) - The storage of the root file system. Default is where the container has
        it, and for one that is gone, where the fleet's templates are.
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
    description: Shows the steps.
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

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils import seen as seeing
from ansible_collections.corral.fleet.plugins.module_utils.connection import Api
from ansible_collections.corral.fleet.plugins.module_utils.module import Result, run
from ansible_collections.corral.fleet.plugins.module_utils.patience import Patience
from ansible_collections.corral.fleet.plugins.module_utils.problems import Problem
from ansible_collections.corral.fleet.plugins.module_utils.seen import Guest
from ansible_collections.corral.fleet.plugins.module_utils.steps import Steps
from ansible_collections.corral.fleet.plugins.module_utils.tasks import Tasks

NO_COMPRESSION = "0"

Backup = dict[str, Any]


class Backups:
    """The steps of one run."""

    def __init__(self, api: Api, options: Mapping[str, Any], tasks: Tasks, steps: Steps) -> None:
        self.api = api
        self.options = options
        self.storage: str = options["storage"]
        self.patience = Patience(api, tasks, options["lock_timeout"])
        self.steps = steps
        resources = api.get("/cluster/resources")
        self.seen = seeing.cluster(resources)
        here = {one["node"] for one in resources if one.get("storage") == self.storage}
        self.nodes = sorted(node for node in here if self.seen.online(node))
        if not self.nodes:
            raise Problem(
                f"Storage {self.storage} is on no node that is online, or the token"
                f" {api.door.token_id} lacks Datastore.AllocateSpace on /storage/{self.storage}:"
                " mend its name, or give the token and its user a role with that privilege."
            )

    def listed(self) -> list[Backup]:
        """Backups of the containers named, newest first."""
        found: dict[str, Backup] = {}
        for node in self.nodes:
            path = f"/nodes/{node}/storage/{self.storage}/content"
            for one in self.api.get(path, content="backup"):
                if not self.options["vmids"] or int(one["vmid"]) in self.options["vmids"]:
                    found.setdefault(
                        one["volid"],
                        {
                            "volid": one["volid"],
                            "vmid": int(one["vmid"]),
                            "time": int(one["ctime"]),
                            "size": int(one["size"]),
                            "notes": one.get("notes", ""),
                            "node": node,
                        },
                    )
        return sorted(found.values(), key=lambda one: (-one["time"], one["volid"]))

    # --- making and pruning ---------------------------------------------------------------

    def make(self) -> None:
        """A backup of every container named, node by node."""
        by_node: dict[str, list[int]] = defaultdict(list)
        for vmid in self.options["vmids"]:
            by_node[self._guest(vmid).node].append(vmid)
        for node, vmids in sorted(by_node.items()):
            names = ",".join(map(str, vmids))
            self.steps.do(
                f"back up {names} from {node} to {self.storage}",
                partial(self._dump, node, names),
            )
        self._prune({vmid: self._guest(vmid).node for vmid in self.options["vmids"]})

    def _guest(self, vmid: int) -> Guest:
        guest = self.seen.guests.get(vmid)
        if guest is None:
            raise Problem(
                f"There is no container {vmid}, or the token {self.api.door.token_id} lacks"
                " VM.Audit on it: mend the VMID, or give the token that privilege."
            )
        if not self.seen.online(guest.node):
            raise Problem(f"Node {guest.node} of container {vmid} is offline: bring it back first.")
        return guest

    def _dump(self, node: str, vmids: str) -> None:
        compress = self.options["compress"]
        self.patience.do(
            lambda: self.api.post(
                f"/nodes/{node}/vzdump",
                vmid=vmids,
                storage=self.storage,
                mode=self.options["mode"],
                compress=NO_COMPRESSION if compress == "none" else compress,
                notes__template=self.options["notes"],
            )
        )

    def prune(self) -> None:
        """Destroy all but the newest."""
        keep = self.options["keep"]
        there: dict[int, list[Backup]] = defaultdict(list)
        for one in self.listed():
            there[one["vmid"]].append(one)
        self._prune({vmid: some[0]["node"] for vmid, some in there.items() if len(some) > keep})

    def _prune(self, nodes: Mapping[int, str]) -> None:
        keep = self.options["keep"]
        if keep is None:
            return
        for vmid, node in nodes.items():
            self.steps.do(
                f"keep the newest {keep} backups of {vmid}",
                partial(self._forget, node, vmid),
            )

    def _forget(self, node: str, vmid: int) -> None:
        self.patience.do(
            lambda: self.api.delete(
                f"/nodes/{node}/storage/{self.storage}/prunebackups",
                vmid=vmid,
                type="lxc",
                prune__backups=f"keep-last={self.options['keep']}",
            )
        )

    # --- restoring ------------------------------------------------------------------------

    def restore(self) -> None:
        """Bring one container back, unless it is there."""
        if len(self.options["vmids"]) != 1:
            raise Problem("state restored takes one container: give one VMID in vmids.")
        vmid = self.options["vmids"][0]
        guest = self.seen.guests.get(vmid)
        if guest and guest.lock == "create":
            raise Problem(
                f"Container {vmid} is just being made on node {guest.node}: wait for that. If no"
                f" task does it any more, type there: pct unlock {vmid} && pct destroy {vmid}"
            )
        if guest and not self.options["force"]:
            return
        backup = self._chosen(vmid)
        node = self.options["node"] or (guest.node if guest else backup["node"])
        if guest and self._runs(guest):
            self.steps.do(f"stop container {vmid}", lambda: self._post(node, vmid, "stop"))
        self.steps.do(
            f"restore container {vmid} on {node} from {backup['volid']}",
            lambda: self._restore(vmid, node, backup["volid"], bool(guest)),
        )
        if self.options["start"]:
            self.steps.do(f"start container {vmid}", lambda: self._post(node, vmid, "start"))

    def _runs(self, guest: Guest) -> bool:
        """Whether it runs now; the list of all guests may be ten seconds old."""
        path = f"/nodes/{guest.node}/lxc/{guest.vmid}/status/current"
        return bool(self.api.get(path)["status"] == "running")

    def _chosen(self, vmid: int) -> Backup:
        asked, known = self.options["archive"], self.listed()
        found = [one for one in known if asked in (None, one["volid"])]
        if not found:
            have = ", ".join(one["volid"] for one in known) or "none"
            raise Problem(
                f"Storage {self.storage} has no backup {asked or 'at all'} of container {vmid}"
                f" (there are: {have}). See state listed. Of a container that is gone a token sees"
                f" backups only with Datastore.Allocate on /storage/{self.storage}."
            )
        return found[0]

    def _storage_of(self, vmid: int) -> str:
        """Where the container's root file system is; of one that is gone, where templates are."""
        guest = self.seen.guests.get(vmid)
        likely = [guest] if guest else self.seen.templates()
        for one in likely:
            config = self.api.get(f"/nodes/{one.node}/lxc/{one.vmid}/config")
            return str(config["rootfs"]).partition(":")[0]
        raise Problem(
            f"Where container {vmid} had its root file system is unknown: give target_storage."
        )

    def _restore(self, vmid: int, node: str, volume: str, exists: bool) -> None:
        storage = self.options["target_storage"] or self._storage_of(vmid)
        self.patience.do(
            lambda: self.api.post(
                f"/nodes/{node}/lxc",
                vmid=vmid,
                ostemplate=volume,
                restore=1,
                storage=storage,
                pool=None if exists else self.options["pool"],
                force=1 if exists else None,
            )
        )

    def _post(self, node: str, vmid: int, what: str) -> None:
        self.patience.do(lambda: self.api.post(f"/nodes/{node}/lxc/{vmid}/status/{what}"))


def work(api: Api, options: Mapping[str, Any], check: bool, result: Result) -> None:
    """Do what is asked for."""
    with Tasks(api, options["task_timeout"]) as tasks:
        backups = Backups(api, options, tasks, Steps(check, result))
        {
            "present": backups.make,
            "listed": lambda: None,
            "pruned": backups.prune,
            "restored": backups.restore,
        }[options["state"]]()
    result["backups"] = backups.listed()


def main() -> None:
    run(
        DOCUMENTATION,
        work,
        required_if=[
            ("state", "present", ["vmids"]),
            ("state", "pruned", ["vmids", "keep"]),
            ("state", "restored", ["vmids"]),
        ],
    )


if __name__ == "__main__":
    main()
