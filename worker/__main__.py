"""The command `corral-worker`: from options and configuration to a running agent.

What an agent does is in `worker.agent`; what each setting means, in `corral.config`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import random
import shutil
import socket
import sys
import time
import uuid
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import zmq

import corral
import worker
from corral import config, daemon, keys, wire
from corral.config import Settings
from corral.errors import CorralError, Usage
from corral.messages import Document, Gpu, Kind
from corral.settings import RESULT_LIMIT
from corral.tasks import is_name
from worker import announce, hardware
from worker.agent import Agent, size_of
from worker.children import Home
from worker.processes import agent_mark, kill_all, marked
from worker.session import Link

log = logging.getLogger("corral.worker")

MOST_ANNOUNCED = wire.MAX_DOCUMENT * 3 // 4  # bytes; the rest is for GPUs and tokens in flight
SWEEP = 5.0  # seconds for what an earlier agent left to die
EXTENSIONS = [
    "welcome", "cancel", "progress", "ack", "nack", "drain", "resources", "checkpoint", "assign",
    "results", "recall", "logs",
]  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--broker", metavar="ENDPOINT[,ENDPOINT]", help="Brokers, tried in this order.")
@click.option("--name", help="Stable over restarts, unique in the fleet. Default: the host's.")
@click.option("--slots", type=int, help="Attempts at once.")
@click.option("--data", type=click.Path(), help="Folder of logs, spool and scratch space.")
@click.option("--gpu", multiple=True, metavar="UUID=24GB", help="Declare a GPU. Repeatable.")
@click.option("--cpus", help="Cores to offer. Default: all that it may use.")
@click.option("--memory", metavar="8GB", help="Main memory to offer. Default: all of it.")
@click.option("--label", multiple=True, metavar="NAME=VALUE", help="For tasks to ask for.")
@click.option("--cache", multiple=True, metavar="NAME", help="Data that is at hand here.")
@click.option("--kinds", metavar="KIND[,KIND]", help="Handlers to serve. Default: all installed.")
@click.option("--key", type=click.Path(), help="Key file.")
@click.option("--grace", metavar="30s", help="At SIGTERM, until attempts are handed back.")
@click.option("--config", "file", type=click.Path(), help="Configuration file.")
def cli(file: str | None, **options: Any) -> None:
    """A Corral worker: it runs tasks of one machine until SIGTERM, which drains it."""
    settings = _settings(file, options)
    mine = settings.worker
    if not is_name(mine.name):
        raise Usage(what=f"{mine.name!r} cannot name a worker: 1 to 200 characters without space")
    folder = Path(mine.data).absolute()
    incarnation = uuid.uuid4().hex
    lock = _lock(folder)
    home = Home(folder, incarnation, RESULT_LIMIT)
    _sweep(folder)
    key = keys.read(Path(settings.key)) if settings.key else None
    found = announce.found(mine.kinds)
    for note in found.notes:
        log.warning("%s", note)
    document = _document(settings, incarnation, found.kinds)
    link = Link(settings.endpoints, key, random.random)
    declared = [Gpu(uuid, gb, "declared", declared=True) for uuid, gb in mine.gpus.items()]
    agent = Agent(
        document,
        link,
        home,
        partial(hardware.look, declared, mine.cpus or None, mine.memory_gb or None),
        mine.spool_after,
        mine.drain_deadline,
    )
    log.info(
        "worker %s, incarnation %s, %d slots, kinds %s, data in %s, broker %s",
        mine.name,
        incarnation[:8],
        mine.slots,
        " ".join(kind.kind for kind in found.kinds),
        folder,
        link.endpoint,
    )
    status = agent.run()
    os.close(lock)
    log.info("stopped")
    sys.exit(status)


def _settings(file: str | None, options: dict[str, Any]) -> Settings:
    """Settings from the options that were given, the environment and the files."""
    flags = {
        "endpoints": options["broker"],
        "key": options["key"],
        "worker.name": options["name"],
        "worker.slots": options["slots"],
        "worker.data": options["data"],
        "worker.cpus": options["cpus"],
        "worker.memory_gb": options["memory"],
        "worker.kinds": options["kinds"],
        "worker.drain_deadline": options["grace"],
        "worker.gpus": ",".join(options["gpu"]) or None,
        "worker.labels": ",".join(options["label"]) or None,
        "worker.caches": ",".join(options["cache"]) or None,
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


def _lock(folder: Path) -> int:
    """A lock that holds while this process lives.

    Raises:
        Usage: another agent works in this folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "worker.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as bad:
        raise Usage(what=f"the data folder {folder} cannot be written: {bad.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        other = os.read(lock, 20).decode(errors="replace")
        what = f"process {other} works in {folder} already; give each worker its own --data"
        raise Usage(what=what) from None
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def _sweep(folder: Path) -> None:
    """End what an earlier agent of this folder left running, and remove its scratch space."""
    if hang := kill_all(lambda: marked(agent_mark(folder), whole=False), SWEEP):
        what = f"processes {sorted(hang)} of an earlier worker in {folder} cannot be killed"
        raise CorralError(what=what)
    shutil.rmtree(folder / "work", ignore_errors=True)
    (folder / "work").mkdir()
    for catch in (folder / "logs").glob("child-*.log"):
        catch.unlink(missing_ok=True)


def _document(settings: Settings, incarnation: str, kinds: list[Kind]) -> Document:
    """What is announced, without what the machine has.

    Raises:
        Usage: there is nothing to announce, or too much.
    """
    mine = settings.worker
    if not any(not kind.extra for kind in kinds):
        raise Usage(what="no handler that is installed here can run")
    document = Document(
        name=mine.name,
        incarnation=incarnation,
        started=time.time(),
        kinds=kinds,
        slots=mine.slots,
        labels=mine.labels,
        caches=list(mine.caches),
        extensions=EXTENSIONS,
        about={
            "host": socket.gethostname(),
            "system": platform.platform(),
            "processor": hardware.processor(),
            "python": platform.python_version(),
            "corral": version("corral"),
            "libzmq": zmq.zmq_version(),
            "process": str(os.getpid()),
        },
    )
    if (size := size_of(document)) > MOST_ANNOUNCED:
        what = f"the announcement of {len(kinds)} kinds is {size} bytes, over {MOST_ANNOUNCED}"
        raise Usage(what=f"{what}; name fewer with --kinds")
    return document


def main() -> None:
    """Entry point of `corral-worker`."""
    daemon.run(cli, "corral-worker", Path(__file__).resolve().parents[1], worker, corral)


if __name__ == "__main__":
    main()
