"""What happened, as plain dicts in the order in which it happened: the checker's only input.

Clients write what they asked and were answered, workers what they really ran, the disk what became
durable. Every entry has `what` and `at`; `checker` says what else each has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from zlib import crc32

import msgspec

from broker.core.facts import decode_facts
from corral.messages import Kind
from corral.tasks import Needs, Spec
from tests.sim.engine import Engine

Entry = dict[str, Any]


class History:
    """The log. `see` is shown each entry as it comes."""

    def __init__(self, engine: Engine, see: Callable[[Entry], None]) -> None:
        self.engine = engine
        self.see = see
        self.entries: list[Entry] = []
        self.digest = 0  #: of what happened when: equal for equal seeds

    def log(self, what: str, **fields: Any) -> None:
        """Write down that this happens now."""
        entry = {"what": what, "at": self.engine.now, **fields}
        self.entries.append(entry)
        self.digest = crc32(f"{what}{self.engine.now}".encode(), self.digest)
        self.see(entry)


def plain_facts(entry: bytes, blobs: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """A row of the journal as the checker reads it, with the large values that it names."""
    facts = [dict(_fact(fact)) for fact in decode_facts(entry)]
    for fact in facts:
        if fact.get("blob"):
            fact["value"] = blobs.get(fact["blob"])
    return facts


def _fact(fact: Any) -> Iterator[tuple[str, Any]]:
    yield "fact", type(fact).__name__
    for field in fact.__struct_fields__:
        yield field, plain(getattr(fact, field))


def plain(value: Any) -> Any:
    """A value of the wire as builtins."""
    if isinstance(value, Spec):
        return plain_spec(value)
    if isinstance(value, Kind):
        return {"kind": value.kind, "needs": plain_needs(value.needs)}
    if isinstance(value, msgspec.Raw):
        return bytes(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    return value if value is None or isinstance(value, int | float | list) else _builtin(value)


def _builtin(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value  # an enum's plain value


def plain_spec(spec: Spec) -> dict[str, Any]:
    """A task as its author wrote it."""
    return {
        "kind": spec.kind,
        "params": msgspec.msgpack.decode(spec.params),
        "after": dict(spec.after),
        "needs": None if spec.needs is None else plain_needs(spec.needs),
        "priority": spec.priority,
        "project": spec.project,
        "retry": None if spec.retry is None else msgspec.structs.asdict(spec.retry),
        "run_limit": spec.run_limit,
        "queue_limit": spec.queue_limit,
        "caches": list(spec.caches),
    }


def plain_needs(needs: Needs) -> list[dict[str, Any]]:
    """Variants as dicts."""
    return [
        {
            "cpus": need.cpus,
            "memory_gb": need.memory_gb,
            "gpus": need.gpus,
            "gpu_memory_gb": need.gpu_memory_gb,
            "named": dict(need.named),
            "labels": dict(need.labels),
        }
        for need in needs
    ]
