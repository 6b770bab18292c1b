"""What this machine has: cores, memory and GPUs, as far as this container may use them.

psutil and the kernel say what there is and what cgroups leave of it; NVML, when it is installed,
names GPUs by UUID and shows who uses their memory. GPUs may also be declared by hand; then every
view says so. Only reads.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct

from corral.messages import Gpu

GIB = 1 << 30
IsOurs = Callable[[str, int], bool]  # UUID of a GPU, id of a process that uses it
CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # cgroup v1 says "no limit" with a number about this large


class Machine(Struct, frozen=True):
    """What an agent may use."""

    cores: tuple[int, ...]  #: ids, for `sched_setaffinity`
    cpus: float
    memory_gb: float
    gpus: tuple[Gpu, ...]


def look(
    gpus: Iterable[Gpu], cpus: float | None, memory_gb: float | None, is_ours: IsOurs
) -> Machine:
    """What there is now. Given figures win over found ones, declared GPUs over the same found.

    Args:
        gpus: declared ones.
        cpus: cores to offer, when not all of them.
        memory_gb: memory to offer, GiB, when not all of it.
        is_ours: whether a process that uses a GPU was started by this agent.
    """
    cores = tuple(sorted(os.sched_getaffinity(0)))
    found = {gpu.uuid: gpu for gpu in nvml_gpus(is_ours)}
    found |= {gpu.uuid: gpu for gpu in gpus}
    return Machine(
        cores=cores,
        cpus=float(min(len(cores), cpu_quota()) if cpus is None else cpus),
        memory_gb=memory() if memory_gb is None else memory_gb,
        gpus=tuple(found.values()),
    )


def cpu_quota(root: Path = CGROUPS) -> float:
    """Cores that the cgroup lets run at once; infinite when it sets no quota."""
    with suppress(OSError, ValueError):  # v2
        quota, period = (root / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):  # v1
        quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            return int(quota) / int((root / "cpu" / "cpu.cfs_period_us").read_text())
    return float("inf")


def processor() -> str:
    """The processor's name, for people."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def memory(root: Path = CGROUPS) -> float:
    """Main memory, GiB: the machine's, or what the cgroup leaves of it."""
    total: int = psutil.virtual_memory().total
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limit = int((root / name).read_text())
            total = min(total, limit) if limit < UNLIMITED else total
    return round(total / GIB, 3)


@cache  # making it ready takes the driver seconds
def _nvml() -> Any:
    """The NVIDIA management library; None when it or the driver is not here."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def nvml_gpus(is_ours: IsOurs) -> list[Gpu]:
    """The GPUs that NVML shows; none without it. A GPU that does not answer is left out."""
    library = _nvml()
    if library is None:
        return []
    gpus = []
    with suppress(library.NVMLError):
        for index in range(library.nvmlDeviceGetCount()):
            with suppress(library.NVMLError):
                gpus.append(_gpu(library, library.nvmlDeviceGetHandleByIndex(index), is_ours))
    return gpus


def _gpu(library: Any, handle: Any, is_ours: IsOurs) -> Gpu:
    uuid = _text(library.nvmlDeviceGetUUID(handle))
    processes = library.nvmlDeviceGetComputeRunningProcesses(handle)
    foreign = sum(p.usedGpuMemory or 0 for p in processes if not is_ours(uuid, p.pid))
    return Gpu(
        uuid=uuid,
        memory_gb=round(library.nvmlDeviceGetMemoryInfo(handle).total / GIB, 3),
        name=_text(library.nvmlDeviceGetName(handle)),
        foreign_gb=round(foreign / GIB, 1),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
