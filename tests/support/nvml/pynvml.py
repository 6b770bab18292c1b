"""A stand-in for NVIDIA's management library: it shows the GPUs that a JSON file describes.

With this folder on PYTHONPATH, and FAKE_NVML naming the file, a worker believes in them. The file
is a list of `{"uuid", "name", "gib", "used": {pid: GiB}}` and is read anew at every question.
"""
# ruff: noqa: N802 - the names are the library's own

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

GIB = 1 << 30


class NVMLError(Exception):
    """What the real library raises."""


def _cards() -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = json.loads(Path(os.environ["FAKE_NVML"]).read_text())
    return cards


def nvmlInit() -> None:
    if "FAKE_NVML" not in os.environ:
        raise NVMLError("no driver")


def nvmlDeviceGetCount() -> int:
    return len(_cards())


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetUUID(handle: int) -> str:
    uuid: str = _cards()[handle]["uuid"]
    if uuid == "lost":
        raise NVMLError("GPU is lost")
    return uuid


def nvmlDeviceGetName(handle: int) -> bytes:
    return str(_cards()[handle]["name"]).encode()


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=int(_cards()[handle]["gib"] * GIB))


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    used = _cards()[handle]["used"]
    return [
        SimpleNamespace(pid=int(pid), usedGpuMemory=int(gib * GIB)) for pid, gib in used.items()
    ]
