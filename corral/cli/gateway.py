"""`corral gateway`: start, and the tokens that let people in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from corral.cli.options import loaded, printed
from corral.cli.output import Output, talk
from corral.cli.scripts import PASSED_ON, execute
from corral.errors import Usage

if TYPE_CHECKING:
    from corral.tokens import Token

F = TypeVar("F", bound=Callable[..., Any])

ROLES = ("viewer", "client", "operator")


@click.group()
def gateway() -> None:
    """Start the REST door, and make tokens for it."""


@gateway.command(context_settings=PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def start(arguments: Sequence[str]) -> None:
    """Serve REST and live state until SIGTERM.

    The options are those of corral-gateway start:

    \b
      corral gateway start --broker tcp://127.0.0.1:5555 --bind 127.0.0.1:8000
    """
    execute("corral-gateway", "start", *arguments)


@gateway.group()
def token() -> None:
    """Make tokens, list them, take access away.

    A viewer looks, a client also submits and cancels, an operator does everything. The table
    holds hashes: a token is shown once, when it is made.
    """


def _with_table(function: F) -> F:
    return click.option(
        "--tokens", metavar="FILE", type=click.Path(), help="The table. Default: the config's."
    )(function)


def _table(given: str | None) -> Path:
    path = loaded({"gateway.tokens": given}).settings.gateway.tokens
    if not path:
        raise Usage(what="say with --tokens, or as gateway.tokens, which file the table is")
    return Path(path)


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What its holder may do.")
@_with_table
def new(name: str, role: str, tokens: str | None) -> None:
    """Make a token for somebody.

    It is printed, and not shown again.
    """
    from corral import tokens as tables

    path = _table(tokens)
    click.echo(tables.new(path, name, role, time.time()))
    talk(
        f"{name} may come in as {role}. Give a gateway the table: --tokens {path}",
        "In a browser: open the gateway's address and sign in with it.",
    )


@token.command("list")
@printed
@_with_table
def list_(out: Output, tokens: str | None) -> None:
    """List the tokens of a table, revoked ones too."""
    from corral import tokens as tables

    _print(out, tables.table(_table(tokens)))


@token.command()
@click.argument("name")
@printed
@_with_table
def revoke(out: Output, name: str, tokens: str | None) -> None:
    """Take access from a token.

    A gateway that runs heeds it within a second.
    """
    from corral import tokens as tables

    _print(out, [tables.revoke(_table(tokens), name, time.time())])


def _print(out: Output, found: Sequence[Token]) -> None:
    from corral.cli.views import TOKEN_COLUMNS

    out.listing(
        found,
        TOKEN_COLUMNS,
        lambda one: one.name,
        empty="No tokens. Make one: corral gateway token new NAME --role operator",
    )
