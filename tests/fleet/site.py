"""A site: a real lab on a subnet of its own, and an operator who types playbooks there.

The operator's shell is that of the docs: inventory/lab.sh. What a site keeps (keys, vault, sizes,
backups, logs) is in its own folder; the bundles are in dist/, where playbooks look for them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral import Client
from corral.messages import WorkerView
from tests.fleet.collection.operator import kill_group
from tests.fleet.lab.process import LabProcess

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PLAY_SECONDS = 600.0
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=2")
RECAP = re.compile(r"^(\S+) +: (ok=.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Played:
    """How a run of Ansible ended."""

    status: int
    output: str
    seconds: float

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Host -> ok, changed, unreachable, failed, skipped, rescued, ignored."""
        return {
            host: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counts)}
            for host, counts in RECAP.findall(self.output.rpartition("PLAY RECAP")[2])
        }

    @property
    def changed(self) -> dict[str, int]:
        """Host -> changes, of hosts that have any."""
        return {host: has["changed"] for host, has in self.recap.items() if has["changed"]}


class Site:
    """One lab with its operator."""

    def __init__(self, lab: LabProcess, subnet: str) -> None:
        """`subnet`: the first three numbers of its addresses."""
        self.lab = lab
        self.subnet = subnet
        self.folder = lab.folder
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        shell = {
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "1000",
            "CORRAL_LAB": str(self.folder),
        }
        sourced = subprocess.run(
            ["bash", "-ec", "source inventory/lab.sh; env -0"],
            cwd=ROOT, env=shell, capture_output=True, text=True, check=True,
        )  # fmt: skip
        pairs = (one.partition("=") for one in sourced.stdout.split("\0") if one)
        self.environment = {name: value for name, _, value in pairs}

    # --- what an operator types ------------------------------------------------------------------

    def start(self, playbook: str, *arguments: str) -> subprocess.Popen[str]:
        """Begin a playbook, as a process group of its own; its output is one stream."""
        return subprocess.Popen(
            ["ansible-playbook", f"playbooks/{playbook}.yml", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, playbook: str, *arguments: str, timeout: float = PLAY_SECONDS) -> Played:
        """Play a playbook to its end, whatever that is."""
        began = time.monotonic()
        process = self.start(playbook, *arguments)
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            if process.poll() is None:
                kill_group(process)
        return Played(process.returncode, output, time.monotonic() - began)

    def play(self, playbook: str, *arguments: str, timeout: float = PLAY_SECONDS) -> Played:
        """Play a playbook that must succeed."""
        played = self.run(playbook, *arguments, timeout=timeout)
        assert played.status == 0, played.output
        return played

    def bundle(self, release: str) -> Path:
        """What machines install of a release, made from this tree: dist/corral-RELEASE.tar."""
        subprocess.run(
            ["make", "-s", "bundle", f"RELEASE={release}"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return ROOT / "dist" / f"corral-{release}.tar"

    @property
    def release(self) -> str:
        """The release of this tree."""
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])

    def corral(self, *arguments: str, timeout: float = 120) -> str:
        """What `corral ...` says to the operator on this machine; it must succeed."""
        ended = subprocess.run(
            [str(BIN / "corral"), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def ssh(self, address: str, command: str) -> subprocess.CompletedProcess[str]:
        """A command on the machine that has the address."""
        key = self.folder / "ssh/id_ed25519"
        return subprocess.run(
            [
                *SSH, "-i", str(key), "-o", "StrictHostKeyChecking=accept-new",
                "-o", f"UserKnownHostsFile={key.with_name('known_hosts')}",
                f"root@{address}", command,
            ],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    # --- where things are --------------------------------------------------------------------

    def address(self, host: str) -> str:
        """By the address plan of inventory/lab: `broker`, `worker-3`."""
        role, _, ordinal = host.partition("-")
        return f"{self.subnet}.{10 if role == 'broker' else 100 + int(ordinal)}"

    @property
    def endpoint(self) -> str:
        """The broker's."""
        return self.environment["CORRAL_BROKER"]

    def operator_key(self) -> Path:
        """What a client on this machine connects with."""
        return Path(self.environment["CORRAL_KEY"])

    def client(self) -> Client:
        """The operator's: quicker than the command line, for what is asked again and again."""
        return Client(self.endpoint, key=str(self.operator_key()), timeout=60.0)

    def workers(self) -> dict[str, WorkerView]:
        """What the broker says of each worker."""
        with self.client() as client:
            return {one.name: one for one in client.workers()}

    # --- what the API saw and has --------------------------------------------------------------

    def mark(self) -> int:
        """A mark in the request log; `calls` counts from there."""
        return int(self.lab.own("POST", "/lab/requests/marks/test")["number"])

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """The request log: number, method, path, actor, status, seconds."""
        found: list[dict[str, Any]] = self.lab.own("GET", f"/lab/requests?since={since}")
        return found

    def calls(self, since: int) -> list[str]:
        """The calls since a mark, as "GET /cluster/resources"."""
        return [f"{one['method']} {one['path']}" for one in self.requests(since) if "path" in one]

    def containers(self) -> dict[int, dict[str, Any]]:
        """What is really there: VMID -> node, status and configuration, templates left out."""
        return dict(self._containers())

    def _containers(self) -> Iterator[tuple[int, dict[str, Any]]]:
        api = self.lab.client()
        for node in api.nodes.get():
            for one in api.nodes(node["node"]).lxc.get():
                config = api.nodes(node["node"]).lxc(one["vmid"]).config.get()
                if not config.get("template"):
                    status = {"node": node["node"], "status": one["status"]}
                    yield int(one["vmid"]), status | config
