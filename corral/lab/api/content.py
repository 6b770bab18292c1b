"""What storages hold, and what is put there: templates, backups, disks.

Templates and backups are files in the lab's folder; disks are the runtime's, and listed from the
configs that name them. Who may see a volume is asked for each one.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corral.lab.answers import Refused, invalid
from corral.lab.api import Call, call
from corral.lab.api.backup import ARCHIVE, beside, doomed
from corral.lab.api.storages import ONE, SEE
from corral.lab.cluster import Cluster, Container
from corral.lab.formats import parse_properties, parse_size, split_list
from corral.lab.tasks import Task
from corral.lab.volumes import (
    FOLDERS,
    drop,
    file_of,
    folder,
    is_bind,
    of_config,
    room,
    storage,
)

VOLUME = f"{ONE}/content/{{volume}}"
TEMPLATE = re.compile(r"[^/\\\s]+\.(?:tar\.(?:gz|xz|zst)|tgz|txz)")
ISO = re.compile(r"[^/\\\s]+\.(?:iso|img)")
SHAPES = {"vztmpl": TEMPLATE, "iso": ISO}
CHUNK = 1024**2


@call("GET", f"{ONE}/content")
def content(asked: Call) -> list[dict[str, Any]]:
    """The volumes that the actor may see."""
    name = asked["storage"]
    storage(asked.cluster, name)
    found = [*_files(asked.cluster, asked.node, name), *_disks(asked.cluster, asked.node, name)]
    return [
        entry
        for entry in found
        if asked.get("content") in (None, entry["content"])
        and asked.get("vmid") in (None, entry.get("vmid"))
        and _visible(asked, name, entry["content"], entry.get("vmid"))
    ]


def _visible(asked: Call, name: str, content: str, vmid: int | None) -> bool:
    if asked.may(f"/storage/{name}", "Datastore.Allocate"):
        return True
    if content == "backup":
        return asked.may(f"/vms/{vmid}", "VM.Backup")
    if content == "rootdir":
        return asked.may(f"/vms/{vmid}", "VM.Config.Disk")
    return asked.may(f"/storage/{name}", *SEE, "Datastore.AllocateTemplate")


def _files(cluster: Cluster, node: str, name: str) -> Iterator[dict[str, Any]]:
    for content in FOLDERS:
        for path in sorted(folder(cluster, node, name, content).iterdir()):
            found = ARCHIVE.fullmatch(path.name)
            fits = found if content == "backup" else SHAPES[content].fullmatch(path.name)
            if fits and not path.name.startswith("."):
                entry = _file(f"{name}:{content}/{path.name}", content, path)
                yield entry | (_backup(path, found) if found else {})


def _file(volume: str, content: str, path: Path) -> dict[str, Any]:
    about = path.stat()
    kind = path.name.rpartition(".tar.")[2]
    return {
        "volid": volume,
        "content": content,
        "format": f"t{kind}" if content == "vztmpl" else kind,
        "size": about.st_size,
        "ctime": int(about.st_mtime),
    }


def _backup(path: Path, found: re.Match[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "vmid": int(found["vmid"]),
        "subtype": "lxc",
        "format": path.name.partition(".")[2],
    }
    notes = beside(path, "notes")
    if notes.exists():
        entry["notes"] = notes.read_text()
    if beside(path, "protected").exists():
        entry["protected"] = 1
    return entry


def _disks(cluster: Cluster, node: str, name: str) -> Iterator[dict[str, Any]]:
    plain = cluster.kept.storages[name]["type"] == "dir"
    for guest in list(cluster.containers.values()):
        sizes = {}
        for key, volume in of_config(guest.config):
            if not is_bind(volume):
                parts = parse_properties(str(guest.config[key]), "volume")
                sizes[volume] = parse_size(parts.get("size", "0"))
        for volume, made in list(guest.volumes.items()):
            if guest.node == node and volume.startswith(f"{name}:"):
                yield {
                    "volid": volume,
                    "vmid": guest.vmid,
                    "content": "rootdir",
                    "format": "raw",
                    "size": sizes.get(volume, 0),
                    "ctime": made if plain else str(made),
                }


def _volume(asked: Call) -> str:
    volume = str(asked["volume"])
    return volume if ":" in volume else f"{asked['storage']}:{volume}"


def _archive(asked: Call, *, exists: bool = True) -> Path:
    """The file that is meant, which the actor must be allowed to see."""
    volume = _volume(asked)
    path = file_of(asked.cluster, asked.node, volume)
    content = volume.partition(":")[2].partition("/")[0]
    found = ARCHIVE.fullmatch(path.name)
    vmid = int(found["vmid"]) if found else None
    if not _visible(asked, asked["storage"], content, vmid):
        where = f"/vms/{vmid}" if found else f"/storage/{asked['storage']}"
        asked.demand(where, "VM.Backup" if found else "Datastore.Audit")
    if exists and not path.exists():
        raise Refused(f"volume '{volume}' does not exist")
    return path


@call("GET", VOLUME)
def read_volume(asked: Call) -> dict[str, Any]:
    """What is known of a template or a backup."""
    path = _archive(asked)
    shown: dict[str, Any] = {
        "path": f"/var/lib/vz/{path.relative_to(path.parents[1])}",
        "size": path.stat().st_size,
        "used": path.stat().st_blocks * 512,
        "format": "raw",
    }
    if ARCHIVE.fullmatch(path.name):
        shown["protected"] = int(beside(path, "protected").exists())
        if beside(path, "notes").exists():
            shown["notes"] = beside(path, "notes").read_text()
    return shown


@call("PUT", VOLUME)
def change_volume(asked: Call) -> None:
    """Set the notes of a backup, or protect it."""
    path = _archive(asked)
    if "notes" in asked.params:
        beside(path, "notes").write_text(asked["notes"])
    if "protected" in asked.params:
        if asked["protected"]:
            beside(path, "protected").touch()
        else:
            beside(path, "protected").unlink(missing_ok=True)


@call("DELETE", VOLUME)
def delete_volume(asked: Call) -> str | None:
    """Remove a template, a backup, or a disk that no config names."""
    cluster, volume, on = asked.cluster, _volume(asked), asked["storage"]
    storage(cluster, on)
    owners = (guest for guest in list(cluster.containers.values()) if volume in guest.volumes)
    owner = next(owners, None)
    vmid, gone = _disk(asked, volume, owner) if owner else _old_file(asked, volume)

    def work(task: Task) -> None:
        task.point(cluster.faults.delay(task.node, on))
        gone()
        task.log(f"Removed volume '{volume}'")

    id = f"{vmid}@{on}" if vmid else on
    upid = cluster.tasks.start(asked.node, "imgdel", id, asked.actor, work)
    task = cluster.tasks.find(upid)
    assert task is not None
    if asked.get("delay") and task.done.wait(asked["delay"]):
        return None
    return upid


def _disk(asked: Call, volume: str, owner: Container) -> tuple[str, Callable[[], None]]:
    """Whose it is, and what removes it."""
    asked.demand(f"/storage/{asked['storage']}", "Datastore.Allocate")
    if volume in dict(of_config(owner.config)).values():
        raise Refused(f"cannot remove volume '{volume}': it is used by CT {owner.vmid}")
    return str(owner.vmid), lambda: drop(asked.cluster, owner, volume)


def _old_file(asked: Call, volume: str) -> tuple[str, Callable[[], None]]:
    """Whose it is, when it is a backup, and what removes it."""
    on = asked["storage"]
    path = file_of(asked.cluster, asked.node, volume)
    found = ARCHIVE.fullmatch(path.name)
    vmid = found["vmid"] if found else ""
    mine = found is not None and asked.may(f"/vms/{vmid}", "VM.Backup")
    if not (mine and asked.may(f"/storage/{on}", "Datastore.AllocateSpace")):
        asked.demand(f"/storage/{on}", "Datastore.Allocate")
    if beside(path, "protected").exists():
        raise Refused(f"can't remove protected volume '{volume}'")

    def gone() -> None:
        if not path.exists():
            raise Refused(f"volume '{volume}' does not exist")
        remove(path)

    return vmid, gone


def remove(archive: Path) -> None:
    """Delete a file with what stands beside it."""
    archive.unlink()
    for kind in ("notes", "protected", "conf"):
        beside(archive, kind).unlink(missing_ok=True)


# --- what is put there -----------------------------------------------------------------------


def _target(asked: Call) -> Path:
    """Where an upload or a download goes.

    Raises:
        Refused: the storage does not take it, or the name does not fit.
    """
    content, name = str(asked["content"]), asked["storage"]
    if content not in split_list(storage(asked.cluster, name).get("content", "")):
        raise Refused(f"storage '{name}' is not configured for content-type '{content}'")
    if content not in SHAPES or not SHAPES[content].fullmatch(asked["filename"]):
        raise invalid({"filename": "wrong file extension"})
    return folder(asked.cluster, asked.node, name, content) / str(asked["filename"])


def _verify(asked: Call, path: Path) -> None:
    if "checksum" in asked.params:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, asked["checksum-algorithm"]).hexdigest()
        if found != asked["checksum"].lower():
            raise Refused(f"checksum mismatch: got '{found}' != expect '{asked['checksum']}'")


@call("POST", f"{ONE}/upload")
def upload(asked: Call) -> str:
    """Put a file that came along to its place."""
    target = _target(asked)
    if asked.file is None:
        raise invalid({"tmpfilename": "property is missing and it is not optional"})
    arrived = target.with_name(f".{asked.file.name}")
    shutil.move(asked.file, arrived)

    def work(task: Task) -> None:
        try:
            task.log(f"starting file import from: {asked['tmpfilename']}")
            task.log(f"target file: /var/lib/vz/{FOLDERS[asked['content']]}/{target.name}")
            room(asked.cluster, task, asked["storage"])
            _verify(asked, arrived)
            arrived.replace(target)
            target.chmod(0o644)
        finally:
            arrived.unlink(missing_ok=True)
        task.log("finished file import successfully")

    return asked.cluster.tasks.start(asked.node, "imgcopy", "", asked.actor, work)


@call("POST", f"{ONE}/download-url")
def download(asked: Call) -> str:
    """Fetch a file from elsewhere."""
    target = _target(asked)
    arrived = target.with_name(f".download-{target.name}")

    def work(task: Task) -> None:
        task.log(f"downloading {asked['url']} to /var/lib/vz/{FOLDERS[asked['content']]}")
        room(asked.cluster, task, asked["storage"])
        try:
            with urllib.request.urlopen(asked["url"]) as source, arrived.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
            _verify(asked, arrived)
            arrived.replace(target)
        except (OSError, ValueError) as error:
            raise Refused(f"download failed: {error}") from None
        finally:
            arrived.unlink(missing_ok=True)
        task.log(f"download of '{asked['url']}' to '{target.name}' finished")

    return asked.cluster.tasks.start(asked.node, "download", target.name, asked.actor, work)


@call("GET", "/nodes/{node}/aplinfo")
def appliances(asked: Call) -> list[dict[str, Any]]:
    """Templates that could be downloaded by name; the lab knows of none."""
    return []


@call("POST", "/nodes/{node}/aplinfo")
def download_appliance(asked: Call) -> None:
    """Download one of those."""
    raise invalid({"template": "no such template"})


# --- prune -----------------------------------------------------------------------------------


@call("GET", f"{ONE}/prunebackups")
def plan_prune(asked: Call) -> list[dict[str, Any]]:
    """Which backups would go and which stay."""
    return [
        {
            "volid": entry["volid"],
            "vmid": entry["vmid"],
            "type": "lxc",
            "ctime": entry["ctime"],
            "mark": mark,
        }
        for entry, mark in _marked(asked)
    ]


def _marked(asked: Call) -> list[tuple[dict[str, Any], str]]:
    name = asked["storage"]
    config = storage(asked.cluster, name)
    keep = parse_properties(asked.get("prune-backups", config.get("prune-backups", "")))
    backups = [
        entry
        for entry in _files(asked.cluster, asked.node, name)
        if entry["content"] == "backup"
        and asked.get("vmid") in (None, entry["vmid"])
        and _visible(asked, name, "backup", entry["vmid"])
    ]
    found = []
    for vmid in sorted({entry["vmid"] for entry in backups}):
        mine = [entry for entry in backups if entry["vmid"] == vmid]
        gone = doomed({entry["volid"]: entry["ctime"] for entry in mine}, keep)
        for entry in sorted(mine, key=lambda entry: entry["ctime"]):
            kept = "protected" if entry.get("protected") else "keep"
            mark = "remove" if entry["volid"] in gone and kept == "keep" else kept
            found.append((entry, mark))
    return found


@call("DELETE", f"{ONE}/prunebackups")
def prune(asked: Call) -> str:
    """Remove the backups that are not to be kept."""
    name, vmid = asked["storage"], asked.get("vmid")
    mine = vmid is not None and asked.may(f"/vms/{vmid}", "VM.Backup")
    if not (mine and asked.may(f"/storage/{name}", "Datastore.AllocateSpace")):
        asked.demand(f"/storage/{name}", "Datastore.Allocate")

    def work(task: Task) -> None:
        for entry, mark in _marked(asked):
            if mark == "remove":
                remove(file_of(asked.cluster, asked.node, entry["volid"]))
                task.log(f"Removed volume '{entry['volid']}'")

    id = f"{vmid}@{name}" if vmid is not None else name
    return asked.cluster.tasks.start(asked.node, "prunebackups", id, asked.actor, work)
