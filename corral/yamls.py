"""YAML as Corral reads it: the safe kind, whose every fault is a YAML error that knows its line.

What the values mean is their reader's matter: `corral.config`, `corral.research.document`.
"""

from __future__ import annotations

from typing import Any

import yaml

#: what PyYAML's own constructors let out of a value that they cannot make: `2020-13-45`, `!!int a`
_FAULTS = (ValueError, LookupError, AttributeError, TypeError, OverflowError)


class Loader(yaml.SafeLoader):
    """The safe loader."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """One value. Raises `yaml.MarkedYAMLError` where it cannot be made."""
        try:
            return super().construct_object(node, deep)
        except _FAULTS as fault:
            tag = node.tag.rpartition(":")[2]
            why = f"this is no {tag}: {fault}"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark) from fault
