"""The firewall file of a container: options, rules, aliases, IP sets. Kept, not enforced."""

from __future__ import annotations

from typing import Any

import msgspec


class Firewall(msgspec.Struct, omit_defaults=True):
    """What a clone inherits and a backup carries."""

    options: dict[str, Any] = {}
    rules: list[dict[str, Any]] = []
    aliases: dict[str, dict[str, Any]] = {}
    ipsets: dict[str, dict[str, Any]] = {}  # name -> comment, and cidr -> entry under `entries`
