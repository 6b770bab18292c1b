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


class Entry:
    """One kind and the means to judge params of it."""

    __slots__ = ("kind", "needs", "validator")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.needs: Needs = kind.needs or DEFAULT_NEEDS
        self.validator: Any = _validator(kind.schema)

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
                wrong = min(
                    self.validator.iter_errors(params),
                    key=lambda e: list(map(str, e.path)),
                    default=None,
                )
            except Exception as bad:  # a schema is its author's program: it may fail in any way
                why = f"the schema of the kind fails: {type(bad).__name__}: {bad}"[:300]
                raise BadParams(kind=spec.kind, path="params", why=why) from None
            if wrong is not None:
                raise BadParams(
                    kind=spec.kind,
                    path=".".join(map(str, wrong.path)) or "params",
                    why=wrong.message,
                )
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
    from jsonschema import Draft202012Validator, SchemaError  # costs 60 ms: only with a schema
    from referencing import Registry

    try:
        document = msgspec.json.decode(schema)
        Draft202012Validator.check_schema(document)
    except (msgspec.MsgspecError, ValueError, RecursionError, SchemaError):
        return None
    return Draft202012Validator(document, registry=Registry())  # what it refers to is not fetched


class Catalog:
    """Every kind that was ever announced."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def get(self, kind: str) -> Entry | None:
        """The entry of a kind; None when no worker has ever announced it."""
        return self.entries.get(kind)

    def extra(self, kind: str) -> str:
        """The extra without which its workers cannot run a kind; empty when it is not that."""
        entry = self.entries.get(kind)
        return "" if entry is None else entry.kind.extra

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
