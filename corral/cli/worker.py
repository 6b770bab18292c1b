"""`corral worker`: start, stop, status, list, drain, resume."""

from __future__ import annotations

import fcntl
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corral.cli.options import DURATION, broker_options, complete_worker, connect, connected
from corral.cli.output import Output, talk
from corral.cli.root import Noun
from corral.cli.scripts import PASSED_ON, execute
from corral.errors import CorralError, NotFound, Usage

if TYPE_CHECKING:
    from corral.client import Client
    from corral.messages import WorkerView

LOOK = 0.2  # seconds between looks at a worker that drains or stops


class StillBusy(CorralError):
    """Worker {name} was not done after {seconds} s; it takes nothing new and goes on.

    `corral worker list` shows what it runs; `corral worker resume` gives it work again.
    """

    code = "still_busy"
    exit_status = 7


name_ = click.argument("name", shell_complete=complete_worker)


@click.group(cls=Noun)
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
@click.argument("name", required=False, shell_complete=complete_worker)
@click.option("--data", type=click.Path(path_type=Path), help="Its folder, if it runs here.")
@click.option("--timeout", type=DURATION, default=60.0, help="How long to wait. Default: 60.")
@broker_options
def stop(
    name: str | None, data: Path | None, timeout: float, broker: str | None, key: str | None
) -> None:
    """End a worker without losing work.

    One that runs on this machine, given by NAME or by its --data, gets SIGTERM: it takes nothing
    new, hands back what does not end within its --grace, and leaves. Any other is drained, so that
    whatever started it can end it.
    """
    if data is not None:
        _end(_holder(data), name or f"the worker in {data}", timeout)
        return
    if name is None:
        raise click.UsageError("Say which worker: its NAME, or its --data if it runs here.")
    with connect(broker, key) as client:
        found = _find(client, name)
        pid = _here(found)
        if pid is None:
            client.drain(name, "stopped by corral worker stop")
            _wait_drained(client, name, timeout)
            where = found.about.get("host", "another machine")
            talk(f"{name} is drained: it runs nothing and gets nothing. End it on {where}.")
            return
    _end(pid, name, timeout)


def _holder(data: Path) -> int:
    """The process that works in a folder."""
    lock = data / "worker.lock"
    if not _locked(lock):
        raise NotFound(noun="worker", name=f"running in {data}")
    return int(lock.read_text())


def _here(worker: WorkerView) -> int | None:
    """The worker's process when it runs on this machine; None elsewhere, or when in doubt."""
    import psutil

    pid = int(worker.about.get("process", "0"))
    if worker.about.get("host") != socket.gethostname() or not pid:
        return None
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return None
    ours = any(Path(word).name == "corral-worker" for word in command[:3])
    return pid if ours and (worker.name in command or worker.name == socket.gethostname()) else None


def _end(pid: int, who: str, timeout: float) -> None:
    import psutil

    process = psutil.Process(pid)
    process.terminate()
    until = time.monotonic() + timeout
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > until:
            raise StillBusy(name=who, seconds=timeout)
        time.sleep(LOOK)
    talk(f"{who} has stopped")


def _locked(lock: Path) -> bool:
    """Whether a worker holds the lock of its folder."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
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
            raise StillBusy(name=name, seconds=timeout)
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
