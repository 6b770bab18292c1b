"""The plan: what is to be done to get from the fleet that is to the fleet that is wanted, and why.

A pure function of both. A plan done to its end makes the next one empty, and a plan that was
interrupted anywhere is finished by the next: what a container's VMID and tags say is all the state
there is. How steps are done is in `executor`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Literal

from ansible_collections.corral.fleet.plugins.module_utils.drift import Changes, changes
from ansible_collections.corral.fleet.plugins.module_utils.placement import Books, Nowhere, place
from ansible_collections.corral.fleet.plugins.module_utils.seen import MIB, Cluster, Guest
from ansible_collections.corral.fleet.plugins.module_utils.wanted import (
    Config,
    Role,
    Wanted,
    digest,
)

Action = Literal["destroy", "replace", "update", "start", "create", "none"]
Operation = Literal["destroy", "clone", "configure", "start"]

ACTIONS: tuple[Action, ...] = ("destroy", "replace", "update", "start", "create", "none")
ALL = "all"

#: what each action is made of, in order; `start` is left out for what runs already
OPERATIONS: Mapping[Action, tuple[Operation, ...]] = {
    "destroy": ("destroy",),
    "replace": ("destroy", "clone", "configure", "start"),
    "update": ("configure", "start"),
    "start": ("start",),
    "create": ("clone", "configure", "start"),
    "none": (),
}


@dataclass(frozen=True)
class Rules:
    """How a plan may be made."""

    cordoned: frozenset[str] = frozenset()
    remove: tuple[str, ...] = ()
    replace: frozenset[str] = frozenset()
    confirm_destroy: bool = False
    confirm_empty: frozenset[str] = frozenset()
    cpu_ratio: float = 4.0
    memory_ratio: float = 1.0
    template_shared: bool = False


@dataclass(frozen=True)
class Step:
    """What is done to one container."""

    action: Action
    reason: str
    vmid: int
    name: str
    role: str
    ordinal: int
    node: str
    runs: bool = False  # it runs already
    old_node: str = ""  # where the replaced one is
    template: str = ""  # the version that it has, or will have
    source: int = 0  # the template to clone
    source_node: str = ""
    storage: str | None = None  # of a full clone
    address: str = ""
    config: Config = field(default_factory=dict)  # the whole wanted configuration
    tags: tuple[str, ...] = ()
    changes: Changes = field(default_factory=dict)
    stale: bool = False

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What it is made of."""
        every = OPERATIONS[self.action]
        return every[:-1] if self.action == "update" and self.runs else every

    def as_dict(self) -> dict[str, Any]:
        """What a user is shown."""
        shown = {
            key: getattr(self, key) for key in ("action", "reason", "vmid", "name", "role", "node")
        }
        return shown | ({"changes": self.changes} if self.changes else {})


@dataclass(frozen=True)
class Plan:
    """Steps, or the reasons why they are not done."""

    steps: tuple[Step, ...]
    refusals: tuple[str, ...]
    capacity: Mapping[str, Any]

    @property
    def id(self) -> str:
        """A hash of all that would be done."""
        done = [vars(step) | {"tags": list(step.tags)} for step in self.steps]
        return digest([done, list(self.refusals)])[:16]

    @property
    def todo(self) -> tuple[Step, ...]:
        """The steps that change something."""
        return tuple(step for step in self.steps if step.action != "none")

    def of(self, *actions: Action) -> list[Step]:
        """The steps of some actions."""
        return [step for step in self.steps if step.action in actions]

    @property
    def summary(self) -> dict[str, int]:
        """How many steps of each action."""
        counted = Counter(step.action for step in self.steps)
        return {action: counted[action] for action in ACTIONS}

    def as_dict(self) -> dict[str, Any]:
        """What a user is shown."""
        steps = [step.as_dict() for step in self.steps]
        return {"id": self.id, "summary": self.summary, "steps": steps}


def half_made(guest: Guest, fleet: Wanted) -> bool:
    """Whether an interrupted run left it: in a role's slot, with nothing but its template's tags.

    Early in a clone it has no tags yet, only the lock; before such a one is touched, the executor
    waits for the lock and looks at its tags.
    """
    if guest.kind != "lxc" or guest.role or guest.is_template or not fleet.role_of(guest.vmid):
        return False
    return guest.ours or (guest.lock == "create" and not guest.tags)


