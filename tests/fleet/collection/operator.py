"""An operator: real Ansible processes against a lab without containers, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils.wanted import Role, wanted

from tests.fleet.lab.process import TEMPLATE, LabProcess

ROOT = Path(__file__).parents[3]
COLLECTIONS = ROOT / "playbooks" / "collections"
BIN = Path(sys.executable).parent
RUN_SECONDS = 110

NETWORK = {"bridge": "vmbr0", "subnet": "10.7.0.0/24", "gateway": "10.7.0.1"}
BROKER = {
    "name": "broker", "count": 1, "vmid": 4000, "hostname": "broker", "template": "7",
    "address_offset": 9, "cores": 1, "memory_mib": 512,
}  # fmt: skip
WORKER = {
    "name": "worker", "count": 3, "vmid": 5000, "template": "7", "address_offset": 100,
    "cores": 1, "memory_mib": 256,
}  # fmt: skip

#: five hundred small ones, and a network that has room for them
MANY = [WORKER | {"count": 500, "memory_mib": 64, "address_offset": 256}]
WIDE = {"bridge": "vmbr0", "subnet": "10.7.0.0/16"}


class Answer:
    """What a module returned, and what Ansible showed."""

    def __init__(self, returned: Mapping[str, Any], shown: str) -> None:
        self.returned = returned
        self.shown = shown
        self.failed = " | FAILED! => " in shown
        self.changed = bool(returned["changed"])

    def __getitem__(self, key: str) -> Any:
        return self.returned[key]

    def __contains__(self, key: str) -> bool:
        return key in self.returned

    @property
    def message(self) -> str:
        """Why it failed."""
        assert self.failed, self.returned
        return str(self.returned["msg"])

    @property
    def summary(self) -> dict[str, int]:
        """Steps of the plan, without actions that have none."""
        return {action: count for action, count in self["plan"]["summary"].items() if count}


class Operator:
    """Types commands of Ansible in a folder of their own."""

    def __init__(self, lab: LabProcess, folder: Path, token: str = "deploy") -> None:
        self.lab = lab
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.token = token

    @property
    def environment(self) -> dict[str, str]:
        """What a shell of the operator's has."""
        known = self.lab.info["tokens"][self.token]
        return {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "1000",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
            "PROXMOX_HOST": str(self.lab.info["host"]),
            "PROXMOX_PORT": str(self.lab.info["port"]),
            "PROXMOX_TOKEN_ID": known["id"],
            "PROXMOX_TOKEN_SECRET": known["secret"],
            "PROXMOX_CA_FILE": str(self.lab.info["ca_file"]),
            "PYTHONPATH": str(ROOT),
        }

    def run(
        self, *command: str, environment: Mapping[str, str | None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Type a command and wait for it."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(environment),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def _environment(self, more: Mapping[str, str | None] | None) -> dict[str, str]:
        merged = {**self.environment, **(more or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def module(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *flags: str,
        environment: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """Run one module of the collection."""
        command = self.command(name, arguments, *flags)
        ended = self.run(*command, environment=environment)
        _, _, text = ended.stdout.partition("=> ")
        assert text, f"{ended.stdout}\n{ended.stderr}"
        return Answer(json.JSONDecoder().raw_decode(text)[0], ended.stdout)

    def command(self, name: str, arguments: Mapping[str, Any], *flags: str) -> list[str]:
        """The command that runs one module."""
        module = f"corral.fleet.{name}"
        return ["ansible", "localhost", "-m", module, "-a", json.dumps(arguments), *flags]

    def containers(
        self,
        *flags: str,
        roles: Sequence[Mapping[str, Any]] = (BROKER, WORKER),
        environment: Mapping[str, str | None] | None = None,
        **more: Any,
    ) -> Answer:
        """Converge a fleet."""
        arguments = {"pool": "corral", "network": NETWORK, "roles": list(roles), **more}
        return self.module("containers", arguments, *flags, environment=environment)

    def inventory(
        self,
        roles: Sequence[Mapping[str, Any]] = (BROKER, WORKER),
        network: Mapping[str, Any] = NETWORK,
        **options: Any,
    ) -> Path:
        """Write an inventory of the fleet; returns its file."""
        file = self.folder / "fleet.proxmox.yml"
        variables = self.folder / "group_vars" / "all" / "fleet.yml"
        variables.parent.mkdir(parents=True, exist_ok=True)
        variables.write_text(json.dumps({"fleet_network": network, "fleet_roles": list(roles)}))
        file.write_text(json.dumps({"plugin": "corral.fleet.proxmox", **options}))
        return file

    def listed(self, file: Path, **environment: str) -> dict[str, Any]:
        """The inventory that a file gives."""
        strict = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"}
        ended = self.run(
            "ansible-inventory", "-i", str(file), "--list", environment=strict | environment
        )
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found


def without_lab(folder: Path) -> Operator:
    """Somebody who uses what asks no API."""
    lab = LabProcess(folder / "no-lab")
    lab.info = {
        "host": "", "port": 0, "ca_file": "", "tokens": {"deploy": {"id": "", "secret": ""}}
    }  # fmt: skip
    return Operator(lab, folder)


def make_templates(lab: LabProcess, version: str = "7", base: int = 9000) -> None:
    """A template of the fleet on every node, as module `template` leaves it."""
    api = lab.client()

    def make(index: int, node: str) -> None:
        cache = lab.folder / "nodes" / node / "local/template/cache"
        cache.mkdir(parents=True, exist_ok=True)
        (cache / TEMPLATE.rpartition("/")[2]).write_bytes(b"root file system")
        lxc = lab.client().nodes(node).lxc
        created = lxc.post(
            vmid=base + index,
            ostemplate=TEMPLATE,
            rootfs="local-lvm:2",
            hostname=f"template-{version}-{node}",
            unprivileged=1,
            net0="name=eth0,bridge=vmbr0,ip=10.7.0.250/24",
            pool="corral",
        )
        assert lab.wait(lab.client(), created) == "OK"
        lxc(base + index).template.post()
        while not lxc(base + index).config.get().get("template"):
            time.sleep(0.02)
        lxc(base + index).config.put(tags=f"corral;template;tpl-{version}")

    with ThreadPoolExecutor() as makers:
        nodes = [one["node"] for one in api.nodes.get()]
        list(makers.map(make, range(1, len(nodes) + 1), sorted(nodes)))
    lab.own("POST", "/lab/look")


def populate(lab: LabProcess, roles: Sequence[Mapping[str, Any]], network: Any) -> None:
    """A fleet that is as wanted already, put there by other means than the collection's."""
    wish = wanted(network, roles)
    nodes = sorted(one["node"] for one in lab.client().nodes.get())

    def make(role: Role, ordinal: int) -> None:
        api = lab.client()
        created = api.nodes(nodes[ordinal % len(nodes)]).lxc.post(
            vmid=role.vmid + ordinal,
            ostemplate=TEMPLATE,
            rootfs="local-lvm:1",
            unprivileged=1,
            pool="corral",
            start=1,
            tags=";".join(wish.tags(role, ordinal, role.template)),
            **wish.config(role, ordinal),
        )
        assert lab.wait(api, created) == "OK"

    with ThreadPoolExecutor() as makers:
        for role in wish.roles:
            list(makers.map(partial(make, role), range(1, role.count + 1)))
    while sum(one["status"] == "running" for one in fleet(lab).values()) < len(fleet(lab)):
        time.sleep(0.2)
    lab.own("POST", "/lab/look")


def requests_since(lab: LabProcess, entry: int) -> list[dict[str, Any]]:
    """What was asked of the API after an entry of its log."""
    found: list[dict[str, Any]] = lab.own("GET", f"/lab/requests?since={entry}")
    return found


def fleet(lab: LabProcess) -> dict[int, dict[str, Any]]:
    """What is really there: VMID -> node, status and configuration of everything but templates."""
    api = lab.client()
    return {vmid: one for vmid, one in _everything(api) if not one.get("template")}


def _everything(api: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for node in api.nodes.get():
        if node["status"] != "online":
            continue
        for one in api.nodes(node["node"]).lxc.get():
            config = api.nodes(node["node"]).lxc(one["vmid"]).config.get()
            yield int(one["vmid"]), {"node": node["node"], "status": one["status"], **config}


def kill_group(process: subprocess.Popen[Any]) -> None:
    """kill -9 of a command and all that it started."""
    os.killpg(process.pid, 9)
    process.wait()
