"""The runtime on LXC: one lab's folder, bridges and containers on this machine."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import psutil

from corral.lab.lxc import cgroups, files, kernel, network
from corral.lab.lxc.guests import Guests
from corral.lab.lxc.network import Bridges
from corral.lab.lxc.volumes import Volumes
from corral.lab.lxc.work import Work
from corral.lab.runtime import Guest, Log, RuntimeFailed, Usage

PROGRAMS = {  # what is called, and the Debian package that it is in
    "lxc-start": "lxc",
    "lxcfs": "lxcfs",
    "ip": "iproute2",
    "hostname": "hostname",
    "nsenter": "util-linux",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
    "zstd": "zstd",
}
SAMPLE_SECONDS = 1.0  # the shortest time over which the share of processors is taken
DISK_SECONDS = 10.0  # between two counts of a running guest's disk

P = ParamSpec("P")
R = TypeVar("R")


def _changes(
    method: Callable[Concatenate[LxcRuntime, P], R],
) -> Callable[Concatenate[LxcRuntime, P], R]:
    """Let the runtime's end wait for a method, and nobody call it after that."""

    @functools.wraps(method)
    def begun(self: LxcRuntime, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._work.one():
            return method(self, *args, **kwargs)

    return begun


class LxcRuntime:
    """The protocol `Runtime` with real containers."""

    def __init__(self, folder: Path, bridges: Mapping[str, str]) -> None:
        """A lab is its folder: the same one finds the same containers again.

        `bridges`: the API's names of the bridges, and this machine's address on each of them.
        """
        self._folder = folder.resolve()
        self._lab = hashlib.sha256(str(self._folder).encode()).hexdigest()[:6]
        self._lxcfs = self._folder / "lxcfs"
        self._bridges = Bridges(self._lab, bridges)
        self._volumes = Volumes(self._folder / "volumes")
        self._guests = Guests(self._folder / "lxc", self._lab, self._bridges, self._lxcfs)
        self._v2 = cgroups.unified()
        self._work = Work()
        self._lock = threading.Lock()
        self._looks: dict[int, _Look] = {}

    def open(self) -> None:
        self._able()
        try:
            self._bridges.open()
            self._volumes.open()
            self._guests.open()
            kernel.raise_limits(self._lab, self._folder)
            kernel.show_own(self._lxcfs)
        except BaseException:
            self.close()
            raise

    def _able(self) -> None:
        if os.geteuid() != 0:
            raise RuntimeFailed("containers need root: type sudo before the command, or use --dry")
        lacking = sorted({PROGRAMS[name] for name in PROGRAMS if not shutil.which(name)})
        if lacking:
            raise RuntimeFailed(f"packages are missing; type: apt-get install {' '.join(lacking)}")
        if not re.fullmatch(r"[\w./+@-]+", str(self._folder)):
            raise RuntimeFailed(
                f"the lab's folder may have no blank or comma in it: {self._folder}"
            )

    def close(self) -> None:
        self._work.end()
        self._guests.close()
        kernel.hide_own(self._lxcfs)
        self._volumes.close()
        self._bridges.close()
        kernel.lower_limits(self._lab)

    # --- volumes ---------------------------------------------------------------------------

    @_changes
    def create(self, volume: str, archive: Path, log: Log) -> None:
        self._volumes.create(volume, archive, log)
        with self._volumes.mounted(volume) as root:
            files.after_create(root)

    @_changes
    def clone(self, source: str, volume: str, full: bool, log: Log) -> None:
        user = self._user(source)
        if user is not None and not full:
            raise RuntimeFailed(f"cannot layer over volume '{source}': CT {user} is running")
        self._volumes.clone(source, volume, full, self._guests.frozen(user))
        with self._volumes.mounted(volume) as root:
            files.after_clone(root)

    @_changes
    def rename(self, volume: str, new: str) -> None:
        self._unused(volume)
        self._volumes.rename(volume, new)

    @_changes
    def delete(self, volume: str) -> None:
        self._unused(volume)
        self._volumes.delete(volume)

    def children(self, volume: str) -> Sequence[str]:
        return self._volumes.children(volume)

    @_changes
    def snapshot(self, volume: str, name: str) -> None:
        self._volumes.snapshot(volume, name, self._guests.frozen(self._user(volume)))

    @_changes
    def rollback(self, volume: str, name: str) -> None:
        self._unused(volume)
        self._volumes.rollback(volume, name)

    @_changes
    def delete_snapshot(self, volume: str, name: str) -> None:
        self._volumes.delete_snapshot(volume, name)

    def size(self, volume: str) -> int:
        return self._volumes.size(volume)

    @_changes
    def archive(self, volume: str, target: Path, log: Log) -> None:
        self._volumes.archive(volume, target, log, self._guests.frozen(self._user(volume)))

    def _user(self, volume: str) -> int | None:
        """Who runs on it."""
        for vmid in self._guests.running():
            if self._guests.known(vmid).volume == volume:
                return vmid
        return None

    def _unused(self, volume: str) -> None:
        user = self._user(volume)
        if user is not None:
            raise RuntimeFailed(f"volume '{volume}' is in use: CT {user} is running")

    # --- guests ----------------------------------------------------------------------------

    @_changes
    def start(self, guest: Guest, log: Log) -> None:
        if guest.vmid in self._guests.running():
            raise RuntimeFailed(f"CT {guest.vmid} already running")
        if self._volumes.children(guest.volume):
            raise RuntimeFailed(f"volume '{guest.volume}' is below others and must not change")
        root = self._volumes.mount(guest.volume)
        files.before_start(root, guest)
        self._guests.start(guest, root, log)

    def shutdown(self, vmid: int, timeout: float) -> bool:
        volume = self._volume(vmid)
        gone = self._guests.shutdown(vmid, timeout)
        if gone:
            self._volumes.unmount(volume)
        return gone

    def stop(self, vmid: int) -> None:
        volume = self._volume(vmid)
        self._guests.stop(vmid)
        self._volumes.unmount(volume)

    def _volume(self, vmid: int) -> str:
        """What a running guest runs on."""
        self._guests.init(vmid)
        return self._guests.known(vmid).volume

    @_changes
    def configure(self, guest: Guest) -> None:
        pid, before = self._guests.init(guest.vmid), self._guests.known(guest.vmid)
        cgroups.apply(guest, self._guests.group(guest.vmid), self._v2)
        network.configure(pid, before.interfaces, guest.interfaces, self._bridges)
        if guest.hostname != before.hostname:
            self._guests.rename(guest)
        files.name(self._volumes.mount(guest.volume), guest)
        self._guests.note(guest)

    def addresses(self, vmid: int) -> Mapping[str, Sequence[str]]:
        return network.addresses(self._guests.init(vmid))

    def usage(self) -> Mapping[int, Usage]:
        running, now = self._guests.running(), time.monotonic()
        with self._lock:
            known = {
                vmid: look for vmid, look in self._looks.items() if running.get(vmid) == look.pid
            }
        found = {}
        for vmid, pid in running.items():
            try:
                look = self._look(vmid, pid, known.get(vmid), now)
                found[vmid] = self._usage(vmid, look)
            except (OSError, psutil.NoSuchProcess):
                continue  # it ended since
            known[vmid] = look
        with self._lock:
            self._looks = known
        return found

    def _look(self, vmid: int, pid: int, last: _Look | None, now: float) -> _Look:
        if last is not None and now - last.at < SAMPLE_SECONDS:
            return last
        guest, group = self._guests.known(vmid), self._guests.group(vmid)
        used = cgroups.processor_seconds(group, self._v2)
        share, disk, disk_at = 0.0, 0, -math.inf
        if last is not None:
            share = (used - last.used) / (now - last.at) / len(cgroups.cpus(guest))
            disk, disk_at = last.disk, last.disk_at
        if now - disk_at > DISK_SECONDS:
            disk, disk_at = self._volumes.written(guest.volume), now
        return _Look(pid, now, used, min(1.0, max(0.0, share)), disk, disk_at)

    def _usage(self, vmid: int, look: _Look) -> Usage:
        memory, swap = cgroups.memory(self._guests.group(vmid), self._v2)
        netin, netout = network.traffic(look.pid)
        return Usage(
            pid=look.pid,
            uptime=time.time() - psutil.Process(look.pid).create_time(),
            cpu=look.share,
            memory=memory,
            swap=swap,
            disk=look.disk,
            netin=netin,
            netout=netout,
        )


@dataclass(frozen=True)
class _Look:
    """What was seen of a running guest, kept for a while because it is asked for often."""

    pid: int
    at: float
    used: float  # seconds of processors
    share: float
    disk: int
    disk_at: float
