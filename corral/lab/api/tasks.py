"""Tasks of a node: list, status, log, stop. An actor sees its own; an auditor sees all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corral.lab.answers import Download, Page, invalid
from corral.lab.api import Call, call
from corral.lab.formats import split_list
from corral.lab.tasks import UPID, Task

PATH = "/nodes/{node}/tasks"
LIMIT = 50


@call("GET", PATH)
def tasks(asked: Call) -> Page:
    """Running ones, ended ones, or both; the newest first."""
    source = asked.get("source", "archive")
    found: list[dict[str, Any]] = []
    if source != "archive":
        found += [_active(task) for task in asked.cluster.tasks.running() if _wanted(asked, task)]
    if source != "active":
        found += [_ended(task) for task in asked.cluster.tasks.archive() if _wanted(asked, task)]
    start = asked.get("start", 0)
    return Page(found[start : start + asked.get("limit", LIMIT)], len(found))


def _wanted(asked: Call, task: Task) -> bool:
    if task.node != asked.node or not _visible(asked, task):
        return False
    filters: dict[str, Callable[[Any], bool]] = {
        "vmid": lambda wanted: task.id == str(wanted),
        "typefilter": lambda wanted: task.type == wanted,
        "userfilter": lambda wanted: wanted in task.user,
        "since": lambda wanted: task.starttime >= wanted,
        "until": lambda wanted: task.starttime <= wanted,
        "errors": lambda wanted: not wanted or (task.endtime is not None and task.status != "OK"),
        "statusfilter": lambda wanted: _kind(task) in split_list(wanted),
    }
    return all(fits(asked[name]) for name, fits in filters.items() if name in asked.params)


def _kind(task: Task) -> str:
    if task.endtime is None or task.status == "unexpected status":
        return "unknown"
    if task.status == "OK":
        return "ok"
    return "warning" if task.status.startswith("WARNINGS") else "error"


def _visible(asked: Call, task: Task) -> bool:
    return task.owner == asked.actor or asked.may(f"/nodes/{asked.node}", "Sys.Audit")


def _active(task: Task) -> dict[str, Any]:
    return _numbers(task) | {"user": task.owner.name, "status": "RUNNING", "saved": "0"}


def _ended(task: Task) -> dict[str, Any]:
    return _numbers(task) | _user(task) | {"endtime": task.endtime, "status": task.status}


def _numbers(task: Task) -> dict[str, Any]:
    return {
        "upid": task.upid,
        "node": task.node,
        "pid": task.pid,
        "pstart": task.pstart,
        "starttime": task.starttime,
        "type": task.type,
        "id": task.id,
    }


def _user(task: Task) -> dict[str, str]:
    return {"user": task.user, **({"tokenid": task.token} if task.token else {})}


def _parsed(asked: Call) -> None:
    if not UPID.fullmatch(asked["upid"]):
        raise invalid({"upid": "unable to parse worker upid"})


def _known(asked: Call, privilege: str = "Sys.Audit") -> Task | None:
    """The task, if there is one; the actor must own it or hold a privilege."""
    _parsed(asked)
    owner = UPID.fullmatch(asked["upid"])
    assert owner is not None
    if owner["user"] != asked.actor.name:
        asked.demand(f"/nodes/{asked.node}", privilege)
    return asked.cluster.tasks.find(asked["upid"])


@call("GET", f"{PATH}/{{upid}}")
def index(asked: Call) -> list[dict[str, str]]:
    """What there is of a task."""
    return [{"name": "log"}, {"name": "status"}]


@call("GET", f"{PATH}/{{upid}}/status")
def status(asked: Call) -> dict[str, Any]:
    """Whether it runs, and how it ended."""
    task = _known(asked)
    if task is None:
        raise invalid({"upid": "no such task"})
    shown = _numbers(task) | _user(task)
    if not task.done.is_set():
        return shown | {"status": "running"}
    return shown | {"status": "stopped", "exitstatus": task.status}


@call("GET", f"{PATH}/{{upid}}/log")
def log(asked: Call) -> Page | Download:
    """Its log, a page of it, or all of it as a file."""
    task = _known(asked)
    lines = task.lines() if task else ["unable to open file - No such file or directory"]
    if asked.get("download"):
        if any(name in asked.params for name in ("start", "limit")):
            raise invalid({"download": "cannot be combined with start or limit"})
        text = "".join(f"{line}\n" for line in lines)
        headers = {"Content-Type": "text/plain", "Content-Disposition": "attachment"}
        return Download(text.encode(), headers)
    start = asked.get("start", 0)
    limit = asked.get("limit", LIMIT) or len(lines)
    numbered = [{"n": number, "t": line} for number, line in enumerate(lines, start=1)]
    return Page(numbered[start : start + limit], len(lines))


@call("DELETE", f"{PATH}/{{upid}}")
def stop(asked: Call) -> None:
    """Interrupt it."""
    task = _known(asked, "Sys.Modify")
    if task is None:
        raise invalid({"upid": "no such task"})
    if not task.done.is_set():
        asked.cluster.tasks.stop(task)
