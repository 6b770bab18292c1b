"""What a handler's author imports: `@handler`, the `Run` it is given, and how handlers are found.

A handler is a plain function `(params, run) -> result`. Params and result are msgspec structs (or
builtins); its module should import heavy libraries inside the function, because agents read every
handler's announcement at start. Running one lives in `worker.runner`; this file imports neither
zmq nor worker. The kinds `echo` and `sleep` are always there.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, get_type_hints

import msgspec

from corral.errors import CorralError, NotFound
from corral.messages import Kind
from corral.tasks import DEFAULT_NEEDS, Needs, Variant, force_gpu, needs, prefer_gpu

__all__ = [
    "Cancelled",
    "Checkpoint",
    "Handler",
    "Run",
    "discover",
    "force_gpu",
    "handler",
    "needs",
    "prefer_gpu",
]

GROUP = "corral.handlers"  #: the entry point group


class Cancelled(BaseException):
    """The task was cancelled, or its attempt must end: raised by `run.check_cancelled()`.

    A BaseException, so that `except Exception` in a training loop does not swallow it.
    """


class Checkpoint(Protocol):
    """State that outlives an attempt: the next one, on any worker, loads what was saved last."""

    def load(self) -> Any:
        """What was saved last, as builtins; None when nothing was."""

    def save(self, state: Any) -> None:
        """Keep `state` (a struct or builtins that msgpack can carry, at most 16 MiB packed)."""


class Run(Protocol):
    """What a handler sees of the attempt it serves."""

    @property
    def id(self) -> str:
        """The task's id."""

    @property
    def attempt(self) -> int:
        """1 for the first attempt of the task."""

    @property
    def parents(self) -> Mapping[str, Any]:
        """Name -> result of the parent that the task comes after, as builtins."""

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of the GPUs it holds; CUDA_VISIBLE_DEVICES names the same ones."""

    @property
    def cpus(self) -> float:
        """Cores it holds: the number of threads to use."""

    @property
    def workdir(self) -> Path:
        """A scratch folder of this attempt, removed after it."""

    @property
    def soft_limit(self) -> bool:
        """True once the run limit, or a drain, is near: checkpoint and return."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    def check_cancelled(self) -> None:
        """Raise `Cancelled` when the task was cancelled. Call it in every loop."""

    def progress(self, fraction: float, **metrics: float) -> None:
        """Tell watchers how far it is, 0 to 1, and figures such as `loss`."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and what workers announce about it."""

    kind: str
    function: Callable[[Any, Run], Any]
    needs: Needs
    content: bool  #: content identifies a task
    strategy: str
    never: tuple[str, ...]
    version: str
    data: Callable[[], str] | None
    frames: bool

    @property
    def params_type(self) -> Any:
        """The annotated type of `params`; Any when there is none."""
        first = next(iter(inspect.signature(self.function).parameters))
        return get_type_hints(self.function).get(first, Any)

    def announce(self) -> Kind:
        """What workers tell the broker about this kind."""
        params = self.params_type
        schema = "" if params is Any else msgspec.json.encode(msgspec.json.schema(params)).decode()
        return Kind(
            kind=self.kind,
            schema=schema,
            code_version=self.version or _source_digest(self.function),
            data_snapshot=self.data() if self.data else "",
            content=self.content,
            needs=self.needs,
            strategy=self.strategy,
            never=self.never,
            frames=self.frames,
        )


def _source_digest(function: Callable[..., Any]) -> str:
    """A version that changes with the source of the handler's module."""
    module = inspect.getmodule(function)
    source = inspect.getsource(module) if module else inspect.getsource(function)
    return hashlib.blake2b(source.encode(), digest_size=8).hexdigest()


Strategy = Literal["resource_aware", "least_loaded", "round_robin", "affinity"]


def handler(
    kind: str,
    *,
    needs: Needs = DEFAULT_NEEDS,
    identity: Literal["submit", "content"] = "submit",
    strategy: Strategy = "resource_aware",
    never: tuple[str, ...] = (),
    version: str = "",
    data: Callable[[], str] | None = None,
    frames: bool = False,
) -> Callable[[Callable[[Any, Run], Any]], Handler]:
    """Make a function the handler of `kind`.

    Args:
        kind: what the task does; equal to the entry point's name.
        needs: resources of one attempt, variants in order of preference.
        identity: `content` when equal params, parents, code and data mean the same task.
        strategy: how the broker picks among workers that fit.
        never: class names of errors that must not be retried.
        version: of the code; by default a digest of the module's source.
        data: gives a digest of the data the handler reads.
        frames: takes raw Majordomo frames (`list[bytes]`) of plain clients as params.
    """

    def wrap(function: Callable[[Any, Run], Any]) -> Handler:
        return Handler(
            kind, function, needs, identity == "content", strategy, never, version, data, frames
        )

    return wrap


def discover() -> dict[str, EntryPoint]:
    """Kind -> entry point of every installed handler. Nothing is imported."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def load(kind: str) -> Handler:
    """Import the handler of `kind`.

    Raises:
        NotFound: no installed distribution offers it.
        CorralError: the entry point names something that is no handler; says which distribution.
    """
    entry = discover().get(kind)
    if entry is None:
        raise NotFound(noun="handler", name=kind)
    found = getattr(importlib.import_module(entry.module), entry.attr, None)
    if not isinstance(found, Handler) or found.kind != kind:
        owner = entry.dist.name if entry.dist else "an unknown distribution"
        raise CorralError(what=f"{entry.value} of {owner} is not the handler of {kind}")
    return found


_WAITS: Needs = (Variant(cpus=0.0),)


@handler("echo", needs=_WAITS, version="1", frames=True)
def echo(params: Any, run: Run) -> Any:
    """Return the params."""
    return params


class Sleep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Params of `sleep`."""

    seconds: float = 1.0


@handler("sleep", needs=_WAITS, version="1")
def sleep(params: Sleep, run: Run) -> float:
    """Wait `seconds`, tell progress, and return how long it really was."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < params.seconds:
        run.check_cancelled()
        run.progress(passed / params.seconds)
        time.sleep(min(0.1, params.seconds - passed))
    return passed
