"""What can go wrong, in the words that a user reads: what happened, why, and the cure."""

from __future__ import annotations

from collections.abc import Sequence


class Problem(Exception):
    """Something that ends a module. Its text names the cure."""


class BadWish(Problem):
    """The wanted fleet contradicts itself."""


class Refused(Problem):
    """A plan that is not done."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("The plan is refused, and nothing was changed. " + " ".join(reasons))
        self.reasons = list(reasons)


class ApiError(Problem):
    """The API answered with an error, or not at all (status 0)."""

    def __init__(self, call: str, status: int, reason: str, cure: str = "") -> None:
        told = f"{reason.strip().rstrip('.')}."
        super().__init__(f"{call}: {told} {cure}".strip())
        self.call = call
        self.status = status
        self.reason = reason


class TaskFailed(Problem):
    """A task of Proxmox ended badly; `reason` is the last line of its own log."""

    def __init__(self, upid: str, reason: str) -> None:
        super().__init__(f"Task {upid} failed: {reason}")
        self.upid = upid
        self.reason = reason


class Failed(Problem):
    """Steps that were begun and did not end well; the others did."""

    def __init__(self, told: Sequence[str]) -> None:
        super().__init__(
            f"{len(told)} of the steps failed; the next run goes on from here. " + " ".join(told)
        )


#: what Proxmox says while a lock is held that goes away by itself
LOCKED = ("is locked (", "got lock request timeout", "can't lock file", "lock timeout")

#: statuses of Proxmox's proxy when it cannot reach the node that a call is for
UNREACHED = (595, 596)


def is_lock(reason: str) -> bool:
    """Whether an error goes away when a lock does."""
    return any(words in reason for words in LOCKED)
