"""Files in which the lab keeps its state: written whole, and never seen half-written.

A file is replaced by renaming, so a lab that is killed finds the old content or the new. That is
enough against the death of a process; nothing is promised for the loss of the machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def save(path: Path, value: Any, mode: int = 0o600) -> None:
    """Write a value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, msgspec.json.format(msgspec.json.encode(value), indent=1), mode)


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file's content."""
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
    beside.replace(path)


def load(path: Path, kind: type[T]) -> T | None:
    """The value that a file holds; None when there is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(content, type=kind)
