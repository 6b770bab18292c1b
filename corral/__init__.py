"""What a user imports: `from corral import Client, Task`.

Lazy (PEP 562): a name is imported from its own module when it is first asked for, so that the core,
which imports `corral.tasks`, brings no socket library with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.client import AsyncClient, Client
    from corral.errors import CorralError
    from corral.tasks import Needs, State, Task

    __version__: str

# name -> the module that defines it
_HOMES = {
    "AsyncClient": "corral.client",
    "Client": "corral.client",
    "CorralError": "corral.errors",
    "Needs": "corral.tasks",
    "State": "corral.tasks",
    "Task": "corral.tasks",
}

__all__ = ["AsyncClient", "Client", "CorralError", "Needs", "State", "Task", "__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = importlib.import_module("importlib.metadata").version("corral")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'corral' has no attribute {name!r}")
    globals()[name] = value  # asked once
    return value


def __dir__() -> list[str]:
    return __all__
