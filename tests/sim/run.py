"""One simulated hour, judged: a report, or the seed and the story of what broke."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from typing import Any

from tests.sim.books import Violation
from tests.sim.checker import Checker
from tests.sim.history import Entry
from tests.sim.world import EVERY, Report, World

LAST = 30  # entries shown when nothing else is known to be concerned
MOST = 80  # entries of a story


class Broken(AssertionError):
    """An hour that went wrong. The text says how to see it again."""

    def __init__(self, world: World, what: str, story: Iterable[Entry]) -> None:
        lines = [
            what,
            f"again: python -m tests.sim {world.arguments}",
            *(_line(entry) for entry in story),
        ]
        super().__init__("\n".join(lines))
        self.what = what


def simulate(seed: int, hours: float = 1.0, strict: bool = True, every: float = EVERY) -> Report:
    """Run one world to its end.

    Args:
        strict: an exception of the broker ends the world; else it only kills the broker.
        every: seconds between two faults, on average.

    Raises:
        Broken: a promise was broken, or, when `strict`, the broker raised.
    """
    checker = Checker()
    world = World(seed, hours, checker.feed, strict, every)
    try:
        return world.run()
    except Violation as broken:
        raise Broken(world, str(broken), _story(world, broken.about)) from broken
    except Exception as error:
        what = "".join(traceback.format_exception(error)[-6:])
        about = re.findall(r"[0-9a-f]{20}|job-\d+", str(error))
        raise Broken(world, what, _story(world, about)) from error


def _story(world: World, about: list[Any]) -> list[Entry]:
    """The entries that concern what broke: the smallest history that shows it."""
    entries = world.history.entries
    if not about:
        return entries[-LAST:]
    words = [repr(one) for one in about]
    words += [
        repr(entry["token"])
        for entry in entries
        if entry["what"] in ("got", "start") and entry.get("id") in about
    ]
    found = [entry for entry in entries if any(word in repr(entry) for word in words)]
    return [_only(entry, words) for entry in found[-MOST:]]


def _only(entry: Entry, words: list[str]) -> Entry:
    """An entry without those of its parts that concern others."""
    if entry["what"] == "commit":
        facts = [fact for fact in entry["facts"] if any(word in repr(fact) for word in words)]
        return {"what": "commit", "at": entry["at"], "lsn": entry["lsn"], "facts": facts}
    return {
        name: [item for item in value if any(word in repr(item) for word in words)] or value[:1]
        if isinstance(value, list) and len(value) > 3
        else value
        for name, value in entry.items()
    }


def _line(entry: Entry) -> str:
    hidden = ("what", "at", "contacts")
    rest = ", ".join(f"{k}={v!r}" for k, v in entry.items() if k not in hidden)
    return f"{entry['at']:10.4f} {entry['what']:10} {rest}"[:600]
