"""`corral lab`: a Proxmox-like cluster on this machine.

The lab runs in a process of its own, which outlives the command; all it keeps is in one folder. A
command finds it by the file lab.json there and speaks to it over HTTPS, as any client would.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from corral.cli.options import printed
from corral.cli.output import Output, lines, talk
from corral.cli.root import Noun
from corral.errors import CorralError

if TYPE_CHECKING:
    from rich.console import RenderableType

F = TypeVar("F", bound=Callable[..., Any])

START_SECONDS = 60.0
STOP_SECONDS = 120.0  # all containers have to end
LOOK = 0.05
OPEN = "open"  # the lab's own file: more than its folder may be there
FAULTS = ("answer", "fail", "lose", "hold", "slow", "full", "node", "lock")


class LabDown(CorralError):
    """No lab runs in {folder}.

    Start it with `corral lab up --data {folder}`.
    """

    code = "lab_down"


class LabFailed(CorralError):
    """The lab did not start. Its last words: {words}

    Correct what it names, then `corral lab up` again.
    """

    code = "lab_failed"


class LabStays(CorralError):
    """The lab in {folder} did not end: {reason}. Its folder is still there.

    Correct what that names, then `corral lab down` again.
    """

    code = "lab_stays"


class LabRefused(CorralError):
    """The lab refused: {reason}

    `corral lab status` shows what there is, `corral lab fault --help` what can be set.
    """

    code = "lab_refused"


def _folder() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/corral/lab")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(state) / "corral/lab"


def _in_folder(function: F) -> F:
    return click.option(
        "--data", type=click.Path(path_type=Path), envvar="CORRAL_LAB", default=_folder,
        help="Folder of the lab. Default: CORRAL_LAB, or /var/lib/corral/lab.",
    )(function)  # fmt: skip


@click.group(cls=Noun)
def lab() -> None:
    """Run a Proxmox-like cluster on this machine: the API of Proxmox VE over LXC containers."""


@lab.command()
@_in_folder
@click.option("--nodes", type=click.IntRange(1, 99), default=3, show_default=True)
@click.option("--cores", type=click.IntRange(1), help="Of each node.")
@click.option("--memory", type=click.IntRange(1), help="Of each node, in GiB.")
@click.option("--dry", is_flag=True, help="No containers behind the API; needs no privileges.")
@click.option("--host", default="127.0.0.1", help="Loopback, or the address of its own bridge.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: chosen by the system.")
@click.option("--set", "more", multiple=True, metavar="NAME=JSON", help="Another setting.")
@printed
def up(
    output: Output,
    data: Path,
    nodes: int,
    cores: int | None,
    memory: int | None,
    dry: bool,
    host: str,
    port: int,
    more: tuple[str, ...],
) -> None:
    """Make a lab, or start the one that is there, and print how to get in."""
    found = _find(data)
    if found is None:
        given = {"nodes": nodes, "cores": cores, "memory_gb": memory, "dry": dry}
        settings = {key: value for key, value in given.items() if value is not None}
        for pair in more:
            name, _, value = pair.partition("=")
            settings[name] = json.loads(value)
        found = _start(data, host, port, settings)
    output.one(found, _told, lambda lab: str(lab["endpoint"]))


@lab.command()
@_in_folder
def down(data: Path) -> None:
    """Stop the lab and remove everything that it made."""
    _stop(data)
    _remove(data)
    talk(f"the lab in {data} is gone")


@lab.command()
@_in_folder
@printed
def reset(output: Output, data: Path) -> None:
    """Make the lab new, with the settings it had: other tokens, no containers."""
    settings = _read(data / "settings.json")
    known = _read(data / "lab.json")
    if settings is None or known is None:
        raise LabDown(folder=str(data))
    _stop(data)
    _remove(data)
    output.one(
        _start(data, known["host"], known["port"], settings),
        _told,
        lambda lab: str(lab["endpoint"]),
    )


@lab.command()
@_in_folder
@printed
def status(output: Output, data: Path) -> None:
    """Show whether the lab runs, and what there is."""
    found = _running(data)
    state = _ask(found, "GET", "/lab")
    output.one(found | state, _state_told, lambda lab: str(lab["endpoint"]))


@lab.command()
@_in_folder
@click.option("--since", type=int, default=0, help="Only those after this one.")
@click.option("--mark", metavar="NAME", help="Write a mark into the log, and print it.")
@printed
def requests(output: Output, data: Path, since: int, mark: str | None) -> None:
    """Show the requests that the lab has answered."""
    found = _running(data)
    if mark is not None:
        entries = [_ask(found, "POST", f"/lab/requests/marks/{mark}")]
    else:
        entries = _ask(found, "GET", f"/lab/requests?since={since}")
    names = ("number", "method", "path", "actor", "status", "seconds", "mark")
    columns: dict[str, Callable[[Any], Any]] = {name: _field(name) for name in names}
    output.listing(
        entries,
        columns,
        lambda entry: str(entry["number"]),
        empty="no requests yet",
    )


def _field(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: entry.get(name, "")


# --- faults ----------------------------------------------------------------------------------


@lab.group(cls=Noun)
def fault() -> None:
    """Let something go wrong, and right again."""


@fault.command("set")
@click.argument("kind", type=click.Choice(FAULTS))
@click.option("--count", type=click.IntRange(1), help="How often; default: until cleared.")
@click.option("--vmid", type=int, help="The task's container, or the one to lock.")
@click.option("--node", help="The node, or a pattern.")
@click.option("--task", help="Type of the tasks, or a pattern: vzclone, vzstart, ...")
@click.option("--after", type=float, help="Seconds into the task.")
@click.option("--storage", help="The storage, or a pattern.")
@click.option("--seconds", type=float, help="That a slow storage takes.")
@click.option("--method", help="Of the calls to answer.")
@click.option("--path", help="Of the calls to answer, a pattern: /nodes/*/lxc")
@click.option("--status", type=int, help="To answer with; default: 595.")
@click.option("--text", help="The error to tell.")
@click.option("--lock", help="Name of the lock; default: backup.")
@_in_folder
@printed
def set_fault(output: Output, data: Path, **given: Any) -> None:
    """Set a fault.

    \b
    answer  calls (--method, --path) are answered with --status
    fail    tasks (--task, --vmid) fail --after seconds, and clean up
    lose    the worker of tasks dies --after seconds; locks stay
    hold    tasks stand still
    slow    operations on --storage take --seconds longer
    full    nothing more fits on --storage
    node    --node is down
    lock    --vmid keeps a --lock
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    made = _ask(_running(data), "POST", "/lab/faults", wanted)
    output.one(made, _fault_told, lambda fault: str(fault["id"]))


