"""A runtime with real containers, and the ways in which a test looks into one from outside."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.lab.lxc import LxcRuntime
from corral.lab.runtime import Guest, Interface

TEMPLATE = "base-250-disk-0"
REACHABLE_SECONDS = 30.0
SSH = (
    "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
    "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=2",
)  # fmt: skip


@dataclass
class Machine:
    """One runtime in one folder, open, with a subnet of its own."""

    runtime: LxcRuntime
    folder: Path
    subnet: str  # 10.77.3: a guest's address ends in its vmid
    image: Path
    key: Path
    logged: list[str] = field(default_factory=list)

    def log(self, line: str) -> None:
        self.logged.append(line)

    def address(self, vmid: int) -> str:
        return f"{self.subnet}.{vmid}"

    def card(self, vmid: int, **more: Any) -> Interface:
        """Its first network card."""
        wanted = {
            "name": "eth0",
            "hwaddr": f"BC:24:11:00:00:{vmid:02X}",
            "bridge": "vmbr0",
            "address": f"{self.address(vmid)}/24",
            "gateway": f"{self.subnet}.1",
        }
        return Interface(**(wanted | more))

    def guest(self, vmid: int, **more: Any) -> Guest:
        wanted = {
            "vmid": vmid,
            "node": "pve1",
            "volume": f"vm-{vmid}-disk-0",
            "hostname": f"ct{vmid}",
            "interfaces": (self.card(vmid),),
            "ssh_public_keys": self.key.with_suffix(".pub").read_text(),
        }
        return Guest(**(wanted | more))

    def template(self) -> None:
        """Make a volume with the image in it."""
        self.runtime.create("vm-250-disk-0", self.image, self.log)
        self.runtime.rename("vm-250-disk-0", TEMPLATE)

    def volumes(self) -> set[str]:
        """The names of all volumes."""
        return {path.name for path in (self.folder / "volumes/names").iterdir()}

    def start(self, vmid: int, **more: Any) -> Guest:
        """Boot it, and wait until it can be reached."""
        guest = self.guest(vmid, **more)
        self.runtime.start(guest, self.log)
        self.reach(self.address(vmid))
        return guest

    def clone(self, vmid: int, source: str = TEMPLATE, full: bool = False) -> str:
        self.runtime.clone(source, f"vm-{vmid}-disk-0", full, self.log)
        return f"vm-{vmid}-disk-0"

    def ssh(self, address: str, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SSH, "-i", self.key, f"root@{address}", command],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def run(self, vmid: int, command: str) -> str:
        """What a command in a guest writes; it must succeed."""
        done = self.ssh(self.address(vmid), command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def reach(self, address: str) -> None:
        """Wait until it can be reached."""
        until = time.monotonic() + REACHABLE_SECONDS
        while (done := self.ssh(address, "true")).returncode != 0:
            assert time.monotonic() < until, done.stderr
            time.sleep(0.05)

    def booted(self, vmid: int) -> str:
        """The state of its systemd, once it has come up."""
        return self.ssh(self.address(vmid), "systemctl is-system-running --wait").stdout.strip()


def opened(folder: Path, subnet: str) -> LxcRuntime:
    """A runtime in a folder."""
    runtime = LxcRuntime(folder, {"vmbr0": f"{subnet}.1/24"})
    runtime.open()
    return runtime


def main() -> None:
    """Open a runtime, start a guest, and wait to be killed: `... FOLDER SUBNET VMID`."""
    folder, subnet, vmid = sys.argv[1:]
    machine = Machine(
        opened(Path(folder), subnet), Path(folder), subnet, Path(), Path(folder, "key")
    )
    machine.runtime.start(machine.guest(int(vmid)), machine.log)
    print("started", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main()
