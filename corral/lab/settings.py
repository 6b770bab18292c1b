"""What a lab is made of: nodes and their size, the bridges, and how patient it is.

The values of `up` are Proxmox's own; tests shorten the waits.
"""

from __future__ import annotations

import msgspec

GIB = 1024**3


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fixed for the life of a lab."""

    nodes: int = 3
    cores: int = 4  # of each node
    memory_gb: int = 8  # of each node
    disk_gb: int = 100  # of each node's local-lvm
    dry: bool = False  # no containers behind the API
    bridges: dict[str, str] = msgspec.field(  # name -> address of the host on it
        default_factory=lambda: {"vmbr0": "10.7.0.1/24"}
    )
    auth_seconds: float = 3.0  # before a 401 is answered
    statistics_seconds: float = 10.0  # between two looks of the status daemon
    lock_seconds: float = 10.0  # that a call waits for a container's config

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [f"pve{number}" for number in range(1, self.nodes + 1)]