@fault.command("list")
@_in_folder
@printed
def list_faults(output: Output, data: Path) -> None:
    """Show the faults that are set."""
    found = _ask(_running(data), "GET", "/lab/faults")
    columns: dict[str, Callable[[Any], Any]] = {
        "id": lambda fault: fault["id"],
        "fault": _fault_told,
    }
    output.listing(found, columns, lambda fault: str(fault["id"]), empty="no faults are set")


@fault.command("clear")
@click.argument("ids", nargs=-1, type=int)
@_in_folder
def clear_faults(data: Path, ids: tuple[int, ...]) -> None:
    """Clear faults by id, or all: locks are released, nodes come back."""
    found = _running(data)
    gone = [
        fault
        for path in [f"/lab/faults/{id}" for id in ids] or ["/lab/faults"]
        for fault in _ask(found, "DELETE", path)
    ]
    talk(f"cleared {len(gone)}")


@fault.command("unlock")
@click.argument("vmid", type=int)
@_in_folder
def unlock(data: Path, vmid: int) -> None:
    """Remove a lock that a lost worker left, as `pct unlock` does."""
    _ask(_running(data), "POST", f"/lab/containers/{vmid}/unlock")
    talk(f"{vmid} is unlocked")


def _fault_told(fault: dict[str, Any]) -> str:
    rest = [f"{key}={value}" for key, value in fault.items() if key not in ("id", "kind")]
    return " ".join([fault["kind"], *rest])


