"""The calls of the API, one file per noun; each registers its calls in the table `CALLS`.

A call gets typed parameters that fit the schema, from an actor who passed the declared check; what
else it must check is written beside it. It returns what stands under `data`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.lab.access import Actor
from corral.lab.cluster import Cluster, Container

Handler = Callable[["Call"], Any]

CALLS: dict[tuple[str, str], Handler] = {}


@dataclass(frozen=True)
class Call:
    """One request."""

    cluster: Cluster
    actor: Actor
    params: dict[str, Any]
    file: Path | None = None  # that was sent along

    def __getitem__(self, name: str) -> Any:
        return self.params[name]

    def get(self, name: str, default: Any = None) -> Any:
        """A parameter, or what stands for one that was not given."""
        return self.params.get(name, default)

    @property
    def node(self) -> str:
        """The node in the path."""
        return str(self.params["node"])

    @property
    def vmid(self) -> int:
        """The container in the path."""
        return int(self.params["vmid"])

    @property
    def container(self) -> Container:
        """The container in the path, which must be there."""
        return self.cluster.container(self.node, self.vmid)

    def may(self, path: str, *any_of: str) -> bool:
        """Whether the actor has one of some privileges on a path."""
        return self.cluster.access.may(self.actor, path, *any_of)

    def demand(self, path: str, *any_of: str) -> None:
        """Raise 403 unless the actor has one of some privileges."""
        self.cluster.access.demand(self.actor, path, *any_of)


def call(method: str, template: str) -> Callable[[Handler], Handler]:
    """Register a function as the answer to a call."""

    def register(function: Handler) -> Handler:
        assert (method, template) not in CALLS, template
        CALLS[method, template] = function
        return function

    return register


def index(template: str, *names: str, key: str = "name") -> None:
    """Register a call that lists what lies below it."""
    call("GET", template)(lambda _: [{key: name} for name in names])


def load() -> dict[tuple[str, str], Handler]:
    """All calls."""
    for noun in pkgutil.iter_modules(__path__):
        importlib.import_module(f"corral.lab.api.{noun.name}")
    return CALLS
