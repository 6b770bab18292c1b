"""What the lab's API asks of the machine that it runs on: volumes, guests, archives.

A volume is a container's root file system, known by the name that Proxmox gives it
(`vm-101-disk-0`, `base-900-disk-0`). A guest is a volume that runs. Locks, permissions, tasks and
lagging fields are the API's; nothing here knows of them. Every call blocks and may be made from any
thread, for different volumes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Log = Callable[[str], None]  # takes one line for the task's log


class RuntimeFailed(Exception):
    """The machine did not do it. The text is the last line of the task that asked."""


@dataclass(frozen=True)
class Interface:
    """One network card of a guest, as its config's netN says."""

    name: str  # eth0
    hwaddr: str  # BC:24:11:..., never empty
    bridge: str  # the bridge's name in the API, vmbr0
    address: str | None = None  # 10.7.0.11/24; None: no address is set
    gateway: str | None = None
    mtu: int | None = None


@dataclass(frozen=True)
class Guest:
    """What is needed to run a container, taken from its config."""

    vmid: int
    node: str
    volume: str
    hostname: str
    cores: int | None = None  # None: all of the node's
    cpulimit: float = 0.0  # of one core; 0: no limit
    memory_mib: int = 512
    swap_mib: int = 512
    interfaces: tuple[Interface, ...] = ()
    nameservers: tuple[str, ...] = ()
    searchdomain: str = ""
    ssh_public_keys: str = ""  # lines for root's authorized_keys; given at create only
    variables: Mapping[str, str] = field(default_factory=dict)  # of init (`env`)


@dataclass(frozen=True)
class Usage:
    """What a running guest uses."""

    pid: int  # of its init, on this machine
    uptime: float  # seconds
    cpu: float  # share of its cores since the last look, 0 to 1
    memory: int  # bytes
    swap: int
    disk: int
    netin: int
    netout: int


class Runtime(Protocol):
    """One machine's containers."""

    def open(self) -> None:
        """Make what all guests share: folders, the bridge, kernel limits.

        Raises:
            RuntimeFailed: something is missing; the text says what to install or who to be.
        """

    def close(self) -> None:
        """Stop every guest and undo `open`: no mount, bridge, address or limit stays behind.

        Nothing begins any more, and what is under way is waited for, or it would leave something.
        """

    # --- volumes ---------------------------------------------------------------------------

    def create(self, volume: str, archive: Path, log: Log) -> None:
        """Unpack a template or a backup (tar, gz, xz or zst) into a new volume."""

    def clone(self, source: str, volume: str, full: bool, log: Log) -> None:
        """A new volume from another: as a layer over it, or as a copy of all its files."""

    def rename(self, volume: str, new: str) -> None:
        """Give a volume another name; layers over it follow (a container becomes a template)."""

    def delete(self, volume: str) -> None:
        """Remove a volume and its snapshots.

        Raises:
            RuntimeFailed: layers over it are still there, or it runs.
        """

    def children(self, volume: str) -> Sequence[str]:
        """The volumes that are layers over this one."""

    def snapshot(self, volume: str, name: str) -> None:
        """Keep the present content under a name."""

    def rollback(self, volume: str, name: str) -> None:
        """Make the content what it was; the guest is stopped."""

    def delete_snapshot(self, volume: str, name: str) -> None:
        """Forget a snapshot."""

    def size(self, volume: str) -> int:
        """Bytes that the volume itself holds, without what is below it."""

    def archive(self, volume: str, target: Path, log: Log) -> None:
        """Write all files of the volume to a tar archive; zstd when it ends in .zst. It may run."""

    # --- guests ----------------------------------------------------------------------------

    def start(self, guest: Guest, log: Log) -> None:
        """Boot it; returns when its init runs.

        Raises:
            RuntimeFailed: it did not start.
        """

    def shutdown(self, vmid: int, timeout: float) -> bool:
        """Ask its init to power off. False: it still runs after `timeout` seconds."""

    def stop(self, vmid: int) -> None:
        """End it at once."""

    def configure(self, guest: Guest) -> None:
        """Let cores, memory, swap, hostname and addresses of a running guest be as given."""

    def usage(self) -> Mapping[int, Usage]:
        """What runs, by vmid."""

    def addresses(self, vmid: int) -> Mapping[str, Sequence[str]]:
        """Interface name to its addresses with prefix lengths, as the guest has them now."""
