"""`python -m corral.lab`: run a lab in the foreground, until SIGTERM; `corral lab` starts it.

The first start in a folder makes the lab: settings, certificate, tokens. Later starts find all as
it was. When it serves it writes lab.json, which tells where it is and how to get in.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from corral.lab import certificate, status, store
from corral.lab.access import ROOT, Entry, Token, User
from corral.lab.admin import Admin, boot
from corral.lab.cluster import Cluster, Pool
from corral.lab.dry import DryRuntime
from corral.lab.journal import Journal
from corral.lab.lxc import LxcRuntime
from corral.lab.runtime import Runtime, RuntimeFailed
from corral.lab.server import LARGEST, Door
from corral.lab.settings import Settings

POOL = "corral"
USER = "corral@pve"
OPEN = "open"  # a file that is there while more than the lab's folder may be
SHUTDOWN_SECONDS = 2.0
GOODBYE_SECONDS = 0.1  # for a connection to be closed by both sides

#: role -> its privileges: least privilege, as the docs give them for a real cluster
ROLES = {
    "CorralTemplate": "VM.Audit VM.Clone",
    "CorralFleet": "VM.Allocate VM.Audit VM.Backup VM.Config.CPU VM.Config.Disk VM.Config.Memory "
    "VM.Config.Network VM.Config.Options VM.Migrate VM.PowerMgmt Pool.Audit",
    "CorralStore": "Datastore.AllocateSpace",
    "CorralTarballs": "Datastore.AllocateTemplate",
    "CorralBackups": "Datastore.Allocate Datastore.Audit",
    "CorralNet": "SDN.Use",
    "CorralAudit": "Sys.Audit",
    "CorralInventory": "VM.Audit Pool.Audit",
}

#: token -> path and role, which its user needs too
GRANTS = {
    "deploy": (
        (f"/pool/{POOL}", "CorralFleet"),
        (f"/pool/{POOL}", "CorralTemplate"),
        ("/storage/local", "CorralStore"),
        ("/storage/local", "CorralTarballs"),
        ("/storage/local", "CorralBackups"),
        ("/storage/local-lvm", "CorralStore"),
        ("/sdn/zones/localnetwork/vmbr0", "CorralNet"),
        ("/nodes", "CorralAudit"),
    ),
    "inventory": (
        (f"/pool/{POOL}", "CorralInventory"),
        ("/nodes", "CorralAudit"),
    ),
}


class Lab(msgspec.Struct):
    """lab.json: where the lab is, and how to get in."""

    pid: int
    endpoint: str
    host: str
    port: int
    fingerprint: str
    ca_file: str
    folder: str
    nodes: list[str]
    pool: str
    root_password: str
    admin_token: str
    tokens: dict[str, dict[str, str]]  # name -> id and secret


def main() -> int:
    """Run it."""
    asked = _arguments()
    folder: Path = asked.data
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = store.load(folder / "settings.json", Settings)
    if settings is None:
        settings = msgspec.convert(msgspec.json.decode(asked.settings), Settings)
        store.save(folder / "settings.json", settings)
    if not _is_own(asked.host, settings):
        own = ", ".join(settings.bridges.values())
        print(f"{asked.host} is neither loopback nor a bridge of the lab ({own})", file=sys.stderr)
        return 2
    runtime = _runtime(folder, settings)
    try:
        if asked.sweep:
            runtime.close()
            (folder / OPEN).unlink(missing_ok=True)
        else:
            with _opened(runtime, folder / OPEN):
                asyncio.run(_serve(folder, settings, runtime, asked.host, asked.port))
    except RuntimeFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


@contextmanager
def _opened(runtime: Runtime, mark: Path) -> Iterator[None]:
    """Open it for a while; the mark stays where it could not be closed."""
    killed = mark.exists()
    mark.touch()
    try:
        runtime.open()
    except RuntimeFailed:
        if (
            not killed
        ):  # it has undone what it did, and what one that was killed left is still there
            mark.unlink()
        raise
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # to be told again is no reason to stop here
        runtime.close()
        mark.unlink()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m corral.lab", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the lab's state")
    parser.add_argument("--host", default="127.0.0.1", help="loopback, or the lab's own bridge")
    parser.add_argument("--port", type=int, default=0, help="0: the one it had, or any")
    parser.add_argument("--settings", default="{}", help="JSON; heeded by the first start only")
    parser.add_argument("--sweep", action="store_true", help="stop what a killed lab left running")
    return parser.parse_args()


def _is_own(host: str, settings: Settings) -> bool:
    """Whether nobody beyond this machine can reach that address."""
    address = ipaddress.ip_address(host)
    bridges = (ipaddress.ip_interface(bridge).ip for bridge in settings.bridges.values())
    return address.is_loopback or address in bridges


def _runtime(folder: Path, settings: Settings) -> Runtime:
    if settings.dry:
        return DryRuntime(folder)
    return LxcRuntime(folder, settings.bridges)


async def _serve(folder: Path, settings: Settings, runtime: Runtime, host: str, port: int) -> None:
    stopped = _stopped()
    cluster = Cluster(folder, settings, runtime)
    ca = certificate.ensure(folder, ["localhost", *settings.names], ["127.0.0.1", "::1", host])
    cluster.fingerprint = certificate.fingerprint(ca)
    old = store.load(folder / "lab.json", Lab)
    lab = old or _made(folder, cluster, ca)
    journal = Journal(folder / "requests.jsonl")
    admin = Admin(cluster, journal, lab.admin_token)
    application = web.Application(client_max_size=LARGEST, middlewares=[admin.guard])
    application.add_routes(admin.routes())
    application.router.add_route("*", "/{path:.*}", Door(cluster, journal).handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    assert runner.server is not None
    listener = await asyncio.get_running_loop().create_server(
        runner.server,
        host,
        port or lab.port,
        ssl=certificate.context(folder),
        ssl_shutdown_timeout=GOODBYE_SECONDS,
    )
    lab.host, lab.port = listener.sockets[0].getsockname()[:2]
    lab.endpoint, lab.pid = f"https://{lab.host}:{lab.port}", os.getpid()
    store.save(folder / "lab.json", lab)
    print(f"serving {lab.endpoint} from {folder}", flush=True)
    for node in settings.names:
        boot(cluster, node)
    await _until(stopped, cluster)
    listener.close()
    await runner.cleanup()
    await asyncio.to_thread(cluster.tasks.lose)
    await asyncio.sleep(2 * GOODBYE_SECONDS)


def _stopped() -> asyncio.Event:
    """What a signal sets."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


