"""The command `corral-gateway`: from options and configuration to a running gateway.

What it answers is told in `corral.gateway.app`; what each setting means, in `corral.config`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import corral
from corral import config, daemon, keys
from corral.config import Settings
from corral.errors import CorralError, MissingExtra, Usage

log = logging.getLogger("corral.gateway")

BACKLOG = 512


class TokensRequired(CorralError):
    """The gateway would listen beyond this machine at {address} without tokens.

    Make one with `corral gateway token new NAME --role operator --tokens FILE`, and start the
    gateway with --tokens FILE.
    """

    code = "tokens_required"
    exit_status = 2


class PortTaken(CorralError):
    """The gateway cannot listen at {address}: {why}

    Something else listens there, perhaps another gateway; choose another --bind.
    """

    code = "port_taken"
    exit_status = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The Corral gateway: REST and live state over HTTP."""


@cli.command()
@click.option("--broker", metavar="ENDPOINT[,ENDPOINT]", help="Brokers, tried in this order.")
@click.option("--key", type=click.Path(), help="Key file: a viewer's, or an operator's to act.")
@click.option("--bind", metavar="HOST:PORT", help="Address. Default: 127.0.0.1:8000.")
@click.option("--host", "hosts", multiple=True, help="A name that it goes by. Repeatable.")
@click.option("--tokens", type=click.Path(), help="Table of bearer tokens.")
@click.option("--audit", type=click.Path(), help="File for a line per action. Default: stderr.")
@click.option("--history", type=click.Path(), help="File that remembers what was.")
@click.option("--expect", type=click.Path(), help="File of the workers that ought to be there.")
@click.option("--config", "file", type=click.Path(), help="Configuration file.")
def start(file: str | None, **options: Any) -> None:
    """Serve until SIGTERM.

    Without --tokens whoever can reach the port may do everything, so it must be on loopback.
    """
    try:
        from corral.gateway.serving import serve
    except ModuleNotFoundError as missing:
        raise MissingExtra(module=missing.name, extra="gateway") from None

    settings = _settings(file, options)
    mine = settings.gateway
    host, port = _address(mine.bind)
    if not mine.tokens and keys.beyond_loopback(f"tcp://{mine.bind}"):
        raise TokensRequired(address=mine.bind)
    with _bound(host, port) as listening, _audit(mine.audit) as audit:
        asyncio.run(serve(settings, listening, host, audit))
    log.info("stopped")


def _settings(file: str | None, options: dict[str, Any]) -> Settings:
    """Settings from the options that were given, the environment and the files."""
    flags = {
        "endpoints": options["broker"],
        "key": options["key"],
        "gateway.bind": options["bind"],
        "gateway.hosts": ",".join(options["hosts"]) or None,
        "gateway.tokens": options["tokens"],
        "gateway.audit": options["audit"],
        "gateway.history": options["history"],
        "gateway.expect": options["expect"],
    }
    environment = dict(os.environ)
    if file is not None:
        environment["CORRAL_CONFIG"] = file
    # An empty option is none, as of a variable that is not set; but no key is a choice of its own.
    given = {
        key: value
        for key, value in flags.items()
        if value is not None and (value != "" or key == "key")
    }
    return config.load(given, environment, Path.cwd(), Path.home()).settings


def _address(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise Usage(what=f"{bind!r} is no address to listen at; write HOST:PORT")
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens."""
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with listening:
            listening.bind(address)
            listening.listen(BACKLOG)
            yield listening
    except OSError as bad:
        raise PortTaken(address=f"{host}:{port}", why=bad.strerror or bad) from None


@contextlib.contextmanager
def _audit(path: str) -> Iterator[Callable[[bytes], None]]:
    """Where a line for each action goes."""
    if not path:
        yield lambda line: log.info("audit %s", line.decode())
        return
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    except OSError as bad:
        raise Usage(what=f"the audit file {path} cannot be written: {bad.strerror}") from None
    try:
        yield lambda line: _append(handle, path, line)
    finally:
        os.close(handle)


def _append(handle: int, path: str, line: bytes) -> None:
    try:
        os.write(handle, line + b"\n")
    except OSError as bad:  # a full disk must not take the line along
        log.error("audit file %s: %s: %s", path, bad.strerror, line.decode())


def main() -> None:
    """Entry point of `corral-gateway`."""
    daemon.run(cli, "corral-gateway", Path(__file__).resolve().parents[2], corral)


if __name__ == "__main__":
    main()
