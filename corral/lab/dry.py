"""A runtime without containers: it keeps names and answers at once.

For figures about hundreds of containers, and for tests of the API alone. What it keeps is in a
file, so that a lab without containers survives its process as one with containers does.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from corral.lab import store
from corral.lab.runtime import Guest, Log, RuntimeFailed, Usage

MEMORY = 40 * 1024**2  # that a guest is said to use
VOLUME = 8 * 1024**2  # that a volume is said to hold
FIRST_PID = 100_000


class Kept(msgspec.Struct):
    """What exists."""

    parents: dict[str, str] = {}  # volume -> what it is a layer over, or nothing
    snapshots: dict[str, list[str]] = {}
    guests: dict[int, Guest] = {}
    since: dict[int, float] = {}  # seconds since the epoch


class DryRuntime:
    """Volumes and guests that are names."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "dry.json"
        self._lock = threading.Lock()
        self._kept = store.load(self._path, Kept) or Kept()

    def open(self) -> None:
        self._save()

    def close(self) -> None:
        with self._lock:
            self._kept.guests.clear()
            self._kept.since.clear()
            self._save()

    def _save(self) -> None:
        store.save(self._path, self._kept)

    def _existing(self, volume: str) -> str:
        if volume not in self._kept.parents:
            raise RuntimeFailed(f"volume '{volume}' does not exist")
        return volume

    def _fresh(self, volume: str) -> str:
        if volume in self._kept.parents:
            raise RuntimeFailed(f"volume '{volume}' exists already")
        return volume

    def _runs(self, vmid: int) -> Guest:
        if vmid not in self._kept.guests:
            raise RuntimeFailed(f"container {vmid} does not run")
        return self._kept.guests[vmid]

    # --- volumes ---------------------------------------------------------------------------

    def create(self, volume: str, archive: Path, log: Log) -> None:
        with self._lock:
            if not archive.is_file():
                raise RuntimeFailed(f"archive '{archive}' does not exist")
            self._kept.parents[self._fresh(volume)] = ""
            self._save()
        log(f"extracting archive '{archive}'")

    def clone(self, source: str, volume: str, full: bool, log: Log) -> None:
        with self._lock:
            self._existing(source)
            self._kept.parents[self._fresh(volume)] = "" if full else source
            self._save()

    def rename(self, volume: str, new: str) -> None:
        with self._lock:
            parents = self._kept.parents
            parents[self._fresh(new)] = parents.pop(self._existing(volume))
            for child, parent in parents.items():
                if parent == volume:
                    parents[child] = new
            self._kept.snapshots[new] = self._kept.snapshots.pop(volume, [])
            self._save()

    def delete(self, volume: str) -> None:
        with self._lock:
            self._existing(volume)
            if self._children(volume):
                raise RuntimeFailed(f"volume '{volume}' is still in use by linked clones")
            if any(guest.volume == volume for guest in self._kept.guests.values()):
                raise RuntimeFailed(f"volume '{volume}' is in use by a running container")
            del self._kept.parents[volume]
            self._kept.snapshots.pop(volume, None)
            self._save()

    def children(self, volume: str) -> Sequence[str]:
        with self._lock:
            return self._children(volume)

    def _children(self, volume: str) -> list[str]:
        return [child for child, parent in self._kept.parents.items() if parent == volume]

    def snapshot(self, volume: str, name: str) -> None:
        with self._lock:
            self._kept.snapshots.setdefault(self._existing(volume), []).append(name)
            self._save()

    def rollback(self, volume: str, name: str) -> None:
        with self._lock:
            if name not in self._kept.snapshots.get(self._existing(volume), []):
                raise RuntimeFailed(f"volume '{volume}' has no snapshot '{name}'")

    def delete_snapshot(self, volume: str, name: str) -> None:
        with self._lock:
            self._kept.snapshots.get(self._existing(volume), []).remove(name)
            self._save()

    def size(self, volume: str) -> int:
        with self._lock:
            return VOLUME if self._existing(volume) else 0

    def archive(self, volume: str, target: Path, log: Log) -> None:
        with self._lock:
            self._existing(volume)
        target.write_bytes(volume.encode())

    # --- guests ----------------------------------------------------------------------------

    def start(self, guest: Guest, log: Log) -> None:
        with self._lock:
            self._existing(guest.volume)
            if guest.vmid in self._kept.guests:
                raise RuntimeFailed(f"container {guest.vmid} runs already")
            self._kept.guests[guest.vmid] = guest
            self._kept.since[guest.vmid] = time.time()
            self._save()

    def shutdown(self, vmid: int, timeout: float) -> bool:
        self.stop(vmid)
        return True

    def stop(self, vmid: int) -> None:
        with self._lock:
            self._runs(vmid)
            del self._kept.guests[vmid], self._kept.since[vmid]
            self._save()

    def configure(self, guest: Guest) -> None:
        with self._lock:
            self._runs(guest.vmid)
            self._kept.guests[guest.vmid] = guest
            self._save()

    def usage(self) -> Mapping[int, Usage]:
        now = time.time()
        with self._lock:
            return {
                vmid: Usage(FIRST_PID + vmid, now - since, 0.0, MEMORY, 0, VOLUME, 0, 0)
                for vmid, since in self._kept.since.items()
            }

    def addresses(self, vmid: int) -> Mapping[str, Sequence[str]]:
        with self._lock:
            guest = self._runs(vmid)
        found = {"lo": ["127.0.0.1/8", "::1/128"]}
        for card in guest.interfaces:
            local = ipaddress.IPv6Address(f"fe80::{_interface_id(card.hwaddr)}")
            found[card.name] = [*([card.address] if card.address else []), f"{local}/64"]
        return found


def _interface_id(hwaddr: str) -> str:
    """The lower half of the link-local address that belongs to a MAC (RFC 4291, EUI-64)."""
    octets = [int(part, 16) for part in hwaddr.split(":")]
    octets[0] ^= 2
    octets[3:3] = [0xFF, 0xFE]
    pairs = zip(octets[::2], octets[1::2], strict=True)
    return ":".join(f"{high:02x}{low:02x}" for high, low in pairs)
