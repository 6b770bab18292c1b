"""What commands share: where the broker is, how to print, units, and ids that complete.

A command that is `connected` gets a client and an output; one that is `printed` an output alone.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from corral.cli.output import FORMATS, Output, counted

if TYPE_CHECKING:
    from corral.client import Client
    from corral.config import Loaded

F = TypeVar("F", bound=Callable[..., Any])

COMPLETION_PATIENCE = 1.0  # seconds that a shell waits for the broker when it completes an id


def loaded(flags: Mapping[str, Any] | None = None) -> Loaded:
    """The configuration, with the options that were given."""
    from corral import config

    given = {key: value for key, value in (flags or {}).items() if value is not None}
    return config.load(given, os.environ, Path.cwd(), Path.home())


def connect(broker: str | None, key: str | None, timeout: float | None = None) -> Client:
    """A client of the broker that options, environment and files name."""
    from corral.client import Client

    settings = loaded({"endpoints": broker, "key": key}).settings
    return Client(
        settings.endpoints,
        key=settings.key,
        timeout=settings.timeout if timeout is None else timeout,
        project=settings.project,
    )


def broker_options(function: F) -> F:
    """--broker and --key, as arguments of those names."""
    broker = click.option(
        "--broker", metavar="ENDPOINT[,ENDPOINT]", help="Default: CORRAL_BROKER, or the config."
    )
    key = click.option(
        "--key", metavar="FILE", type=click.Path(), help="Default: CORRAL_KEY, or the config."
    )
    return broker(key(function))


def _output_option(function: F) -> F:
    return click.option(
        "-o", "--output", type=click.Choice(FORMATS), help="Default: CORRAL_OUTPUT, or table."
    )(function)


def printed(function: F) -> Callable[..., Any]:
    """Give a command `-o`, and an `Output` as its first argument."""

    @_output_option
    @functools.wraps(function)
    def command(output: str | None, **rest: Any) -> Any:
        return function(Output(loaded({"output": output}).settings.output), **rest)

    return command


def connected(function: F) -> Callable[..., Any]:
    """Give a command `--broker`, `--key` and `-o`; a `Client` and an `Output` come first."""

    @broker_options
    @_output_option
    @functools.wraps(function)
    def command(broker: str | None, key: str | None, output: str | None, **rest: Any) -> Any:
        out = Output(loaded({"output": output}).settings.output)
        with connect(broker, key) as client:
            return function(client, out, **rest)

    return command


# --- values -----------------------------------------------------------------------------


class _Unit(click.ParamType[float]):
    """A number with its unit, read as the configuration reads it."""

    def __init__(self, name: str, parser: str) -> None:
        self.name = name
        self._parser = parser

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from corral import config

        if isinstance(value, float):
            return value
        try:
            return float(getattr(config, self._parser)(value))
        except ValueError as bad:
            self.fail(str(bad), param, ctx)


DURATION = _Unit("duration", "parse_duration")
GIB = _Unit("size", "parse_gib")


class _Pair(click.ParamType[tuple[str, str]]):
    """NAME=VALUE; with `bare`, a lone VALUE has the name ""."""

    name = "NAME=VALUE"

    def __init__(self, bare: bool = False) -> None:
        self._bare = bare

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals and self._bare:
            return "", value
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, text


PAIR = _Pair()
MAYBE_PAIR = _Pair(bare=True)


# --- completion -------------------------------------------------------------------------


def _ask(ctx: click.Context, ask: Callable[[Client], list[CompletionItem]]) -> list[CompletionItem]:
    """What a live broker offers; nothing when there is none."""
    broker, key = ctx.params.get("broker"), ctx.params.get("key")
    try:
        with connect(broker, key, timeout=COMPLETION_PATIENCE) as client:
            return ask(client)
    except Exception:  # whatever is wrong, a shell that completes must stay quiet
        return []


def complete_task(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Ids of tasks, newest first."""

    def ask(client: Client) -> list[CompletionItem]:
        newest = client.tasks(limit=200)
        now = time.time()
        return [
            CompletionItem(one.id, help=f"{one.kind} {one.state.value} {ago(now, one.submitted)}")
            for one in newest
            if one.id.startswith(begun)
        ]

    return _ask(ctx, ask)


def complete_worker(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of workers."""
    return _ask(
        ctx,
        lambda client: [
            CompletionItem(one.name, help=one.status)
            for one in client.workers()
            if one.name.startswith(begun)
        ],
    )


def complete_kind(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Kinds that some worker has announced."""
    return _ask(
        ctx,
        lambda client: [
            CompletionItem(one.kind, help=counted(one.workers, "worker"))
            for one in client.status().kinds
            if one.kind.startswith(begun)
        ],
    )


def ago(now: float, then: float) -> str:
    """How long ago, for people."""
    return f"{span(max(0.0, now - then))} ago"


def span(seconds: float) -> str:
    """A length of time, in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} m"
    return f"{hours // 24} d {hours % 24} h"
