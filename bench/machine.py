"""The machine that the figures belong to: without it a figure means nothing."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from statistics import median

import psutil

from bench.processes import BenchError

SYNCS = 300


def facts(folder: Path) -> dict[str, str | float]:
    """Returns what a reader needs to compare figures; `folder` is where the durable peers write.

    Raises:
        BenchError: that folder lies in memory, where a sync costs nothing.
    """
    kind = file_system(folder)
    if kind in ("tmpfs", "ramfs"):
        raise BenchError(
            f"{folder} is in memory ({kind}), where a sync costs nothing;"
            " type: bash bench/run.sh --folder DIR"
        )
    return {
        "cores": os.cpu_count() or 0,
        "processor": processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": kind,
        "fdatasync_us": round(fdatasync_us(folder), 1),
        "load": round(os.getloadavg()[0], 2),
    }


def stolen() -> tuple[int, int]:
    """Returns CPU ticks since boot that the host took from this virtual machine, and all ticks."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return ticks[7], sum(ticks)


def processor() -> str:
    """Returns the model name that the kernel gives."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def file_system(folder: Path) -> str:
    """Returns the type of the file system that holds a folder."""
    real = folder.resolve()
    mounts = [
        part for part in psutil.disk_partitions(all=True) if real.is_relative_to(part.mountpoint)
    ]
    return str(max(mounts, key=lambda part: len(part.mountpoint)).fstype)


def fdatasync_us(folder: Path) -> float:
    """Returns the median time to make one appended page durable, in microseconds."""
    path = folder / "sync"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(os.urandom(4096))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - started) * 1e6)
    path.unlink()
    return median(taken)
