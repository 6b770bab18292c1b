"""Plays what a real Proxmox VE answered against a lab, request by request.

The recordings are of stateful runs, so they are played in their order. Tasks of the lab stand still
(the fault `hold`) until a recording shows a task that has ended, or one of `SETTLED` comes: so what
was seen in the middle of a task is asked in the middle of a task. What cannot be equal is in the
fixed lists below, and is replaced on both sides before they are compared.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests

from corral.lab.formats import split_list
from tests.fleet.lab.process import LabProcess

HERE = Path(__file__).parent
WAIT_SECONDS = 10.0
ROOT = "root@pam!ansible"
PASSWORD = "oracle-root-pw"
TEMPLATES = ("debian-12-standard_12.0-1_amd64.tar.zst", "debian-12-standard_12.12-1_amd64.tar.zst")
UPID = re.compile(r"UPID:[^\s\"]+:")

# --- what is not compared --------------------------------------------------------------------

#: fields of the machine or the moment: only that they are there is compared
MOMENTARY = frozenset(
    split_list(
        """
    CSRFPreventionToken avail available boot-info cpu cpuinfo ctime current-kernel digest
    disk diskread diskwrite endtime free hwaddr ip kversion loadavg maxdisk maxmem mem
    memhost netin netout pid pressurecpufull pressurecpusome pressureiofull pressureiosome
    pressurememoryfull pressurememorysome pstart saved size snaptime ssl_fingerprint
    starttime ticket total uptime used used_fraction
    """
    )
)

#: patterns in texts, and what is read instead
TEXTS = (
    (UPID, "<upid>"),
    (re.compile(r"(?i)bc:24:11(?::[0-9a-f]{2}){3}"), "<mac>"),
    (re.compile(r"fe80::[0-9a-f:]+"), "<link-local>"),
    (re.compile(r"\d{4}[-_]\d\d[-_]\d\d[- ]\d\d[:_]\d\d[:_]\d\d"), "<time>"),
    (re.compile(r"\(\d\d:\d\d:\d\d\)"), "(<seconds>)"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "<digest>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|<secret:\w+>"), "<secret>"),
)

#: lines of a task's log that LVM, mkfs, tar and rsync of that machine wrote
TOOLS = re.compile(
    r"|  .*|\t.*|Creating filesystem .*|Filesystem .*|Superblock .*|extracting archive .*"
    r"|Total bytes .*|Detected container .*|Creating SSH host key .*|done: .*|Formatting .*|"
    r"INFO: (?:Total bytes written|archive file size|create storage snapshot|cleanup temporary).*"
    r"|(?:Number of|Total|Literal|Matched|File list|sent|total size) .*|Can't exec .*|"
    r"resize2fs .*|old_desc_blocks .*|The filesystem on .*|e2fsck.*|You must have r/w access.*|"
    r"Pass \d: .*|/dev/pve/.*|Resizing the filesystem .*|"
    r"Failed to update .*|restoring .* now\.\.|merging backed-up .*"
)

#: a task's options in its first line are told in no order
JOB = re.compile(r"(INFO: starting new backup job: vzdump \d+) .*")


def plain(value: Any, key: str = "") -> Any:
    """A body without what is of the moment."""
    if key in MOMENTARY:
        return "<moment>"
    if isinstance(value, dict):
        if value.get("key") == "digest":
            return {"key": "digest"}
        return {name: plain(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return sorted(
            (plain(inner) for inner in value), key=lambda item: json.dumps(item, sort_keys=True)
        )
    if key == "content" and isinstance(value, str):
        return sorted(value.split(","))
    if isinstance(value, str):
        for pattern, word in TEXTS:
            value = pattern.sub(word, value)
    return value


def comparable(path: str, body: Any) -> Any:
    """A body in the form in which two are compared."""
    if not isinstance(body, dict) or body.get("data") is None:
        return plain(body)
    if path.endswith("/log"):
        lines = (line["t"] for line in body["data"] if not TOOLS.fullmatch(line["t"]))
        return [JOB.sub(r"\1", plain(line)) for line in lines]
    if path.endswith("/tasks"):  # what else was run is of the machine: the shapes are compared
        return sorted({json.dumps(sorted(entry)) for entry in body["data"]})
    return plain({key: inner for key, inner in body.items() if key != "total"})


# --- playing ---------------------------------------------------------------------------------


class Recording(NamedTuple):
    """One exchange."""

    id: str
    name: str
    actor: str | None
    method: str
    path: str
    params: Any
    headers: dict[str, str]
    status: int
    reason: str
    body: Any
    text: str


def recordings() -> Iterator[Recording]:
    """All of them, in their order."""
    with (HERE / "recordings.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield Recording(**{"params": None, "headers": {}, "text": "", **json.loads(line)})


class Player:
    """A lab made like the machine of the recordings, and what has been learnt of it."""

    def __init__(self, lab: LabProcess) -> None:
        self.lab = lab
        self._secrets: dict[str, str] = {}
        self._root = "root"
        self._names: dict[str, str] = {}  # recorded name -> the lab's: UPIDs, archives
        self._ticket: tuple[str, str] = ("", "")
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = lab.info["ca_file"]
        self._fault = 0
        self._prepare()
        self.hold()

    # --- the stage ---------------------------------------------------------------------------

    def hold(self) -> None:
        """Let tasks stand still from now on."""
        self._fault = self.lab.own("POST", "/lab/faults", json={"kind": "hold"})["id"]

    def release(self) -> None:
        """Let tasks go on from now on."""
        self.lab.own("DELETE", f"/lab/faults/{self._fault}")

    def settle(self) -> None:
        """Let all tasks come to their end."""
        self.release()
        until = time.monotonic() + WAIT_SECONDS
        while self.lab.own("GET", "/lab")["tasks"]:
            assert time.monotonic() < until
            time.sleep(0.005)
        self.hold()

    def look(self) -> None:
        """Let the status daemon look."""
        self.lab.own("POST", "/lab/look")

    def root(self, method: str, path: str, /, **params: Any) -> Any:
        """Something that is not recorded, but was done."""
        answer = self.lab.ask(method, path, self._root, data=params or None)
        assert answer.status_code == 200, answer.reason
        return answer.json()["data"]

    def _prepare(self) -> None:
        """Make of a fresh lab a fresh Proxmox: without the fleet's pool, roles and users."""
        self.root("DELETE", "/pools/corral")
        self.root("DELETE", "/access/users/corral@pve")
        for role in self.root("GET", "/access/roles"):
            if not role.get("special"):
                self.root("DELETE", f"/access/roles/{role['roleid']}")
        self.root("DELETE", "/storage/local-lvm")
        everything = "backup,vztmpl,images,iso,rootdir,snippets"
        self.root("PUT", "/storage/local", content=everything)
        made = self.root("POST", "/access/users/root@pam/token/ansible", privsep=0)
        self._secrets[ROOT] = made["value"]
        self._root = f"{ROOT}={made['value']}"
        cache = self.lab.folder / "nodes/pve1/local/template/cache"
        cache.mkdir(parents=True)
        (cache / TEMPLATES[0]).write_bytes(b"root file system")

    # --- one exchange ------------------------------------------------------------------------

    def play(self, recording: Recording) -> requests.Response:
        """Ask what was asked."""
        if self._ended(recording):
            self._until_stopped(self._lab_name(recording.path.split("/")[4]))
        headers = self._credentials(recording)
        path = self._translated(recording.path)
        params = json.loads(self._translated(json.dumps(recording.params)))
        if isinstance(params, dict) and params.get("password") == PASSWORD:
            params["password"] = self.lab.info["root_password"]
        where = "params" if recording.method in ("GET", "DELETE") else "data"
        answer = self._session.request(
            recording.method,
            f"{self.lab.info['endpoint']}/api2/json{path}",
            headers=headers,
            timeout=30,
            **{where: params},
        )
        self._learn(recording, answer)
        return answer

    def _ended(self, recording: Recording) -> bool:
        data = recording.body.get("data") if isinstance(recording.body, dict) else None
        return isinstance(data, dict) and "exitstatus" in data

    def _until_stopped(self, upid: str) -> None:
        """Wait for a task that has no reason to stand still, or let it go on."""
        path = f"/nodes/{upid.split(':')[1]}/tasks/{upid}/status"
        for _ in range(10):
            answer = self.lab.ask("GET", path).json()["data"]
            if answer is None or answer["status"] == "stopped":
                return
            time.sleep(0.005)
        self.settle()

    def _credentials(self, recording: Recording) -> dict[str, str]:
        headers = dict(recording.headers)
        if recording.actor in self._secrets:
            headers["Authorization"] = (
                f"PVEAPIToken={recording.actor}={self._secrets[recording.actor]}"
            )
        ticket, guard = self._ticket
        if "cookie" in recording.name or "ticket" in str(recording.actor):
            headers["Cookie"] = (
                f"PVEAuthCookie={'PVE:garbage' if 'invalid' in recording.name else ticket}"
            )
        if headers.get("CSRFPreventionToken") == "<csrf>":
            headers["CSRFPreventionToken"] = guard
        return headers

    def _learn(self, recording: Recording, answer: requests.Response) -> None:
        """Remember secrets, tickets, and how the lab calls what the recording calls otherwise."""
        if answer.status_code != 200 or not isinstance(recording.body, dict):
            return
        data = answer.json()["data"]
        old = recording.body.get("data")
        if isinstance(data, str) and isinstance(old, str) and UPID.fullmatch(old):
            self._names[old] = data
        if recording.path == "/access/ticket":
            self._ticket = (data["ticket"], data["CSRFPreventionToken"])
        if isinstance(data, dict) and isinstance(old, dict) and "digest" in old:
            self._names[old["digest"]] = data["digest"]
        if isinstance(data, dict) and "full-tokenid" in data:
            self._secrets[data["full-tokenid"]] = data["value"]

    def archives(self, *names: str) -> None:
        """Say how the recordings call the archives, in the order of their making."""
        folder = self.lab.folder / "nodes/pve1/local/dump"
        made = sorted(path.name for path in folder.glob("vzdump-*.tar.zst"))
        self._names.update(zip(sorted(names), made, strict=True))

    def know(self, recorded: str, mine: str) -> None:
        """Say how the recordings call a task that was begun beside them."""
        self._names[recorded] = mine

    def token(self, id: str, secret: str) -> None:
        """A token that was made beside the recordings."""
        self._secrets[id] = secret

    def _lab_name(self, recorded: str) -> str:
        return self._names.get(recorded, recorded)

    def _translated(self, text: str) -> str:
        for old, new in self._names.items():
            text = text.replace(old, new)
        return text

    def back(self, text: str) -> str:
        """What the lab says, in the recordings' names."""
        for old, new in self._names.items():
            text = text.replace(new, old)
        return text


