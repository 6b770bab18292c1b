"""What the token may do, asked before anything is changed, so that a missing privilege is named.

Permissions are those of /access/permissions: path -> privilege -> whether it goes down to what is
below. A guest has those of its pool as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.corral.fleet.plugins.module_utils.connection import Api
from ansible_collections.corral.fleet.plugins.module_utils.planner import Plan
from ansible_collections.corral.fleet.plugins.module_utils.problems import Problem
from ansible_collections.corral.fleet.plugins.module_utils.seen import Cluster
from ansible_collections.corral.fleet.plugins.module_utils.wanted import Wanted

CONFIGURE = ("VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options")

#: operation -> privileges on the container or its pool
NEEDS = {
    "destroy": ("VM.Allocate",),
    "clone": ("VM.Allocate",),
    "configure": CONFIGURE,
    "start": ("VM.PowerMgmt",),
}


@dataclass(frozen=True)
class Rights:
    """The privileges of one token."""

    paths: Mapping[str, Mapping[str, int]]

    def has(self, privilege: str, *paths: str) -> bool:
        """Whether it has a privilege on any of some paths."""
        return any(self._on(privilege, path) for path in paths)

    def _on(self, privilege: str, path: str) -> bool:
        if privilege in self.paths.get(path, {}):
            return True
        parts = path.split("/")
        above = ["/".join(parts[:end]) or "/" for end in range(1, len(parts))]
        return any(self.paths.get(one, {}).get(privilege) for one in above)

    def anywhere(self, privilege: str) -> bool:
        """Whether it has a privilege at all."""
        return any(privilege in those for those in self.paths.values())


def rights(api: Api) -> Rights:
    """Ask what the token may."""
    return Rights(api.get("/access/permissions") or {})


def require_sight(api: Api) -> None:
    """Tell a token that sees no guest from a cluster that has none.

    Raises:
        Problem: the token may see nothing.
    """
    found = rights(api)
    token = api.door.token_id
    user = token.split("!")[0]
    if not found.paths:
        raise Problem(
            f"The token {token} has no privilege at all, so the cluster looks empty to it. With"
            f" privilege separation both need their own: pveum acl modify PATH --users {user}"
            f" --tokens '{token}' --roles ROLE. See pveum user token permissions."
        )
    if not found.anywhere("VM.Audit"):
        raise Problem(
            f"The token {token} lacks VM.Audit, so the cluster looks empty to it: give it and its"
            f" user a role with VM.Audit on the fleet's pool, by pveum acl modify /pool/POOL"
            f" --users {user} --tokens '{token}' --roles ROLE."
        )


def refusals(api: Api, plan: Plan, fleet: Wanted, seen: Cluster, pool: str) -> list[str]:
    """The privileges that a plan needs and the token lacks, each with its cure."""
    found = rights(api)
    token = api.door.token_id
    user = token.split("!")[0]
    missing = sorted(
        {
            (f"/pool/{pool}", privilege)
            for step in plan.todo
            for operation in step.operations
            for privilege in NEEDS[operation]
            if not found.has(privilege, f"/vms/{step.vmid}", *_pools(seen, step.vmid, pool))
        }
        | {
            (f"/vms/{step.source}", "VM.Clone")
            for step in plan.of("create", "replace")
            if not found.has("VM.Clone", f"/vms/{step.source}", *_pools(seen, step.source, ""))
        }
        | {
            (f"/storage/{step.storage}", "Datastore.AllocateSpace")
            for step in plan.of("create", "replace")
            if step.storage
            if not found.has("Datastore.AllocateSpace", f"/storage/{step.storage}")
        }
        | _bridge(found, plan, fleet)
    )
    return [
        f"The token {token} lacks {privilege} on {path}: give it and its user a role with that"
        f" privilege, by pveum acl modify {path} --users {user} --tokens '{token}' --roles ROLE."
        for path, privilege in missing
    ]


def _pools(seen: Cluster, vmid: int, wanted: str) -> Iterable[str]:
    guest = seen.guests.get(vmid)
    pools = {wanted, guest.pool if guest else ""} - {""}
    return [f"/pool/{pool}" for pool in pools]


def _bridge(found: Rights, plan: Plan, fleet: Wanted) -> set[tuple[str, str]]:
    bridge = fleet.network.bridge
    needed = any("clone" in step.operations or "net0" in step.changes for step in plan.todo)
    zones = {path for path in found.paths if path.split("/")[4:5] == [bridge]}
    path = f"/sdn/zones/localnetwork/{bridge}"
    if not needed or found.has("SDN.Use", path, *zones):
        return set()
    return {(path, "SDN.Use")}
