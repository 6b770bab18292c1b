"""The command `corral-broker`: build the parts, join them, serve; or look after a store offline.

Options and messages live here; what a broker does, in `broker.server`.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import click
import msgspec
import zmq

import broker
import corral
from broker import auth
from broker.backup import offline
from broker.keeper import Keeper
from broker.server import Server
from broker.store import fsck as store_fsck
from broker.store.sqlite import SqliteStore
from corral import config, daemon
from corral.errors import CorralError, Usage
from corral.settings import BrokerSettings
from corral.systemd import Systemd

log = logging.getLogger("corral.broker")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The Corral broker."""


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the store.")
@click.option("--bind", default="tcp://127.0.0.1:5555", show_default=True, help="Address.")
@click.option("--keys", type=click.Path(path_type=Path), help="Folder of the keys.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Configuration file.")
def start(data: Path, bind: str, keys: Path | None, file: Path | None) -> None:
    """Serve until SIGTERM."""
    if not config.is_endpoint(bind.removesuffix("*") + "0" if bind.endswith(":*") else bind):
        raise Usage(what=f"--bind {bind!r} is no endpoint; write tcp://HOST:PORT")
    settings = _settings(file)
    # Each peer is an open file, and a shell commonly allows 1024 unless it is asked for more.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    store = SqliteStore(data)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    gate = None
    if keys is None:
        auth.require_keys([bind])
    epoch = store.lead(f"{socket.gethostname()}:{os.getpid()}")
    for note in store.notes:
        log.warning("%s", note)
    if keys is not None:
        gate = auth.Gate(context, keys)
        gate.start()
    try:
        server = Server(settings, bind, store, data, gate, context)
    except CorralError:
        store.close()
        raise
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    # The broker's state holds no cycles, and a collector that walks a million tasks would stop it.
    gc.freeze()
    gc.disable()
    unfinished = server.state.unfinished
    log.info(
        "serving %s from %s, epoch %d, %d unfinished tasks",
        server.endpoint,
        data,
        epoch,
        unfinished,
    )
    systemd = Systemd()
    systemd.tell(READY=1, STATUS=f"serving {server.endpoint}, epoch {epoch}")
    server.run(systemd.turned)
    systemd.tell(STOPPING=1)
    server.close()
    if gate is not None:
        gate.stop()
    context.destroy(linger=0)
    log.info("stopped")


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the store.")
def fsck(data: Path) -> None:
    """Check a store that no broker leads: damage, gaps, and whether replay agrees."""
    findings = store_fsck.fsck(data, lambda store: Keeper(store, BrokerSettings()).audit())
    for finding in findings:
        click.echo(f"{finding.part} {finding.name}: {finding.why}")
        click.echo(f"  {finding.cure}", err=True)
    if findings:
        sys.exit(1)
    click.echo(f"{data}: whole", err=True)


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the store.")
@click.argument("target", required=False, default="")
def backup(data: Path, target: str) -> None:
    """Copy the store of a stopped broker to the new folder TARGET; print what was made, as JSON.

    Without TARGET the copy is one of the folder `backups` in --data.
    """
    click.echo(msgspec.json.encode(offline(data, target)))


def _settings(file: Path | None) -> BrokerSettings:
    environment = dict(os.environ)
    if file is not None:
        environment["CORRAL_CONFIG"] = str(file)
    return config.load({}, environment, Path.cwd(), Path.home()).settings.broker


def main() -> None:
    """Entry point of `corral-broker`."""
    daemon.run(cli, "corral-broker", Path(__file__).resolve().parents[1], broker, corral)


if __name__ == "__main__":
    main()
