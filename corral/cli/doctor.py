"""`corral doctor`: what is wrong with broker, workers and this machine, and what cures it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec import Struct

from corral.cli.options import ago, broker_options, loaded, span
from corral.cli.output import Output, line
from corral.errors import CorralError

if TYPE_CHECKING:
    from corral.client import Client
    from corral.config import Settings
    from corral.messages import BrokerView, WorkerView

Verdict = Literal["ok", "warn", "fail"]

CLOCK_SKEW = 5.0  # seconds that a worker's beat may seem to lie in the future, or the past
SLOW_FSYNC = 0.050  # seconds
SLOW_ANSWER = 0.250  # seconds
LITTLE_SPACE = 1 << 30  # bytes

#: extra -> module whose presence shows it, and what works only with it
EXTRAS = {
    "gpu": ("pynvml", "GPUs are not found by themselves; they can be declared with --gpu"),
    "research": ("torch", "the research kinds cannot run on this machine"),
}


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    verdict: Verdict
    found: str
    cure: str = ""


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder whose disk is tried. Default: this one.",
)
@broker_options
@click.option("-o", "--output", type=click.Choice(("table", "json", "jsonl", "name")))
def doctor(data: Path, broker: str | None, key: str | None, output: str | None) -> int:
    """Check broker, workers and this machine; says what cures what is wrong.

    Exit status: 0 when nothing failed, 5 when no broker answers, 1 for anything else.
    """
    flags = {"endpoints": broker, "key": key, "output": output}
    settings = loaded(flags).settings
    findings = [*_machine(data), *_fleet(settings)]
    Output(settings.output).listing(findings, COLUMNS, lambda one: one.check)
    failed = [one for one in findings if one.verdict == "fail"]
    if any(one.check == "broker" for one in failed):
        return 5
    return 1 if failed else 0


def _mark(finding: Finding) -> Any:
    return line(MARKS[finding.verdict])


MARKS = {"ok": ("✔ ok", "green"), "warn": ("! warn", "yellow"), "fail": ("✘ fail", "red")}
COLUMNS: dict[str, Callable[[Finding], Any]] = {
    "check": lambda one: one.check,
    "": _mark,
    "found": lambda one: one.found,
    "cure": lambda one: one.cure,
}


# --- this machine -----------------------------------------------------------------------


def _machine(data: Path) -> Iterator[Finding]:
    import platform
    from importlib.metadata import version

    yield Finding("corral", "ok", f"{version('corral')}, Python {platform.python_version()}")
    for extra, (module, without) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            cure = f"pip install 'corral[{extra}]'"
            yield Finding(f"extra {extra}", "warn", f"not installed: {without}", cure)
    yield _space(data)
    yield _fsync(data)


def _space(data: Path) -> Finding:
    there = next(path for path in (data.absolute(), *data.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / (1 << 30):.1f} GiB free at {there}"
    if free < LITTLE_SPACE:
        return Finding("disk", "fail", found, "free some space: a full disk refuses new tasks")
    return Finding("disk", "ok", found)


def _fsync(data: Path) -> Finding:
    """How long the disk takes for what every submission waits for."""
    there = next(path for path in (data.absolute(), *data.absolute().parents) if path.exists())
    taken = []
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            for _ in range(20):
                file.write(bytes(4096))
                file.flush()
                began = time.perf_counter()
                os.fdatasync(file.fileno())
                taken.append(time.perf_counter() - began)
    except OSError as bad:
        why = f"{there} cannot be written: {bad.strerror}"
        return Finding("fsync", "fail", why, "choose a --data folder that can be written")
    median = statistics.median(taken)
    found = f"{median * 1000:.2f} ms at {there}"
    if median > SLOW_FSYNC:
        return Finding("fsync", "warn", found, "keep the broker's --data on a faster disk")
    return Finding("fsync", "ok", found)


# --- the fleet --------------------------------------------------------------------------


def _fleet(settings: Settings) -> Iterator[Finding]:
    from corral.client import Client

    try:
        client = Client(settings.endpoints, key=settings.key, timeout=settings.timeout, project="")
    except CorralError as error:
        yield Finding("key", "fail", error.message, error.cure)
        return
    with client:
        try:
            began = time.perf_counter()
            broker = client.status()
            seconds = time.perf_counter() - began
            workers = client.workers()
        except CorralError as error:
            check = "broker" if error.exit_status == 5 else "key"
            yield Finding(check, "fail", error.message, error.cure)
            return
        yield from _broker(broker, seconds)
        yield from _workers(workers, broker.version)
        yield from _kinds(broker, client)


def _broker(broker: BrokerView, seconds: float) -> Iterator[Finding]:
    from importlib.metadata import version

    found = f"{broker.endpoint}, up {span(time.time() - broker.started)}, answers in "
    found += f"{seconds * 1000:.1f} ms"
    slow = seconds > SLOW_ANSWER
    cure = "see `corral top`: it may be busy, or the network slow" if slow else ""
    yield Finding("broker", "warn" if slow else "ok", found, cure)
    if broker.version != version("corral"):
        found = f"the broker has {broker.version}, this machine {version('corral')}"
        yield Finding("versions", "warn", found, "install the same version on both")
    if broker.store_full:
        cure = f"free space on the broker's disk, at {broker.data}"
        yield Finding("store", "fail", "full: it takes no new tasks", cure)
    if broker.refused:
        from corral.cli.views import counts_text

        cure = "the broker's log names the peers"
        yield Finding("refused", "warn", counts_text(broker.refused), cure)


def _workers(workers: list[WorkerView], version: str) -> Iterator[Finding]:
    now = time.time()
    if not workers:
        cure = "corral worker start --name w1 --slots 2 --data DIR"
        yield Finding("workers", "warn", "none has registered", cure)
        return
    silent = [one for one in workers if one.health != "live"]
    for one in silent:
        found = f"{one.status}, last seen {ago(now, one.seen)}"
        cure = "see whether its machine and process live; its tasks are queued again by themselves"
        yield Finding(f"worker {one.name}", "fail", found, cure)
    for one in workers:
        if one.admission != "open":
            why = f": {one.drain_reason}" if one.drain_reason else ""
            cure = f"corral worker resume {one.name}"
            yield Finding(f"worker {one.name}", "warn", f"{one.admission}{why}", cure)
    for one in workers:
        if (has := one.about.get("corral", version)) != version:
            found = f"it has {has}, the broker {version}"
            yield Finding(f"worker {one.name}", "warn", found, "install the same version on both")
    live = [one for one in workers if one.health == "live"]
    if live:
        yield Finding("workers", "ok", f"{len(live)} of {len(workers)} are live")
        skew = max(one.seen for one in live) - now
        if abs(skew) > CLOCK_SKEW:
            found = f"the broker's clock and this machine's differ by {span(abs(skew))}"
            yield Finding("clock", "warn", found, "set both by NTP")
        else:
            yield Finding("clock", "ok", "agrees with the broker's")


def _kinds(broker: BrokerView, client: Client) -> Iterator[Finding]:
    idle = [kind.kind for kind in broker.kinds if not kind.workers]
    if idle:
        found = f"no worker that is there serves {', '.join(idle)}"
        cure = "start one that has these handlers and what they import; its log says what it lacks"
        yield Finding("kinds", "warn", found, cure)
    elif broker.kinds:
        yield Finding("kinds", "ok", f"{len(broker.kinds)} are served")
    stuck = client.tasks(["queued"], limit=1)
    if stuck and not any(broker.tasks.get(state) for state in ("running", "retrying")):
        found = f"{broker.tasks.get('queued', 0)} are queued and none runs"
        cure = f"corral task explain {stuck[0].id}"
        yield Finding("queue", "warn", found, cure)