async def _until(stopped: asyncio.Event, cluster: Cluster) -> None:
    """Let the status daemon look now and then."""
    while not stopped.is_set():
        await asyncio.to_thread(status.look, cluster)
        try:
            async with asyncio.timeout(cluster.settings.statistics_seconds):
                await stopped.wait()
        except TimeoutError:
            continue


def _made(folder: Path, cluster: Cluster, ca: Path) -> Lab:
    """A fresh lab: who may get in, and the pools."""
    access = cluster.access
    cluster.kept.pools = {POOL: Pool("the fleet and its templates")}
    cluster.save()
    access.book.roles.update({name: has.split() for name, has in ROLES.items()})
    access.book.users[USER] = User(comment="Corral's automation")
    tokens = {"root": (ROOT, "lab", False)} | {name: (USER, name, True) for name in GRANTS}
    secrets_of = {
        key: {
            "id": f"{user}!{name}",
            "secret": access.new_token(user, name, Token("", privsep)),
        }
        for key, (user, name, privsep) in tokens.items()
    }
    granted = [
        Entry(path, kind, subject, role)
        for name, grants in GRANTS.items()
        for path, role in grants
        for kind, subject in (("user", USER), ("token", f"{USER}!{name}"))
    ]
    access.book.entries = list(dict.fromkeys(granted))
    password = secrets.token_urlsafe(12)
    access.set_password(ROOT, password)
    return Lab(
        pid=0,
        endpoint="",
        host="",
        port=0,
        fingerprint=cluster.fingerprint,
        ca_file=str(ca),
        folder=str(folder),
        nodes=cluster.settings.names,
        pool=POOL,
        root_password=password,
        admin_token=secrets.token_urlsafe(24),
        tokens=secrets_of,
    )


if __name__ == "__main__":
    raise SystemExit(main())
