"""A cluster for the planner's properties: what each operation of a step leaves, and no more.

It shares no code with the executor and the lab. It knows what a clone inherits, that a second
guest of one VMID is refused, and it can stop between any two operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ansible_collections.corral.fleet.plugins.module_utils.planner import Plan, Step
from ansible_collections.corral.fleet.plugins.module_utils.seen import (
    MIB,
    TEMPLATE,
    Cluster,
    Guest,
    Node,
)

SMALL = 512 * MIB


def template(vmid: int, node: str, version: str) -> Guest:
    """A finished template."""
    tags = frozenset({"corral", TEMPLATE, f"tpl-{version}"})
    return Guest(vmid, node, name=f"template-{vmid}", status="stopped", tags=tags, flag=True)


class World:
    """Nodes and guests, changed by operations."""

    def __init__(self, nodes: list[Node], guests: list[Guest]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.guests = {guest.vmid: guest for guest in guests}

    def seen(self) -> Cluster:
        """What the planner is shown."""
        return Cluster(dict(self.nodes), dict(self.guests))

    def run(self, plan: Plan, stop_after: int | None = None) -> bool:
        """Do a plan's operations in order, at most so many of them; whether that was all."""
        assert not plan.refusals, plan.refusals
        for done, (step, operation) in enumerate(self._operations(plan)):
            if done == stop_after:
                return False
            getattr(self, operation)(step)
        return True

    @staticmethod
    def _operations(plan: Plan) -> Iterator[tuple[Step, str]]:
        for step in plan.todo:
            for operation in step.operations:
                yield step, operation

    def destroy(self, step: Step) -> None:
        gone = self.guests.pop(step.vmid)
        assert self.nodes[gone.node].online
        assert gone.role or TEMPLATE in gone.tags, "only the fleet's own are destroyed"
        assert gone.flag is not True

    def clone(self, step: Step) -> None:
        assert step.vmid not in self.guests, "a duplicate"
        assert self.nodes[step.node].online
        source = self.guests[step.source]
        assert source.flag
        assert source.node == step.source_node
        self.guests[step.vmid] = Guest(
            step.vmid,
            step.node,
            name=step.name,
            status="stopped",
            tags=source.tags,  # inherited
            flag=False,
            cores=1,
            memory=SMALL,
        )

    def configure(self, step: Step) -> None:
        self.guests[step.vmid] = replace(
            self.guests[step.vmid],
            tags=frozenset(step.tags),
            cores=int(step.config["cores"]),
            memory=int(step.config["memory"]) * MIB,
        )

    def start(self, step: Step) -> None:
        guest = self.guests[step.vmid]
        assert guest.status != "running", "a running container in the list fails all of it"
        self.guests[step.vmid] = replace(guest, status="running")

    def members(self, role: str) -> dict[int, Guest]:
        """Containers of a role."""
        return {vmid: guest for vmid, guest in self.guests.items() if guest.role == role}
