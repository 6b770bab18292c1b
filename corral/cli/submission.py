"""From arguments and files to tasks: what a KEY=VALUE means, and what a line of a file may say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any

import msgspec
from msgspec import Struct

from corral.errors import BadTask
from corral.tasks import Needs, Retry, Task, Variant


def value_of(text: str) -> Any:
    """The VALUE of KEY=VALUE: what it says as JSON when it is JSON, else the text itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return text


class Defaults(Struct, frozen=True, kw_only=True):
    """What arguments and options say; lines of a file go before it."""

    kind: str
    params: dict[str, str]
    needs: Needs | None
    after: dict[str, str]
    priority: int
    retries: int | None
    run_limit: float | None
    queue_limit: float | None
    project: str
    name: str
    id: str | None

    def task(self) -> Task:
        """The task that the options alone describe."""
        return Task(
            kind=self.kind,
            params={key: value_of(text) for key, text in self.params.items()},
            after=self.after,
            needs=self.needs,
            priority=self.priority,
            project=self.project,
            id=self.id,
            retry=None if self.retries is None else Retry(limit=self.retries),
            run_limit=self.run_limit,
            queue_limit=self.queue_limit,
            name=self.name,
        )


def _as_object(struct: type[Struct], **other: Any) -> type[Struct]:
    """The same fields as a JSON object: on the wire these structs are arrays."""
    return msgspec.defstruct(
        f"{struct.__name__}Line",
        [
            (field.name, other.get(field.name, field.type), msgspec.UNSET)
            for field in msgspec.structs.fields(struct)
        ],
        forbid_unknown_fields=True,
        kw_only=True,
    )


_VariantLine = _as_object(Variant)
_RetryLine = _as_object(Retry)
_TaskLine: Any = _as_object(
    Task,
    params=dict[str, Any],
    needs=list[_VariantLine],  # type: ignore[valid-type]  # made above
    retry=_RetryLine | int,
)


def _given(line: Any) -> dict[str, Any]:
    """The fields that a line names."""
    fields = {name: getattr(line, name) for name in line.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


def read_lines(file: IO[bytes], defaults: Defaults) -> Iterator[Task]:
    """A task for each line of `file`; empty lines are passed over.

    Raises:
        BadTask: names file, line and field; tasks of earlier messages may have been accepted.
    """
    base = defaults.task()
    name = getattr(file, "name", "the file")
    decode = msgspec.json.Decoder(_TaskLine).decode
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            yield _merged(base, _given(decode(text)))
        except (msgspec.MsgspecError, UnicodeDecodeError, _NoKind) as bad:
            why, _, path = str(bad).partition(" - at `$.")
            at = f"{name}:{number}" + (f": {path.rstrip('`')}" if path else "")
            raise BadTask(path=at, why=why) from None


class _NoKind(ValueError):
    """Neither a line nor the command says what to do."""


def _merged(base: Task, line: Mapping[str, Any]) -> Task:
    if not (line.get("kind") or base.kind):
        raise _NoKind("it names no kind; name one in the line, or as KIND for all lines")
    given = dict(line)
    given["params"] = {**base.params, **given.get("params", {})}
    if "needs" in given:
        given["needs"] = tuple(Variant(**_given(one)) for one in given["needs"])
    if "retry" in given:
        retry = given["retry"]
        given["retry"] = Retry(limit=retry) if isinstance(retry, int) else Retry(**_given(retry))
    return msgspec.structs.replace(base, **given)
