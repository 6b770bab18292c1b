"""Data on stdout: the same structs as a table for people, as json or jsonl for programs, as names.

The JSON is the API's own structs, complete, exact and stable. What a person reads is made of
`line`, `lines` and `talk`, which let nothing through that a terminal would obey. No command prints
in another way. What columns a table has is told beside the command; rich is imported when a table
is drawn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod, RenderableType
    from rich.text import Text

T = TypeVar("T")

FORMATS = ("table", "json", "jsonl", "name")
PIPED_WIDTH = 500  # columns when stdout is no terminal: nothing is cut off


class Output:
    """Prints data in the format that was asked for."""

    def __init__(self, format: str) -> None:
        self.format = format

    @property
    def for_people(self) -> bool:
        """Whether a person reads it."""
        return self.format == "table"

    def listing(
        self,
        items: Sequence[T],
        columns: Mapping[str, Callable[[T], Any]],
        name: Callable[[T], str],
        empty: str = "",
    ) -> None:
        """Print many things; `empty` is told on stderr when a person would see nothing."""
        if self.format == "json":
            click.echo(_pretty(items))
        elif self.format == "jsonl":
            for item in items:
                self._line(item)
        elif self.format == "name":
            for item in items:
                click.echo(name(item))
        elif items:
            console().print(table(items, columns))
        elif empty:
            talk(empty)

    def one(
        self, item: T, show: Callable[[T], RenderableType | str], name: Callable[[T], str]
    ) -> None:
        """Print one thing."""
        if self.format == "json":
            click.echo(_pretty(item))
        elif self.format == "jsonl":
            self._line(item)
        elif self.format == "name":
            click.echo(name(item))
        else:
            shown = show(item)
            if isinstance(shown, str):
                sys.stdout.write(visible(shown) + "\n")
            else:
                console().print(shown)

    def value(self, value: object) -> None:
        """Print a result for a person, who may pipe it: then text is exactly as it is."""
        text = value_text(value)
        sys.stdout.write((visible_lines(text) if sys.stdout.isatty() else text) + "\n")

    def _line(self, item: object) -> None:
        click.echo(_json(item))


def _pretty(item: object) -> bytes:
    import msgspec

    return msgspec.json.format(_json(item))


def _json(item: object) -> bytes:
    from corral.jsons import encode

    return encode(item)


def value_text(value: object) -> str:
    """A result for a person, who may pipe it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else _pretty(value).decode()


# --- for people -------------------------------------------------------------------------


def visible(text: str) -> str:
    """`text` as one line in which everything can be seen: ESC reads \\x1b, a new line \\n."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def counted(number: int, noun: str) -> str:
    """So many of something: 1 task, 2 tasks."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def visible_lines(text: str) -> str:
    """The same for text of several lines, such as a traceback, which stay lines."""
    return "\n".join(visible(one.expandtabs()) for one in text.split("\n"))


def line(*parts: str | tuple[str, str]) -> Text:
    """One line of a view, of texts and of (text, style)."""
    from rich.text import Text

    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((visible(text), style) for text, style in pairs))


def cell(value: object) -> Text:
    """One thing in a table: what is a `line` already, or any value as one."""
    from rich.text import Text

    return value if isinstance(value, Text) else line("" if value is None else str(value))


def lines(text: str, style: str = "") -> Text:
    """Several lines of a view."""
    from rich.text import Text

    return Text(visible_lines(text), style)


def console(err: bool = False) -> Console:
    """A console on stdout (or stderr) that cuts nothing off when it is no terminal."""
    from rich.console import Console

    class Printing(Console):
        def on_broken_pipe(self) -> None:
            raise  # what becomes of it is the root's affair, as for any other output

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Printing(file=stream, width=width, highlight=False, soft_wrap=False)


def table(
    items: Sequence[T], columns: Mapping[str, Callable[[T], Any]], title: str | None = None
) -> RenderableType:
    """A plain table. A column whose every cell is empty is left out; numbers stand right."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="dim", title=title, title_justify="left")
    cells = {head: [cell(item) for item in items] for head, cell in columns.items()}
    kept = {head: column for head, column in cells.items() if any(map(_filled, column))}
    for head, column in kept.items():
        right = all(isinstance(value, int | float) for value in column)
        justify: JustifyMethod = "right" if right else "left"
        drawn.add_column(head.upper(), justify=justify, overflow="fold", no_wrap=head == "id")
    for row in zip(*kept.values(), strict=True):
        drawn.add_row(*map(cell, row))
    return drawn


def _filled(value: object) -> bool:
    return value is not None and value != ""


def coloured(text: str, colour: str) -> str:
    """Text for `click.echo`, which leaves colours out off a terminal (https://no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def talk(*told: str, before: str = "") -> None:
    """Lines to the person at the terminal, on stderr; `before` the first stands a coloured word."""
    for text in told:
        click.echo(before + visible(text), err=True)
        before = ""
