"""JSON as the API speaks it: how what came over the wire is written, how a task is read.

The command line, its files of tasks and the gateway share this, so that one script reads and
writes them all. What the structs mean is told in `corral.messages` and `corral.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from corral.tasks import Retry, Task, Variant

# --- written ----------------------------------------------------------------------------


def encode(item: object) -> bytes:
    """Anything that came over the wire as JSON.

    MessagePack has more than JSON has; docs/reference/results.md tells what becomes of it.
    """
    item = _named(item)
    try:
        return msgspec.json.encode(item)
    except TypeError:
        return msgspec.json.encode(_plain(msgspec.to_builtins(item, enc_hook=_extension)))


def _named(item: object) -> object:
    if isinstance(item, list):
        return [*map(_named, item)]
    kind: Any = type(item)
    written = as_written(kind)
    if written is kind:
        return item
    return msgspec.convert(item, written, from_attributes=True)


@cache
def as_written(kind: Any) -> Any:
    """The type that `encode` writes for `kind`, for those who describe it.

    Some structs are arrays on the wire, where names cost; as JSON each has names for its fields,
    and all of them.
    """
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return reduce(or_, map(as_written, inner))
    if get_origin(kind) is Annotated:
        return Annotated[(as_written(inner[0]), *inner[1:])]
    if inner:
        return get_origin(kind)[tuple(map(as_written, inner))]
    if not (isinstance(kind, type) and issubclass(kind, Struct)):
        return kind
    fields = msgspec.structs.fields(kind)
    written = [as_written(field.type) for field in fields]
    if written == [field.type for field in fields] and not kind.__struct_config__.array_like:
        return kind
    return msgspec.defstruct(
        kind.__name__,
        [(field.name, type, *_default(field)) for field, type in zip(fields, written, strict=True)],
        module=kind.__module__,
        namespace={"__doc__": kind.__doc__},
        omit_defaults=kind.__struct_config__.omit_defaults
        and not kind.__struct_config__.array_like,
        kw_only=True,
    )


def _default(field: msgspec.structs.FieldInfo) -> tuple[Any, ...]:
    if field.default_factory is not msgspec.NODEFAULT:
        return (msgspec.field(default_factory=field.default_factory),)
    return () if field.required else (field.default,)


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