def difference(player: Player, recording: Recording, answer: requests.Response) -> str:
    """In what the lab's answer differs from the recorded one; nothing if it does not."""
    reason = player.back(answer.reason)
    if (answer.status_code, reason) != (recording.status, recording.reason):
        return f"{answer.status_code} {reason}, not {recording.status} {recording.reason}"
    text = player.back(answer.text)
    if recording.text:
        return "" if text.splitlines()[-1] == recording.text.splitlines()[-1] else text
    body = comparable(recording.path, json.loads(text) if text else None)
    return "; ".join(_differences(body, comparable(recording.path, recording.body), ""))


def _differences(mine: Any, wanted: Any, where: str) -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(wanted, dict):
        for key in sorted({*mine, *wanted}):
            yield from _differences(
                mine.get(key, "(nothing)"), wanted.get(key, "(nothing)"), f"{where}/{key}"
            )
    elif isinstance(mine, list) and isinstance(wanted, list) and len(mine) == len(wanted):
        for number, pair in enumerate(zip(mine, wanted, strict=True)):
            yield from _differences(*pair, f"{where}/{number}")
    elif isinstance(mine, list) and isinstance(wanted, list):
        more = [item for item in mine if item not in wanted]
        less = [item for item in wanted if item not in mine]
        yield f"{where}: more {json.dumps(more)}, less {json.dumps(less)}"
    elif mine != wanted:
        yield f"{where}: {json.dumps(mine)}, not {json.dumps(wanted)}"
