"""From arguments and files to tasks: what a KEY=VALUE means, and what a line of a file may say."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import msgspec
from msgspec import Struct

from corral.errors import BadTask, CorralError, Usage
from corral.jsons import NoKind, TaskObject, task_from
from corral.tasks import Needs, Retry, Task

MOST = 100_000  # tasks in one submission


def value_of(text: str) -> Any:
    """The VALUE of KEY=VALUE: what it says as JSON when it is JSON, else the text itself.

    Raises:
        Usage: it is JSON that cannot be carried.
    """
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise Usage(what=f"{text[:20]}... is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as bad:
        if "out of range" in str(bad):
            raise Usage(
                what=f"{text[:40]} is out of range; put it in quotes to send text"
            ) from None
        return text


def params_of(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Params from KEY=VALUE; dots in a key make maps: `model.depth=3` is {"model": {"depth": 3}}.

    Raises:
        Usage: a key is given twice, has an empty part, or leads through what is no map.
    """
    params: dict[str, Any] = {}
    for key, text in pairs:
        *holders, last = key.split(".")
        place: Any = params
        for part in holders:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last in place or not all([*holders, last]):
            raise Usage(what=f"{key}={text} contradicts the key before it, or is no key")
        place[last] = value_of(text)
    return params


class Defaults(Struct, frozen=True, kw_only=True):
    """What arguments and options say; lines of a file go before it."""

    kind: str
    params: dict[str, Any]
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
            params=self.params,
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


class Lines(Struct, frozen=True):
    """The tasks of a file, and the line on which each stands."""

    file: str
    tasks: Sequence[Task]
    numbers: Sequence[int]

    def blame(self, error: CorralError) -> CorralError:
        """What the broker says of a task of the submission, said of its line."""
        lines = self.numbers

        def line(found: re.Match[str]) -> str:
            return f"line {lines[int(found[1])]}"

        fields = {
            key: _INDEX.sub(line, value) if isinstance(value, str) else value
            for key, value in error.fields.items()
        }
        told = type(error)(**fields)
        index: int | None = error.fields.get("index", 0 if len(self.tasks) == 1 else None)
        if index is not None:
            told.add_note(f"{self.file}:{self.numbers[index]}")
        return told


_INDEX = re.compile(r"tasks\[(\d+)\]")


def read_lines(file: IO[bytes], defaults: Defaults) -> Lines:
    """A task for each line of `file`; empty lines are passed over.

    Raises:
        BadTask: names file, line and field.
        Usage: it has more tasks than one submission may have, or none.
    """
    name = getattr(file, "name", "the file")
    found = list(_tasks_in(file, name, defaults.task()))
    if not found:
        raise Usage(what=f"{name} holds no task")
    if len(found) > MOST:
        what = f"{name} holds more than {MOST} tasks; split it, for each file is accepted whole"
        raise Usage(what=f"{what} or not at all")
    return Lines(name, [task for _, task in found], [number for number, _ in found])


def _tasks_in(file: IO[bytes], name: str, base: Task) -> Iterator[tuple[int, Task]]:
    decode = msgspec.json.Decoder(TaskObject).decode
    for number, line in enumerate(file, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not text.strip():
            continue
        try:
            yield number, task_from(decode(text), base)
        except RecursionError:
            raise BadTask(path=f"{name}:{number}", why="it is nested too deep") from None
        except NoKind:
            why = "it names no kind; name one in the line, or as KIND for all lines"
            raise BadTask(path=f"{name}:{number}", why=why) from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as bad:
            kind = "" if isinstance(bad, msgspec.ValidationError) else "it is no JSON: "
            why, _, path = f"{kind}{bad}".partition(" - at `$.")
            at = f"{name}:{number}" + (f": {path.rstrip('`')}" if path else "")
            raise BadTask(path=at, why=why) from None
