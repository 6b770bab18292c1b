"""A container of LXC: its config, its start, its end, and whether it runs.

It runs while its monitor does: the process `[lxc monitor] PATH VMID`, whose id LXC writes to a file
and whose child is the guest's init. A process that takes over reads the same file.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from corral.lab.lxc import cgroups, kernel
from corral.lab.lxc.commands import run
from corral.lab.lxc.network import Bridges
from corral.lab.runtime import Guest, Interface, Log, RuntimeFailed

POWER_OFF = signal.SIGRTMIN + 3  # systemd(1): start poweroff.target
KILLED_WITHIN = 30.0  # seconds
COMMON = """\
lxc.include = /usr/share/lxc/config/common.conf
lxc.hook.mount =
lxc.hook.post-stop =
lxc.mount.auto =
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.apparmor.profile = unconfined
lxc.arch = linux64
lxc.tty.max = 0
lxc.console.path = none
"""


class Guests:
    """The containers of one lab."""

    def __init__(self, folder: Path, lab: str, bridges: Bridges, lxcfs: Path) -> None:
        self._folder = folder  # LXC's own: one absolute path in every command
        self._lab = lab
        self._bridges = bridges
        self._lxcfs = lxcfs
        self._v2 = cgroups.unified()

    def open(self) -> None:
        """Make LXC's folder, and the lab's cgroup."""
        self._folder.mkdir(parents=True, exist_ok=True)
        cgroups.make(self.top)

    def close(self) -> None:
        """End all that runs, also what lost its monitor, or has one that hangs."""
        for vmid in self.running():
            with suppress(RuntimeFailed):  # what does not end so ends with its cgroup
                self.stop(vmid)
        cgroups.clear(self.top)
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(Path("/run/lxc/lock", *self._folder.parts[1:]), ignore_errors=True)

    # --- what runs -------------------------------------------------------------------------

    @property
    def top(self) -> str:
        """The cgroup of the lab."""
        return f"corral-lab-{self._lab}"

    def group(self, vmid: int) -> str:
        """The cgroup of a guest."""
        return f"{self.top}/{vmid}"

    def _monitors(self, vmid: int) -> str:
        """The cgroup of what watches over a guest."""
        return f"{self.top}/monitor-{vmid}"

    def _monitor(self, vmid: int) -> int | None:
        try:
            pid = int((self._folder / str(vmid) / "monitor.pid").read_text())
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
        except (OSError, ValueError):
            return None
        return pid if title == f"[lxc monitor] {self._folder} {vmid}" else None

    def running(self) -> Mapping[int, int]:
        """Who runs, and the id of its init on this machine."""
        vmids = [int(path.name) for path in self._folder.glob("[0-9]*")]
        return {vmid: pid for vmid in vmids if (pid := self._init(vmid)) is not None}

    def _init(self, vmid: int) -> int | None:
        monitor = self._monitor(vmid)
        try:
            children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def init(self, vmid: int) -> int:
        """The id of its init on this machine.

        Raises:
            RuntimeFailed: it does not run.
        """
        pid = self._init(vmid)
        if pid is None:
            raise RuntimeFailed(f"CT {vmid} not running")
        return pid

    def known(self, vmid: int) -> Guest:
        """As what it was started, or configured since."""
        return msgspec.json.decode(
            (self._folder / str(vmid) / "guest.json").read_bytes(), type=Guest
        )

    # --- start and end -----------------------------------------------------------------------

    def note(self, guest: Guest) -> Path:
        """Write down what it is."""
        place = self._folder / str(guest.vmid)
        place.mkdir(parents=True, exist_ok=True)
        fresh = place / "guest.json.new"
        fresh.write_bytes(msgspec.json.encode(guest))
        fresh.rename(place / "guest.json")  # others look who runs on what at any moment
        (place / "config").write_text(COMMON + "".join(f"{line}\n" for line in self._config(guest)))
        return place

    def _config(self, guest: Guest) -> Iterator[str]:
        yield f"lxc.uts.name = {guest.hostname}"
        yield f"lxc.cgroup.dir.container = {self.group(guest.vmid)}"
        yield f"lxc.cgroup.dir.monitor = {self._monitors(guest.vmid)}"
        for limit in cgroups.limits(guest, self._v2):
            if cgroups.present(limit, self._v2):
                yield f"lxc.cgroup{'2' if self._v2 else ''}.{limit.key} = {limit.value}"
        for path in kernel.SHOWN:
            yield f"lxc.mount.entry = {self._lxcfs / path} {path} none bind,optional 0 0"
        for number, card in enumerate(guest.interfaces):
            for key, value in self._card(card):
                yield f"lxc.net.{number}.{key} = {value}"
        for key, value in guest.variables.items():
            yield f"lxc.environment = {key}={value}"

    def _card(self, card: Interface) -> Iterator[tuple[str, object]]:
        yield "type", "veth"
        yield "link", self._bridges.link(card.bridge)
        yield "flags", "up"
        yield "name", card.name
        yield "hwaddr", card.hwaddr
        if card.mtu:
            yield "mtu", card.mtu
        if card.address:
            yield "ipv4.address", card.address
        if card.gateway:
            yield "ipv4.gateway", card.gateway

    def start(self, guest: Guest, root: Path, log: Log) -> None:
        """Boot it on a mounted root file system."""
        place = self.note(guest)
        for left in (self.group(guest.vmid), self._monitors(guest.vmid)):
            cgroups.settle(left)
        said = place / "log"
        said.unlink(missing_ok=True)
        try:
            run(
                "lxc-start",
                "-P",
                self._folder,
                "-n",
                str(guest.vmid),
                "-s",
                f"lxc.rootfs.path=dir:{root}",
                "-d",
                "-p",
                place / "monitor.pid",
                "-o",
                said,
                "-l",
                "ERROR",
            )
        except RuntimeFailed as failure:
            lines = said.read_text().splitlines() if said.exists() else []
            for line in lines:
                log(line)
            reason = next((line for line in lines if " ERROR " in line), str(failure))
            raise RuntimeFailed(f"startup for container '{guest.vmid}' failed: {reason}") from None

    def shutdown(self, vmid: int, timeout: float) -> bool:
        """Ask until it is gone: an init that is still starting does not hear the first time."""
        pid, end = self.init(vmid), time.monotonic() + timeout
        while time.monotonic() < end:
            _signal(pid, POWER_OFF)
            if self._gone(vmid, min(1.0, max(0.0, end - time.monotonic()))):
                return True
        return False

    def stop(self, vmid: int) -> None:
        """Kill its init, and with it all that it started."""
        _signal(self.init(vmid), signal.SIGKILL)
        if not self._gone(vmid, KILLED_WITHIN):
            raise RuntimeFailed(
                f"container {vmid} does not end, {KILLED_WITHIN:.0f} s after SIGKILL"
            )

    def _gone(self, vmid: int, timeout: float) -> bool:
        end = time.monotonic() + timeout
        while self._monitor(vmid) is not None:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def rename(self, guest: Guest) -> None:
        """Let a running guest's kernel call it by its new name."""
        pid = str(self.init(guest.vmid))
        run("nsenter", "--uts", "--target", pid, "hostname", guest.hostname)

    @contextmanager
    def frozen(self, vmid: int | None) -> Iterator[None]:
        """Hold a running guest still; with None, nothing has to be held."""
        if vmid is None:
            yield
            return
        cgroups.freeze(self.group(vmid), self._v2)
        try:
            yield
        finally:
            cgroups.thaw(self.group(vmid), self._v2)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it went by itself, which is what was wanted
