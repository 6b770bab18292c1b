"""Backups: vzdump, and what a restore needs of an archive."""

from __future__ import annotations

from pathlib import Path

import msgspec

from corral.lab import store
from corral.lab.answers import Refused
from corral.lab.cluster import Config
from corral.lab.firewall import Firewall


class Carried(msgspec.Struct):
    """What an archive carries beside the files of the container."""

    config: Config
    firewall: Firewall


def restored(archive: Path) -> Carried:
    """What was saved with an archive."""
    carried = store.load(beside(archive, "conf"), Carried)
    if carried is None:
        raise Refused(f"unable to find a configuration in '{archive.name}'")
    return carried


def beside(archive: Path, kind: str) -> Path:
    """The file with the config, the notes or the protection of an archive."""
    return archive.with_name(f"{archive.name}.{kind}")
