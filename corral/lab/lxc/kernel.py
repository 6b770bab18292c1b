"""What many containers need of the whole machine: room for inotify, and lxcfs.

systemd in every guest watches files with inotify instances that are all root's, and the kernel's
default of 128 stops about the 19th guest half way through its boot. The limit belongs to the
machine, not to one lab: the first lab raises it, the last one puts it back.

lxcfs (FUSE) makes /proc show a guest its own memory and processors. Each lab runs one of its own,
which outlives the process that started it.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from corral.lab.lxc.commands import run
from corral.lab.runtime import RuntimeFailed

INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH = 8192
PATIENCE = 5.0  # seconds until lxcfs has mounted itself, or is gone
LABS = Path("/run/corral-labs")  # a file for each open lab, and the limit as it was before them
SHOWN = (
    *(f"proc/{name}" for name in ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime")),
    "sys/devices/system/cpu/online",
)


@contextmanager
def _labs() -> Iterator[Path]:
    LABS.mkdir(exist_ok=True)
    with (LABS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield LABS / "before"


def raise_limits(lab: str, folder: Path) -> None:
    """Make room, and note who needs it."""
    with _labs() as before:
        now = int(INOTIFY.read_text())
        if now < ENOUGH:
            before.write_text(str(now))
            INOTIFY.write_text(str(ENOUGH))
        (LABS / f"lab-{lab}").write_text(str(folder))


def lower_limits(lab: str) -> None:
    """Forget a lab; the last one restores what was."""
    with _labs() as before:
        (LABS / f"lab-{lab}").unlink(missing_ok=True)
        others = [path for path in LABS.glob("lab-*") if Path(path.read_text()).is_dir()]
        if others:
            return
        if before.exists():
            INOTIFY.write_text(before.read_text())
        shutil.rmtree(LABS)


def show_own(mount: Path) -> None:
    """Start lxcfs, if it is not there yet.

    Raises:
        RuntimeFailed: it does not come up.
    """
    if mount.is_mount():
        return
    mount.mkdir(parents=True, exist_ok=True)
    said = mount.with_name("lxcfs.log")
    with said.open("wb") as log:  # it stays in the foreground, and would hold a pipe open
        subprocess.run(
            ("setsid", "--fork", "lxcfs", "--pidfile", mount.with_name("lxcfs.pid"), mount),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )
    end = time.monotonic() + PATIENCE
    while not mount.is_mount():
        if time.monotonic() > end:
            raise RuntimeFailed(f"lxcfs does not mount itself in {PATIENCE:.0f} s; see {said}")
        time.sleep(0.01)


def hide_own(mount: Path) -> None:
    """End lxcfs: it ends with its mount, and a while later takes its pid file away."""
    if not mount.is_mount():
        return
    run("umount", "--lazy", mount)
    written = mount.with_name("lxcfs.pid")
    with suppress(FileNotFoundError):
        process = Path("/proc", written.read_text().strip())
        end = time.monotonic() + PATIENCE
        while process.is_dir() and written.exists() and time.monotonic() < end:
            time.sleep(0.01)
