"""JSON as the API speaks it: how what came over the wire is written, how a task is read.

The command line, its files of tasks and the gateway share this, so that one script reads and
writes them all. What the structs mean is told in `corral.messages` and `corral.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from corral.tasks import Retry, Task, Variant

# --- written ----------------------------------------------------------------------------


def encode(item: object) -> bytes:
    """Anything that came over the wire as JSON.

    MessagePack has more than JSON has; docs/reference/results.md tells what becomes of it.
    """
    try:
        return msgspec.json.encode(item)
    except TypeError:
        return msgspec.json.encode(_plain(msgspec.to_builtins(item, enc_hook=_extension)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else encode(key).decode(): _plain(item)
            for key, item in value.items()
        }
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


def _extension(value: Any) -> dict[str, Any]:
    return {"ext": value.code, "data": bytes(value.data)}


# --- read -------------------------------------------------------------------------------


def _as_object(struct: type[Struct], **other: Any) -> type[Struct]:
    """The same fields as a JSON object, each of which may be left out."""
    return msgspec.defstruct(
        f"{struct.__name__}Object",
        [
            (field.name, other.get(field.name, field.type), msgspec.UNSET)
            for field in msgspec.structs.fields(struct)
        ],
        forbid_unknown_fields=True,
        kw_only=True,
    )


#: On the wire these are arrays; as JSON a task has names for its fields.
VariantObject = _as_object(Variant)
RetryObject = _as_object(Retry)
TaskObject: Any = _as_object(
    Task,
    params=dict[str, Any],
    needs=list[VariantObject] | None,  # type: ignore[valid-type]  # made above
    retry=RetryObject | int | None,
)


def task_from(given: Any, base: Task) -> Task:
    """The task that a `TaskObject` describes; `base` has what it leaves out.

    Raises:
        NoKind: neither names a kind.
    """
    fields = _given(given)
    if not (fields.get("kind") or base.kind):
        raise NoKind
    fields["params"] = {**base.params, **fields.get("params", {})}
    if "needs" in fields:
        fields["needs"] = tuple(Variant(**_given(one)) for one in fields["needs"])
    if "retry" in fields:
        retry = fields["retry"]
        fields["retry"] = Retry(limit=retry) if isinstance(retry, int) else Retry(**_given(retry))
    return msgspec.structs.replace(base, **fields)


class NoKind(ValueError):
    """What should become a task does not say what to do."""


def _given(value: Any) -> dict[str, Any]:
    """The fields that are named; null is as good as nothing."""
    fields: Mapping[str, Any] = {name: getattr(value, name) for name in value.__struct_fields__}
    return {name: item for name, item in fields.items() if item not in (msgspec.UNSET, None)}