# --- the process -----------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return found


def _find(folder: Path) -> dict[str, Any] | None:
    """The lab that runs in a folder."""
    known = _read(folder / "lab.json")
    if known is None or not _alive(known["pid"], folder):
        return None
    return known


def _running(folder: Path) -> dict[str, Any]:
    found = _find(folder)
    if found is None:
        raise LabDown(folder=str(folder))
    return found


def _alive(pid: int, folder: Path) -> bool:
    """Whether that process is there, and is a lab of that folder."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "corral.lab" in words and str(folder.resolve()) in words


def _command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "corral.lab", "--data", str(folder.resolve()), *more]


def _start(folder: Path, host: str, port: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Start the process, detached, and wait until it serves."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    words = folder / "lab.log"
    with words.open("ab") as log:
        began = log.tell()
        process = subprocess.Popen(
            _command(
                folder, "--host", host, "--port", str(port), "--settings", json.dumps(settings)
            ),
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        known = _read(folder / "lab.json")
        if known is not None and known["pid"] == process.pid:
            return known
        if process.poll() is not None:
            break
        time.sleep(LOOK)
    process.kill()
    process.wait()
    raise LabFailed(words=words.read_bytes()[began:].decode(errors="replace").strip() or "none")


def _stop(folder: Path) -> None:
    """End the process, and what it left if it was killed or could not undo all.

    Raises:
        LabStays: something of it is still on the machine.
    """
    known = _read(folder / "lab.json")
    if known is not None and _alive(known["pid"], folder):
        os.kill(known["pid"], signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        while _alive(known["pid"], folder):
            if time.monotonic() > until:
                reason = f"its process {known['pid']} is still at work after {STOP_SECONDS:.0f} s"
                raise LabStays(folder=folder, reason=reason)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(known["pid"], os.WNOHANG)  # it is ours when one process does all
            time.sleep(LOOK)
    if (folder / OPEN).exists():
        _sweep(folder)


def _sweep(folder: Path) -> None:
    swept = subprocess.run(
        _command(folder, "--sweep"),
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if swept.returncode:
        words = swept.stderr.strip().splitlines() or [f"exit status {swept.returncode}"]
        raise LabStays(folder=folder, reason=words[-1])


def _remove(folder: Path) -> None:
    if (folder / "settings.json").exists() or (folder / "lab.json").exists():
        shutil.rmtree(folder)


def _ask(lab: dict[str, Any], method: str, path: str, body: Any = None) -> Any:
    """One of the lab's own calls."""
    request = urllib.request.Request(
        lab["endpoint"] + path,
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"Authorization": f"Bearer {lab['admin_token']}"},
    )
    trusted = ssl.create_default_context(cafile=lab["ca_file"])
    try:
        with urllib.request.urlopen(request, timeout=STOP_SECONDS, context=trusted) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            reason = json.load(error).get("message", error.reason)
        raise LabRefused(reason=reason) from None


def _told(lab: dict[str, Any]) -> RenderableType:
    tokens = "\n".join(f"  {token['id']}={token['secret']}" for token in lab["tokens"].values())
    return lines(
        f"{lab['endpoint']}  nodes {', '.join(lab['nodes'])}\n"
        f"certificate {lab['ca_file']}\n  SHA-256 {lab['fingerprint']}\n"
        f"tokens\n{tokens}"
    )


def _state_told(lab: dict[str, Any]) -> RenderableType:
    nodes = ", ".join(name if online else f"{name} (down)" for name, online in lab["nodes"].items())
    return lines(
        f"{lab['endpoint']}  nodes {nodes}\n"
        f"{lab['containers']} containers, {lab['running']} run; {lab['tasks']} tasks at work; "
        f"{len(lab['faults'])} faults are set"
    )
