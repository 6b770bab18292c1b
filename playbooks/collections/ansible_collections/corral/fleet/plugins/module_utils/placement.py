"""Where a new container goes: what each node has, has promised, and may still promise. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils.seen import MIB, Cluster
from ansible_collections.corral.fleet.plugins.module_utils.wanted import Role


@dataclass
class Ledger:
    """One node's account."""

    cores: float  # that may be promised
    memory: float  # MiB that may be promised
    used_cores: float = 0
    used_memory: float = 0
    roles: Counter[str] = field(default_factory=Counter)

    def lacks(self, cores: float, memory: float) -> str:
        """What it has too little of for a container, or nothing."""
        short_cores = self.used_cores + cores - self.cores
        short_memory = self.used_memory + memory - self.memory
        lacking = []
        if short_cores > 0:
            lacking.append(f"{short_cores:g} cores")
        if short_memory > 0:
            lacking.append(f"{short_memory:g} MiB")
        return " and ".join(lacking)

    def book(self, role: str, cores: float, memory: float, times: int = 1) -> None:
        """Promise it, or take the promise back (-1)."""
        self.used_cores += times * cores
        self.used_memory += times * memory
        self.roles[role] += times

    @property
    def free_share(self) -> float:
        """The smaller of the shares of cores and memory that are free."""
        return min(
            1 - self.used_cores / self.cores if self.cores else 0,
            1 - self.used_memory / self.memory if self.memory else 0,
        )


class Books:
    """The accounts of all nodes."""

    def __init__(self, seen: Cluster, cpu_ratio: float, memory_ratio: float) -> None:
        self.ledgers = {
            node.name: Ledger(node.cores * cpu_ratio, node.memory / MIB * memory_ratio)
            for node in seen.nodes.values()
        }
        for guest in seen.guests.values():
            # Who has not been measured yet is booked by the planner, which knows its size.
            if guest.node in self.ledgers and not guest.is_template:
                self.ledgers[guest.node].book(guest.role, guest.cores, guest.memory / MIB)
        self.before = self._used()

    def _used(self) -> dict[str, tuple[float, float]]:
        return {name: (one.used_cores, one.used_memory) for name, one in self.ledgers.items()}

    def report(self) -> dict[str, Any]:
        """What may be promised, and what is, before and after."""
        now = self._used()
        return {
            name: {
                kind: {
                    "limit": int(limit),
                    "before": int(self.before[name][index]),
                    "after": int(now[name][index]),
                }
                for index, (kind, limit) in enumerate(
                    (("cores", ledger.cores), ("memory_mib", ledger.memory))
                )
            }
            for name, ledger in sorted(self.ledgers.items())
        }


@dataclass(frozen=True)
class Nowhere:
    """No node can take it, and why each cannot."""

    why: str


def place(
    role: Role,
    books: Books,
    seen: Cluster,
    cordoned: Collection[str],
    sources: Mapping[str, int],
    shared: bool,
) -> str | Nowhere:
    """The node for one more container of a role.

    Of the nodes that can take it, one with the fewest of its role; of those, the one that has the
    largest share free; of those, the first by name.

    Args:
        sources: node -> its template of the wanted version.
        shared: whether any node can take a clone of any template.
    """
    fitting, reasons = [], []
    for name in sorted(books.ledgers):
        ledger = books.ledgers[name]
        if why := _unfit(role, name, seen, cordoned, sources, shared):
            reasons.append(f"{name} {why}")
        elif lacking := ledger.lacks(role.cores, role.memory_mib):
            reasons.append(f"{name} lacks {lacking}")
        else:
            fitting.append((ledger.roles[role.name], -ledger.free_share, name))
    return min(fitting)[-1] if fitting else Nowhere("; ".join(reasons))


def _unfit(
    role: Role,
    node: str,
    seen: Cluster,
    cordoned: Collection[str],
    sources: Mapping[str, int],
    shared: bool,
) -> str:
    table: Iterable[tuple[bool, str]] = (
        (not seen.online(node), "is offline"),
        (node in cordoned, "is cordoned"),
        (bool(role.nodes) and node not in role.nodes, f"is not a node of role {role.name}"),
        (not shared and node not in sources, f"has no template {role.template}"),
    )
    return next((why for applies, why in table if applies), "")
