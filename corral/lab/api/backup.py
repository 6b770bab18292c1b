"""Backups: vzdump, what an archive carries, and which archives are to go.

The files of the container are in the archive; its config and firewall stand beside it. One backup
job at a time runs on a node; a container has the lock `backup` meanwhile.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from corral.lab import store
from corral.lab.answers import Refused, invalid
from corral.lab.api import Call, call
from corral.lab.cluster import Config, Container
from corral.lab.firewall import Firewall
from corral.lab.formats import split_list
from corral.lab.guests import guest_of
from corral.lab.runtime import RuntimeFailed
from corral.lab.tasks import Task, WorkerLost
from corral.lab.volumes import disk, file_of, folder, of_config, room, storage

ARCHIVE = re.compile(
    r"vzdump-lxc-(?P<vmid>\d+)-(?P<at>\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d)\.tar(?:\.\w+)?"
)
ROOT_ONLY = ("dumpdir", "script", "tmpdir", "job-id")
LIMITS = ("bwlimit", "ionice", "performance")
DEFAULTS: Mapping[str, Any] = {
    "all": 0,
    "bwlimit": 0,
    "compress": "0",
    "fleecing": {"enabled": 0},
    "lockwait": 180,
    "mailnotification": "always",
    "mode": "snapshot",
    "notification-mode": "auto",
    "performance": {"max-workers": 16, "pbs-entries-max": 1048576},
    "pigz": 0,
    "prune-backups": "keep-all=1",
    "quiet": 0,
    "remove": 1,
    "stdexcludes": 1,
    "stop": 0,
    "stopwait": 10,
    "zstd": 1,
}

#: rule -> the part of a time that two backups of one period share (seconds since the epoch in)
PERIODS = {
    "keep-hourly": "%Y %j %H",
    "keep-daily": "%Y %j",
    "keep-weekly": "%G %V",
    "keep-monthly": "%Y %m",
    "keep-yearly": "%Y",
}


class Carried(msgspec.Struct):
    """What an archive carries beside the files of the container."""

    config: Config
    firewall: Firewall


def restored(archive: Path) -> Carried:
    """What was saved with an archive."""
    carried = store.load(beside(archive, "conf"), Carried)
    if carried is None:
        raise Refused(f"unable to find a configuration in '{archive.name}'")
    return carried


def beside(archive: Path, kind: str) -> Path:
    """The file with the config, the notes or the protection of an archive."""
    return archive.with_name(f"{archive.name}.{kind}")


def doomed(times: Mapping[str, int], keep: Mapping[str, str]) -> set[str]:
    """The archives (by time) that no rule keeps; without a rule all are kept."""
    if not keep or keep.get("keep-all") == "1":
        return set()
    newest = sorted(times, key=lambda name: times[name], reverse=True)
    kept = set(newest[: int(keep.get("keep-last", 0))])
    for rule, period in PERIODS.items():
        seen = {time.strftime(period, time.gmtime(times[name])) for name in kept}
        left = int(keep.get(rule, 0))
        for name in newest:
            mine = time.strftime(period, time.gmtime(times[name]))
            if left and name not in kept and mine not in seen:
                kept.add(name)
                seen.add(mine)
                left -= 1
    return times.keys() - kept


@call("POST", "/nodes/{node}/vzdump")
def vzdump(asked: Call) -> str:
    """Back containers up, one after the other."""
    _demand(asked)
    wanted = [int(vmid) for vmid in split_list(asked.get("vmid", ""))]
    if asked.get("all") or "pool" in asked.params:
        pool = asked.cluster.kept.pools.get(asked.get("pool", ""))
        there = pool.vms if pool else list(asked.cluster.containers)
        skipped = {int(vmid) for vmid in split_list(asked.get("exclude", ""))}
        wanted = sorted(set(there) - skipped)
    elif not wanted:
        raise invalid({"vmid": "property is missing and it is not optional"})

    def work(task: Task) -> None:
        wait = asked.get("lockwait", DEFAULTS["lockwait"])
        lock = asked.cluster.backup_lock(asked.node)
        if not lock.acquire(timeout=wait * 60):
            task.log(f"ERROR: can't acquire lock '/var/run/vzdump.lock' (wait = {wait})")
            raise WorkerLost
        try:
            _job(asked, task, wanted)
        finally:
            lock.release()

    id = str(wanted[0]) if len(wanted) == 1 else ""
    return asked.cluster.tasks.start(asked.node, "vzdump", id, asked.actor, work)


def _demand(asked: Call) -> None:
    for name in ROOT_ONLY:
        if name in asked.params and not asked.actor.is_root:
            raise invalid({name: "Only root may set this option."})
    if any(name in asked.params for name in LIMITS):
        asked.demand("/", "Sys.Modify")
    on = asked.get("storage", "local")
    if "prune-backups" in asked.params:
        asked.demand(f"/storage/{on}", "Datastore.Allocate")
    asked.demand(f"/storage/{on}", "Datastore.AllocateSpace")
    if "backup" not in split_list(storage(asked.cluster, on).get("content", "")):
        raise Refused(f"storage '{on}' does not support backups")


def _job(asked: Call, task: Task, wanted: list[int]) -> None:
    shown = {name: value for name, value in asked.params.items() if name != "vmid"}
    words = [f"--{name} {shlex.quote(str(shown[name]))}" for name in sorted(shown)]
    listed = " ".join(str(vmid) for vmid in wanted)
    task.log(f"INFO: starting new backup job: vzdump {listed} {' '.join(words)}")
    for vmid in wanted:
        if not asked.may(f"/vms/{vmid}", "VM.Backup"):
            raise Refused(f"403 Permission check failed (/vms/{vmid}, VM.Backup)")
    failed = []
    for vmid in wanted:
        guest = asked.cluster.containers.get(vmid)
        if guest is None or guest.node != asked.node:
            continue
        try:
            _back_up(asked, task, guest)
        except (Refused, RuntimeFailed) as error:
            task.log(f"ERROR: Backup of VM {vmid} failed - {error}")
            failed.append(error)
    if failed:
        task.log("INFO: Backup job finished with errors")
        raise Refused("job errors")
    task.log("INFO: Backup job finished successfully")


def _back_up(asked: Call, task: Task, guest: Container) -> None:
    cluster, on = asked.cluster, asked.get("storage", "local")
    began = time.time()
    stamp = time.strftime("%Y_%m_%d-%H_%M_%S", time.gmtime(began))
    ending = {"0": ".tar"}.get(asked.get("compress", "0"), ".tar.zst")
    name = f"vzdump-lxc-{guest.vmid}-{stamp}{ending}"
    target = folder(cluster, asked.node, on, "backup") / name
    task.log(f"INFO: Starting Backup of VM {guest.vmid} (lxc)")
    task.log(f"INFO: Backup started at {_readable(began)}")
    running = cluster.runs(guest.vmid)
    carried = Carried(dict(guest.config), guest.firewall)
    cluster.set_lock(guest.node, guest.vmid, "backup")
    try:
        mode = asked.get("mode", "snapshot") if running else "stop"
        _tell(task, guest, mode, running)
        if running and mode == "stop":
            cluster.runtime.shutdown(guest.vmid, asked.get("stopwait", 10) * 60)
        room(cluster, task, on)
        task.log(f"INFO: creating vzdump archive '/var/lib/vz/dump/{name}'")
        cluster.runtime.archive(disk(dict(of_config(guest.config))["rootfs"]), target, task.log)
        store.save(beside(target, "conf"), carried)
        if running and mode == "stop":
            cluster.runtime.start(guest_of(guest), task.log)
    except (Refused, RuntimeFailed):
        target.unlink(missing_ok=True)
        cluster.unset_lock(guest)
        raise
    task.log(f"INFO: archive file size: {target.stat().st_size}B")
    _annotate(asked, task, guest, target)
    cluster.unset_lock(guest)
    seconds = time.strftime("%H:%M:%S", time.gmtime(time.time() - began))
    task.log(f"INFO: Finished Backup of VM {guest.vmid} ({seconds})")
    task.log(f"INFO: Backup finished at {_readable(time.time())}")


def _tell(task: Task, guest: Container, mode: str, running: bool) -> None:
    lines = [
        f"CT Name: {guest.name}",
        "including mount point rootfs ('/') in backup",
    ]
    head = [f"backup mode: {mode}", "ionice priority: 7"]
    task.log(f"INFO: status = {'running' if running else 'stopped'}")
    for line in [*lines, *head] if running else [*head, *lines]:
        task.log(f"INFO: {line}")


def _annotate(asked: Call, task: Task, guest: Container, target: Path) -> None:
    notes = asked.get("notes-template")
    if notes:
        task.log("INFO: adding notes to backup")
        filled = {"guestname": guest.name, "vmid": guest.vmid, "node": guest.node, "cluster": "lab"}
        for key, value in filled.items():
            notes = notes.replace("{{" + key + "}}", str(value))
        beside(target, "notes").write_text(notes)
    if asked.get("protected"):
        beside(target, "protected").touch()


def _readable(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))


@call("GET", "/nodes/{node}/vzdump/defaults")
def defaults(asked: Call) -> dict[str, Any]:
    """What holds where a job says nothing."""
    on = asked.get("storage", "local")
    asked.demand(f"/storage/{on}", "Datastore.Audit", "Datastore.AllocateSpace")
    return {**DEFAULTS, "storage": on}


@call("GET", "/nodes/{node}/vzdump/extractconfig")
def extract_config(asked: Call) -> str:
    """The config in an archive, as the text of a config file."""
    archive = file_of(asked.cluster, asked.node, asked["volume"])
    found = ARCHIVE.fullmatch(archive.name)
    if found is not None:
        asked.demand(f"/vms/{found['vmid']}", "VM.Backup")
    return as_text(restored(archive).config)


def as_text(config: Config) -> str:
    """A config as Proxmox writes it to a file."""
    remarks = [f"#{line}" for line in str(config.get("description", "")).splitlines()]
    options = [f"{key}: {config[key]}" for key in sorted(config) if key != "description"]
    return "".join(f"{line}\n" for line in [*remarks, *options])
