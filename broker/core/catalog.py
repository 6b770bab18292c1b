"""The kinds that workers have announced: what they need, what params fit, what identifies a task.

What a kind does is a handler's affair (`corral.handlers`); which worker has it at present is in
the registry. The catalog only grows: a kind stays known when its last worker leaves.
"""

from __future__ import annotations

from typing import Any

import msgspec

from corral.errors import BadParams
from corral.messages import Kind
from corral.tasks import DEFAULT_NEEDS, Needs, Spec, content_id

MAX_KINDS = 10_000
MAX_TAKES = 500  # characters


class Entry:
    """One kind and the means to judge params of it."""

    __slots__ = ("kind", "needs", "takes", "validator")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.needs: Needs = kind.needs or DEFAULT_NEEDS
        self.validator: Any = _validator(kind.schema)
        self.takes = _takes(self.validator)  #: its params, in words

    def judge(self, spec: Spec) -> Any:
        """The params as builtins.

        Raises:
            BadParams: they do not fit the schema; names the path of the first field that is wrong.
        """
        try:
            params = msgspec.msgpack.decode(spec.params)
        except (msgspec.MsgspecError, ValueError, RecursionError) as bad:
            raise BadParams(kind=spec.kind, path="params", why=str(bad)) from None
        if self.validator is not None:
            try:
                wrong = min(self.validator.iter_errors(params), key=_where, default=None)
            except Exception as bad:  # a schema is its author's program: it may fail in any way
                why = f"the schema of the kind fails: {type(bad).__name__}: {bad}"[:300]
                raise BadParams(kind=spec.kind, path="params", why=why) from None
            if wrong is not None:
                path = ".".join(map(str, wrong.path)) or "params"
                why = f"{wrong.message}; {self.takes}" if self.takes else wrong.message
                raise BadParams(kind=spec.kind, path=path, why=why)
        return params

    def content_id(self, spec: Spec, params: Any) -> str:
        """The id of a task of this kind that its content identifies.

        Raises:
            BadParams: they hold what JSON cannot say, such as keys that are no text.
        """
        kind = self.kind
        try:
            return content_id(spec.kind, params, spec.after, kind.code_version, kind.data_snapshot)
        except (TypeError, ValueError, RecursionError) as bad:
            raise BadParams(kind=spec.kind, path="params", why=str(bad)) from None


def _validator(schema: str) -> Any:
    """A JSON Schema (draft 2020-12) validator; None when anything goes, or it is no schema."""
    if not schema:
        return None
    # Only with a schema: this costs 60 ms.
    from jsonschema import Draft202012Validator, SchemaError, validators
    from referencing import Registry

    try:
        document = msgspec.json.decode(schema)
        Draft202012Validator.check_schema(document)
    except (msgspec.MsgspecError, ValueError, RecursionError, SchemaError):
        return None
    # 1e9 is an integer to JSON Schema, but a handler that wants one is not given a float.
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    extend: Any = validators.extend  # which has no types
    strict = extend(Draft202012Validator, type_checker=checker)
    return strict(document, registry=Registry())  # what it refers to is not fetched


def _is_integer(checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _where(error: Any) -> list[str]:
    return list(map(str, error.path))


def _takes(validator: Any) -> str:
    """The params that a schema names, in words; empty when it names none."""
    schema = validator.schema if validator is not None else None
    if not isinstance(schema, dict):
        return ""
    definitions = schema.get("$defs")
    if isinstance(definitions, dict):  # msgspec's: a reference to the struct that it defines
        schema = definitions.get(str(schema.get("$ref")).removeprefix("#/$defs/"), schema)
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return ""
    names = [
        f"{name}={msgspec.json.encode(one['default']).decode()}"
        if isinstance(one, dict) and "default" in one
        else name
        for name, one in properties.items()
    ]
    return f"it takes {', '.join(names)}"[:MAX_TAKES]


class Catalog:
    """Every kind that was ever announced."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def get(self, kind: str) -> Entry | None:
        """The entry of a kind; None when no worker has ever announced it."""
        return self.entries.get(kind)

    def news(self, kind: Kind) -> bool:
        """Whether announcing `kind` would change anything."""
        entry = self.entries.get(kind.kind)
        if entry is None:
            return len(self.entries) < MAX_KINDS
        if kind.extra and not entry.kind.extra:
            return False  # who cannot run it knows less than those who can
        return entry.kind != kind

    def announce(self, kind: Kind) -> None:
        """Take `kind` in, or its newer code, data and needs."""
        self.entries[kind.kind] = Entry(kind)
