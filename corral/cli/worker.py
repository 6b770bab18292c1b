"""`corral worker`: start, stop, status, list, drain, resume."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corral.cli.options import DURATION, broker_options, complete_worker, connect, connected
from corral.cli.output import Output, talk
from corral.cli.scripts import PASSED_ON, execute
from corral.errors import NotFound, TimedOut, Usage

if TYPE_CHECKING:
    from corral.client import Client
    from corral.messages import WorkerView

LOOK = 0.2  # seconds between looks at a worker that drains or stops

name_ = click.argument("name", shell_complete=complete_worker)


@click.group()
def worker() -> None:
    """Start, list, drain and resume workers."""


@worker.command(context_settings=PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def start(arguments: Sequence[str]) -> None:
    """Run a worker here until SIGTERM: corral-worker with the same options.

    \b
      corral worker start --broker tcp://127.0.0.1:5555 --name w1 --slots 2 --data DIR
    """
    execute("corral-worker", *arguments)


@worker.command()
@name_
@click.option("--data", type=click.Path(path_type=Path), help="Its folder, if it runs here.")
@click.option("--timeout", type=DURATION, default=60.0, help="How long to wait. Default: 60.")
@broker_options
def stop(name: str, data: Path | None, timeout: float, broker: str | None, key: str | None) -> None:
    """Let a worker finish, and end it.

    One that runs here, named by its --data, gets SIGTERM: it drains and leaves. Any other is
    drained through the broker, so that whatever started it can end it without losing work.
    """
    if data is not None:
        _stop_here(name, data, timeout)
        return
    with connect(broker, key) as client:
        client.drain(name, "stopped by corral worker stop")
        _wait_drained(client, name, timeout)
    talk(f"{name} is drained: it runs nothing and gets nothing. End its process where it runs.")


def _stop_here(name: str, data: Path, timeout: float) -> None:
    lock = data / "worker.lock"
    if not _locked(lock):
        raise NotFound(noun="worker", name=f"running in {data}")
    os.kill(int(lock.read_text()), signal.SIGTERM)
    until = time.monotonic() + timeout
    while _locked(lock):
        if time.monotonic() > until:
            raise TimedOut(what=f"Stopping worker {name}", seconds=timeout, id="last")
        time.sleep(LOOK)
    talk(f"{name} has stopped")


def _locked(lock: Path) -> bool:
    """Whether a worker holds the lock of its folder."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _find(client: Client, name: str) -> WorkerView:
    found = next((one for one in client.workers() if one.name == name), None)
    if found is None:
        raise NotFound(noun="worker", name=name)
    return found


@worker.command("list")
@connected
def list_(client: Client, out: Output) -> None:
    """List every worker in the registry."""
    from corral.cli.views import worker_columns

    out.listing(
        client.workers(),
        worker_columns(),
        lambda one: one.name,
        empty="No worker has registered. Start one: corral worker start --name w1 --data DIR",
    )


@worker.command()
@name_
@connected
def status(client: Client, out: Output, name: str) -> None:
    """Tell everything about one worker."""
    from corral.cli.views import worker_page

    out.one(_find(client, name), worker_page, lambda one: one.name)


@worker.command()
@name_
@click.option("--reason", default="", help="Shown to whoever asks why it is drained.")
@click.option("--deadline", type=DURATION, metavar="10m", help="Then let go by --policy.")
@click.option(
    "--policy",
    type=click.Choice(("wait", "requeue", "kill")),
    default="wait",
    show_default=True,
    help="What becomes of its tasks at the deadline.",
)
@click.option("--wait", is_flag=True, help="Return when it is drained.")
@click.option("--timeout", type=DURATION, metavar="10m", help="How long to wait.")
@connected
def drain(
    client: Client,
    out: Output,
    name: str,
    reason: str,
    deadline: float | None,
    policy: str,
    wait: bool,
    timeout: float | None,
) -> None:
    """Give a worker nothing new; it finishes what it runs, and is drained."""
    from corral.cli.views import worker_page

    if policy != "wait" and deadline is None:
        raise Usage(what=f"--policy {policy} needs a --deadline")
    client.drain(name, reason, deadline, policy)
    found = _wait_drained(client, name, timeout) if wait else _find(client, name)
    out.one(found, worker_page, lambda one: one.name)
    talk(f"{name} is {found.admission}; give it work again: corral worker resume {name}")


def _wait_drained(client: Client, name: str, timeout: float | None) -> WorkerView:
    began = time.monotonic()
    while (found := _find(client, name)).admission != "drained":
        if found.admission == "open":
            raise Usage(what=f"somebody gave worker {name} work again")
        if timeout is not None and time.monotonic() - began > timeout:
            task = found.tasks[0] if found.tasks else "last"
            raise TimedOut(what=f"Draining worker {name}", seconds=timeout, id=task)
        time.sleep(LOOK)
    return found


@worker.command()
@name_
@connected
def resume(client: Client, out: Output, name: str) -> None:
    """Give a drained or draining worker work again."""
    from corral.cli.views import worker_page

    client.resume(name)
    out.one(_find(client, name), worker_page, lambda one: one.name)
