"""What a user imports: `from corral import Client, Task`.

Lazy (PEP 562): a name is imported from its own module when it is first asked for, so that the core,
which imports `corral.tasks`, brings no socket library with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.client import AsyncClient as AsyncClient
    from corral.client import Client as Client
    from corral.errors import BadParams as BadParams
    from corral.errors import BrokerUnreachable as BrokerUnreachable
    from corral.errors import CorralError as CorralError
    from corral.errors import NotFound as NotFound
    from corral.errors import TaskCancelled as TaskCancelled
    from corral.errors import TaskFailed as TaskFailed
    from corral.errors import TimedOut as TimedOut
    from corral.errors import UnknownKind as UnknownKind
    from corral.tasks import Needs as Needs
    from corral.tasks import Retry as Retry
    from corral.tasks import State as State
    from corral.tasks import Task as Task
    from corral.tasks import Variant as Variant
    from corral.tasks import force_gpu as force_gpu
    from corral.tasks import needs as needs
    from corral.tasks import prefer_gpu as prefer_gpu

    __version__: str

_ROOMS = {
    "corral.client": ("AsyncClient", "Client"),
    "corral.errors": (
        "BadParams",
        "BrokerUnreachable",
        "CorralError",
        "NotFound",
        "TaskCancelled",
        "TaskFailed",
        "TimedOut",
        "UnknownKind",
    ),
    "corral.tasks": (
        "Needs",
        "Retry",
        "State",
        "Task",
        "Variant",
        "force_gpu",
        "needs",
        "prefer_gpu",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        value = importlib.import_module("importlib.metadata").version("corral")
    elif name in _ROOM_OF:
        value = getattr(importlib.import_module(_ROOM_OF[name]), name)
    else:
        raise AttributeError(f"module 'corral' has no attribute {name!r}")
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted([*_ROOM_OF, "__version__"])