def plan(
    fleet: Wanted,
    seen: Cluster,
    rules: Rules,
    configs: Mapping[int, Mapping[str, Any]],
    taken: Mapping[IPv4Address, str],
) -> Plan:
    """The plan.

    Args:
        configs: VMID -> its configuration, of those that are known. An unknown one is judged by
            its tags.
        taken: addresses that others have, and who.
    """
    return _Planner(fleet, seen, rules, configs, taken).plan()


class _Planner:
    """Collects steps and refusals, role by role."""

    def __init__(
        self,
        fleet: Wanted,
        seen: Cluster,
        rules: Rules,
        configs: Mapping[int, Mapping[str, Any]],
        taken: Mapping[IPv4Address, str],
    ) -> None:
        self.fleet = fleet
        self.seen = seen
        self.rules = rules
        self.configs = configs
        self.taken = taken
        self.books = Books(seen, rules.cpu_ratio, rules.memory_ratio)
        self.steps: list[Step] = []
        self.refusals: list[str] = []

    def plan(self) -> Plan:
        existing: dict[str, dict[int, Guest]] = {role.name: {} for role in self.fleet.roles}
        for vmid, guest in sorted(self.seen.guests.items()):
            role = self.fleet.role_of(vmid)
            if role and (half_made(guest, self.fleet) or self._is_of(guest, role)):
                existing[role.name][vmid - role.vmid] = guest
            elif guest.ours and guest.role and guest.kind == "lxc" and not guest.is_template:
                self._destroy(guest, self._why_unwanted(guest))
        self._check_nodes()
        kept = {role.name: self._kept(role, existing[role.name]) for role in self.fleet.roles}
        # What is given up makes room for what is new, so all of it is booked first.
        for role in self.fleet.roles:
            for ordinal, guest in sorted(kept[role.name].items()):
                self._keep(role, ordinal, guest)
        for role in self.fleet.roles:
            self._add(role, existing[role.name], kept[role.name])
        self._check_emptied()
        self._check_destroyed()
        self._check_addresses()
        steps = sorted(self.steps, key=lambda step: (ACTIONS.index(step.action), step.vmid))
        return Plan(tuple(steps), tuple(self.refusals), self.books.report())

    @staticmethod
    def _is_of(guest: Guest, role: Role) -> bool:
        template = guest.is_template
        return guest.kind == "lxc" and guest.ours and not template and guest.role == role.name

    def _why_unwanted(self, guest: Guest) -> str:
        known = any(role.name == guest.role for role in self.fleet.roles)
        return (
            f"its VMID is none of role {guest.role}" if known else f"no role {guest.role} is wanted"
        )

    # --- what exists ----------------------------------------------------------------------

    def _kept(self, role: Role, existing: Mapping[int, Guest]) -> dict[int, Guest]:
        """Those of a role that stay; the others are destroyed."""

        def goes_first(ordinal: int) -> tuple[int, bool, bool, int]:
            guest = existing[ordinal]
            names = (role.host(ordinal), str(guest.vmid))
            named = [self.rules.remove.index(one) for one in names if one in self.rules.remove]
            return (
                min(named, default=len(self.rules.remove)),
                not half_made(guest, self.fleet),
                not self.seen.online(guest.node),
                -ordinal,
            )

        going = sorted(existing, key=goes_first)[: max(0, len(existing) - role.count)]
        for ordinal in sorted(going):
            why = f"role {role.name} has {len(existing)} and wants {role.count}"
            self._destroy(existing[ordinal], why)
        return {ordinal: guest for ordinal, guest in existing.items() if ordinal not in going}

    def _destroy(self, guest: Guest, why: str) -> None:
        if not self.seen.online(guest.node):
            self.refusals.append(
                f"Container {guest.vmid} shall go, but its node {guest.node} is offline: bring the"
                f" node back, or keep the container for now by a higher count of {guest.role}."
            )
        self._unbook(guest)
        role = self.fleet.role_of(guest.vmid)
        ordinal = guest.vmid - role.vmid if role else 0
        name = guest.name or (role.host(ordinal) if role else str(guest.vmid))
        owner = guest.role or (role.name if role else "")
        self.steps.append(
            Step(
                "destroy", why, guest.vmid, name, owner, ordinal, guest.node, tags=tuple(guest.tags)
            )
        )

    def _unbook(self, guest: Guest) -> None:
        ledger = self.books.ledgers.get(guest.node)
        if ledger:
            ledger.book(guest.role, guest.cores, guest.memory / MIB, -1)

    def _keep(self, role: Role, ordinal: int, guest: Guest) -> None:
        """Decide about one that stays: nothing, start, update, or replace."""
        unfinished = half_made(guest, self.fleet)
        stale = bool(guest.version) and guest.version != role.template
        named = {ALL, role.host(ordinal), str(guest.vmid)} & self.rules.replace
        if not self.seen.online(guest.node):
            self._rebook(role, guest)
            self._step("none", f"node {guest.node} is offline", role, ordinal, guest)
        elif stale and (named or unfinished):
            self._replace(role, ordinal, guest)
        else:
            action, reason = self._difference(role, ordinal, guest, unfinished)
            if stale:
                reason += f"; template {guest.version} is not {role.template}, name it in replace"
            grows = self._rebook(role, guest)
            if grows and action == "update":
                self.refusals.append(
                    f"Container {guest.vmid} cannot grow: node {guest.node} lacks {grows}. Lower"
                    f" what role {role.name} has, or move something away."
                )
            self._step(action, reason, role, ordinal, guest)

    def _difference(
        self, role: Role, ordinal: int, guest: Guest, unfinished: bool
    ) -> tuple[Action, str]:
        tags = frozenset(self.fleet.tags(role, ordinal, guest.version or role.template))
        found = self._changes(role, ordinal, guest)
        if unfinished:
            return "update", "an interrupted run left it half made"
        if guest.tags != tags:
            spec = next(tag for tag in tags if tag.startswith("spec-"))
            hand = spec in guest.tags
            return "update", "its tags were changed by hand" if hand else "another size is wanted"
        if found:
            return "update", f"changed by hand: {', '.join(sorted(found))}"
        if guest.status != "running":
            return "start", f"it is {guest.status}"
        return "none", "as wanted"

    def _changes(self, role: Role, ordinal: int, guest: Guest) -> Changes:
        if guest.vmid not in self.configs:
            return {}
        return changes(self.fleet.config(role, ordinal), self.configs[guest.vmid])

    def _rebook(self, role: Role, guest: Guest) -> str:
        """Book what one that stays will have; returns what its node lacks for that."""
        self._unbook(guest)
        ledger = self.books.ledgers.get(guest.node)
        if ledger is None:
            return ""
        grew = role.cores > guest.cores or role.memory_mib > guest.memory / MIB
        lacking = ledger.lacks(role.cores, role.memory_mib) if grew else ""
        ledger.book(role.name, role.cores, role.memory_mib)
        return lacking

    def _step(self, action: Action, reason: str, role: Role, ordinal: int, guest: Guest) -> None:
        version = guest.version or role.template
        self.steps.append(
            Step(
                action,
                reason,
                guest.vmid,
                role.host(ordinal),
                role.name,
                ordinal,
                guest.node,
                runs=guest.status == "running",
                template=version,
                address=str(self.fleet.address(role, ordinal)),
                config=self.fleet.config(role, ordinal),
                tags=self.fleet.tags(role, ordinal, version),
                changes=self._changes(role, ordinal, guest),
                stale=version != role.template,
            )
        )

    # --- what is new ----------------------------------------------------------------------

    def _replace(self, role: Role, ordinal: int, guest: Guest) -> None:
        self._unbook(guest)
        reason = f"template {guest.version} is replaced by {role.template}"
        self._new("replace", reason, role, ordinal, guest)

    def _add(self, role: Role, existing: Mapping[int, Guest], kept: Mapping[int, Guest]) -> None:
        """Fill the lowest free slots of a role."""
        free = (ordinal for ordinal in range(1, role.slots + 1) if ordinal not in existing)
        for _, ordinal in zip(range(role.count - len(kept)), free, strict=False):
            stranger = self.seen.guests.get(role.vmid + ordinal)
            if stranger is not None:
                self.refusals.append(
                    f"VMID {stranger.vmid} is wanted for {role.host(ordinal)} and belongs to"
                    f" somebody else: {stranger}. Move that one to another VMID, or give role"
                    f" {role.name} another base."
                )
            else:
                why = f"role {role.name} has {len(kept)} and wants {role.count}"
                self._new("create", why, role, ordinal, None)

    def _new(
        self, action: Action, reason: str, role: Role, ordinal: int, old: Guest | None
    ) -> None:
        templates = [one for one in self.seen.templates() if one.version == role.template]
        sources = {one.node: one for one in reversed(templates) if self.seen.online(one.node)}
        node = place(
            role,
            self.books,
            self.seen,
            self.rules.cordoned,
            {name: one.vmid for name, one in sources.items()},
            self.rules.template_shared,
        )
        if not sources:
            self._refuse(self._no_template(role))
        elif isinstance(node, Nowhere):
            self._refuse(self._no_room(role, node.why))
        else:
            self.books.ledgers[node].book(role.name, role.cores, role.memory_mib)
            source = sources.get(node) or min(sources.values(), key=lambda one: one.vmid)
            self.steps.append(
                Step(
                    action,
                    reason,
                    role.vmid + ordinal,
                    role.host(ordinal),
                    role.name,
                    ordinal,
                    node,
                    old_node=old.node if old else "",
                    template=role.template,
                    source=source.vmid,
                    source_node=source.node,
                    storage=role.storage,
                    address=str(self.fleet.address(role, ordinal)),
                    config=self.fleet.config(role, ordinal),
                    tags=self.fleet.tags(role, ordinal, role.template),
                )
            )

    # --- refusals -------------------------------------------------------------------------

    def _refuse(self, why: str) -> None:
        if why not in self.refusals:
            self.refusals.append(why)

    def _no_template(self, role: Role) -> str:
        known: dict[str, list[str]] = {}
        for one in self.seen.templates():
            known.setdefault(one.version, []).append(
                one.node if self.seen.online(one.node) else f"{one.node}, which is offline"
            )
        have = "; ".join(f"{version} on {', '.join(on)}" for version, on in known.items())
        return (
            f"Role {role.name} wants template {role.template}, and there is"
            f" {have or 'no template of the fleet at all'}. Make it: ansible-playbook"
            f" playbooks/template.yml -e version={role.template}; or ask for one"
            " that exists."
        )

    def _no_room(self, role: Role, why: str) -> str:
        unknown = not any(ledger.memory for ledger in self.books.ledgers.values())
        if unknown:
            return (
                "The size of the nodes is unknown, because the token lacks Sys.Audit on /nodes:"
                " give it a role with that privilege there, to its user and to the token."
            )
        return (
            f"No node has room for a {role.name} of {role.cores} cores and"
            f" {role.memory_mib} MiB: {why}. Lower the count or the size, or give the fleet"
            " another node."
        )

    def _check_nodes(self) -> None:
        asked = self.rules.cordoned.union(*(role.nodes for role in self.fleet.roles))
        for node in sorted(asked - set(self.seen.nodes)):
            self.refusals.append(
                f"Node {node} is not in the cluster, which has"
                f" {', '.join(sorted(self.seen.nodes)) or 'none'}: mend its name."
            )

    def _check_emptied(self) -> None:
        if ALL in self.rules.confirm_empty:
            return
        going = {step.role for step in self.steps if step.action == "destroy"}
        staying = {step.role for step in self.steps if step.action != "destroy"}
        emptied = going - staying - self.rules.confirm_empty
        if emptied and not staying:
            self.refusals.append(
                f"This would empty the whole fleet ({', '.join(sorted(going))}): look whether the"
                " roles are the right ones; if so, say confirm_empty: [all]."
            )
        else:
            self.refusals += [
                f"This would leave role {role} without a container: if that is meant, say"
                f" confirm_empty: [{role}]."
                for role in sorted(emptied)
            ]

    def _check_destroyed(self) -> None:
        names = [
            step.name
            for step in self.steps
            if step.action in ("destroy", "replace") and self._was_whole(step.vmid)
        ]
        if names and not self.rules.confirm_destroy:
            self.refusals.append(
                f"This would destroy {', '.join(names)}: drain what works there, then say"
                " confirm_destroy: true. ansible-playbook playbooks/scale.yml does both."
            )

    def _was_whole(self, vmid: int) -> bool:
        return not half_made(self.seen.guests[vmid], self.fleet)

    def _check_addresses(self) -> None:
        network = self.fleet.network
        has: dict[IPv4Address, str] = dict(self.taken)
        if network.gateway:
            has[IPv4Address(network.gateway)] = "the gateway"
        usable = network.subnet.num_addresses - 2
        for step in _by_vmid(self.steps):
            if step.action == "destroy" or not step.address:
                continue
            address = IPv4Address(step.address)
            index = int(address) - int(network.subnet.network_address)
            if not 1 <= index <= usable:
                self._refuse(
                    f"Address {address} of {step.name} is not in {network.subnet}: change the"
                    f" address_offset of role {step.role}, or take a larger subnet."
                )
            elif address in has:
                self._refuse(
                    f"Address {address} of {step.name} is taken by {has[address]}: change the"
                    f" address_offset of role {step.role}."
                )
            has[address] = step.name


def _by_vmid(steps: Iterable[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: step.vmid)
