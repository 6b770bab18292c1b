"""Versions of the template in the cluster: which are there, what is half made, what goes. No I/O.

A replica is tagged `building` until it is a template; the tag `template` is put on last. A clone
of a template has its tags, and its name tells what it was to become: another replica, or a trial.
The tag `tried-VMID` is put on one whose trial went well, and tells nothing of its copies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils.problems import Problem
from ansible_collections.corral.fleet.plugins.module_utils.seen import (
    BUILDING,
    TEMPLATE,
    Cluster,
    Guest,
)
from ansible_collections.corral.fleet.plugins.module_utils.wanted import MARK

SLOTS = 99  #: VMIDs above the base that are for templates
TRIAL = "trial"


@dataclass(frozen=True)
class Replicas:
    """What stands in the slots of templates."""

    seen: Cluster
    base: int

    def _guests(self) -> list[Guest]:
        inside = range(self.base + 1, self.base + SLOTS + 1)
        return [self.seen.guests[vmid] for vmid in inside if vmid in self.seen.guests]

    def finished(self, version: str) -> dict[str, Guest]:
        """Templates of a version, by node."""
        return {
            guest.node: guest
            for guest in self._guests()
            if guest.is_template and guest.version == version
        }

    def untried(self, version: str) -> list[Guest]:
        """Templates of a version whose trial has yet to go well, by node; of nodes that are up."""
        finished = sorted(self.finished(version).items())
        return [
            guest
            for node, guest in finished
            if self.seen.online(node) and tried(guest.vmid) not in guest.tags
        ]

    def unfinished(self, version: str) -> list[Guest]:
        """Replicas of a version that are not templates yet, or not tagged as such."""
        return [
            guest
            for guest in self._guests()
            if guest.ours and guest.version == version and not guest.is_template
            if {TEMPLATE, BUILDING} & guest.tags and not _is_trial(guest)
        ]

    def trials(self) -> list[Guest]:
        """What an interrupted trial left, on nodes that are up."""
        return [
            guest
            for guest in self._guests()
            if guest.ours and not guest.is_template and _is_trial(guest)
            if self.seen.online(guest.node)
        ]

    def free(self) -> int:
        """The lowest VMID that nobody has.

        Raises:
            Problem: there is none.
        """
        taken = {guest.vmid for guest in self._guests()}
        for vmid in range(self.base + 1, self.base + SLOTS + 1):
            if vmid not in taken:
                return vmid
        raise Problem(
            f"All VMIDs from {self.base + 1} to {self.base + SLOTS} are taken: retire old versions"
            " with state retired, or give another base in vmid."
        )

    def retired(self, current: str, keep: int) -> list[Guest]:
        """Templates that go: of versions that nothing was cloned from, but for the newest."""
        used = {guest.version for guest in self.seen.guests.values() if clone(guest)} | {current}
        old = {guest.version for guest in self.seen.templates()} - used
        going = sorted(old, key=_age, reverse=True)[keep:]
        return [one for one in self._guests() if one.is_template and one.version in going]


def tags(word: str, version: str) -> str:
    """The tags of a template, or of one that is being built."""
    return ";".join(sorted((MARK, word, f"tpl-{version}")))


def tried(vmid: int) -> str:
    """The tag of a template that was tried."""
    return f"tried-{vmid}"


def name(word: str, version: str, vmid: int) -> str:
    """A host name; a version may have characters that no host name has."""
    return f"{word}-{re.sub('[^a-z0-9]+', '-', version).strip('-')}-{vmid}"


def clone(guest: Guest) -> bool:
    """Whether a guest was made from a template of the fleet and is none itself."""
    return guest.ours and bool(guest.version) and not guest.is_template


def listed(seen: Cluster) -> list[dict[str, Any]]:
    """The templates, for people."""
    return [
        {
            "vmid": guest.vmid,
            "node": guest.node,
            "version": guest.version,
            "clones": sum(
                clone(other) and other.version == guest.version and other.node == guest.node
                for other in seen.guests.values()
            ),
        }
        for guest in seen.templates()
    ]


def _is_trial(guest: Guest) -> bool:
    return guest.name.startswith(f"{TRIAL}-")


def _age(version: str) -> list[tuple[int, int, str]]:
    """Numbers in a version count as numbers."""
    parts = re.findall(r"\d+|\D+", version)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
