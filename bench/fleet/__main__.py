"""The fleet's bench: creates containers and converges those that are there, by both collections.

Each measurement is a whole `ansible-playbook`, as a user types it, on a lab without containers;
the calls are those that the lab's own log holds. What both made is compared, setting by setting.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests
import yaml
from proxmoxer import ProxmoxAPI

from bench import BIN, ROOT
from bench.machine import processor

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "reference" / "benchmarks-fleet.md"
POOL = "corral"
NETWORK = {"bridge": "vmbr0", "subnet": "10.7.0.0/24", "gateway": "10.7.0.1"}
ARCHIVE = "debian-12-standard_12.12-1_amd64.tar.zst"
TEMPLATES = 9000  # and the number of the node
FORKS = 10
IGNORED = re.compile(r"hwaddr=[^,]*,?|type=veth,?")  # drawn or added by Proxmox
COMPARED = ("hostname", "cores", "memory", "swap", "net0", "onboot", "tags")


#: VMID -> its settings, and its node
Configs = dict[int, dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """One run of one playbook."""

    calls: int
    seconds: float
    changed: int


@dataclass(frozen=True)
class Pair:
    """The same work by both."""

    ours: Figure
    theirs: Figure

    def ratio(self, number: str) -> float:
        """How many times as much theirs takes."""
        return float(getattr(self.theirs, number)) / float(getattr(self.ours, number))


CREATE, NOTHING = "create", "nothing to do"

#: work, number of a Figure, and how many times as much theirs takes at least
BOUNDS = ((CREATE, "calls", 5), (CREATE, "seconds", 3), (NOTHING, "calls", 100))


@dataclass(frozen=True)
class Verdict:
    """A bound, and what was measured with so many containers."""

    work: str
    count: int
    number: str
    goal: int
    ratio: float

    @property
    def met(self) -> bool:
        """Whether what was promised is kept."""
        return self.ratio >= self.goal


class Lab:
    """A lab without containers, and what both collections are told of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: dict[str, Any] = {}

    def up(self) -> None:
        """Three nodes with room for all, and on each a template."""
        size = ["--nodes", "3", "--cores", "64", "--memory", "256"]
        started = subprocess.run(
            [BIN / "corral", "lab", "up", "--dry", "--data", self.folder, *size, "-o", "json"],
            check=True,
            stdout=subprocess.PIPE,
        )
        self.info = json.loads(started.stdout)
        for number, node in enumerate(self.info["nodes"], 1):
            self._template(node, TEMPLATES + number)
        self.look()

    def down(self) -> None:
        """Nothing is left of it."""
        command = [BIN / "corral", "lab", "down", "--data", self.folder]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def look(self) -> None:
        """Let its status daemon look now: names are known, as they are after ten seconds."""
        self._own("POST", "/lab/look")

    def calls(self) -> int:
        """Requests to the API so far."""
        return sum("path" in entry for entry in self._own("GET", "/lab/requests?since=0"))

    def configs(self) -> Configs:
        """What was made: settings of every container that is no template."""
        api, found = self._client(), {}
        for guest in api.cluster.resources.get(type="vm"):
            if not guest.get("template"):
                lxc = api.nodes(guest["node"]).lxc(guest["vmid"])
                assert lxc.status.current.get()["status"] == "running", guest
                config = lxc.config.get() | {"node": guest["node"]}
                config["net0"] = ",".join(sorted(IGNORED.sub("", config["net0"]).split(",")))
                found[int(guest["vmid"])] = {key: config[key] for key in (*COMPARED, "node")}
        return found

    @property
    def environment(self) -> dict[str, str]:
        """How both collections get in."""
        token = self.info["tokens"]["deploy"]
        return os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": f"{ROOT / 'playbooks' / 'collections'}",
            "ANSIBLE_FORKS": str(FORKS),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "1",
            "PROXMOX_HOST": str(self.info["host"]),
            "PROXMOX_PORT": str(self.info["port"]),
            "PROXMOX_TOKEN_ID": token["id"],
            "PROXMOX_TOKEN_SECRET": token["secret"],
            "PROXMOX_CA_FILE": str(self.info["ca_file"]),
            "REQUESTS_CA_BUNDLE": str(self.info["ca_file"]),
        }

    def _client(self) -> ProxmoxAPI:
        token = self.info["tokens"]["root"]
        user, _, name = token["id"].partition("!")
        return ProxmoxAPI(
            self.info["host"],
            port=self.info["port"],
            user=user,
            token_name=name,
            token_value=token["secret"],
            verify_ssl=self.info["ca_file"],
        )

    def _own(self, method: str, path: str) -> Any:
        answer = requests.request(
            method,
            self.info["endpoint"] + path,
            headers={"Authorization": f"Bearer {self.info['admin_token']}"},
            verify=self.info["ca_file"],
            timeout=60,
        )
        answer.raise_for_status()
        return answer.json()

    def _template(self, node: str, vmid: int) -> None:
        cache = self.folder / "nodes" / node / "local/template/cache"
        cache.mkdir(parents=True, exist_ok=True)
        (cache / ARCHIVE).write_bytes(b"root file system")
        lxc = self._client().nodes(node).lxc
        lxc.post(
            vmid=vmid,
            ostemplate=f"local:vztmpl/{ARCHIVE}",
            rootfs="local-lvm:2",
            hostname=f"template-{node}",
            unprivileged=1,
            net0="name=eth0,bridge=vmbr0,ip=10.7.0.5/24",
            pool=POOL,
        )
        _until(lambda: lxc(vmid).config.get().get("lock") is None)
        lxc(vmid).template.post()
        _until(lambda: lxc(vmid).config.get().get("template") == 1)
        lxc(vmid).config.put(tags="corral;template;tpl-1")


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@contextmanager
def lab() -> Iterator[Lab]:
    """A fresh one."""
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as folder:
        one = Lab(Path(folder) / "lab")
        one.up()
        try:
            yield one
        finally:
            one.down()


class Fleet:
    """So many workers, as each collection is told of them."""

    def __init__(self, count: int, folder: Path) -> None:
        self._folder = folder
        self._role = {
            "name": "worker", "count": count, "vmid": 5000, "template": "1",
            "address_offset": 100, "cores": 2, "memory_mib": 1024,
        }  # fmt: skip

    def ours(self, one: Lab) -> Figure:
        """Converge them by corral.fleet."""
        variables = {"roles": [self._role], "network": NETWORK, "pool": POOL}
        return self._play(one, "ours.yml", {"all": {"vars": variables}})

    def theirs(self, one: Lab, wanted: Configs) -> Figure:
        """Converge them by community.proxmox, each with the settings that ours gives it."""
        hosts = {
            config["hostname"]: {
                "vmid": vmid,
                "template": str(TEMPLATES + 1 + one.info["nodes"].index(config["node"])),
                "node": config["node"],
                "wanted": config,
            }
            for vmid, config in wanted.items()
        }
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        fleet = {"hosts": hosts, "vars": variables | {"pool": POOL}}
        return self._play(one, "theirs.yml", {"all": {"children": {"fleet": fleet}}})

    def _play(self, one: Lab, playbook: str, inventory: dict[str, Any]) -> Figure:
        file = self._folder / f"{playbook}.inventory.yml"
        file.write_text(yaml.safe_dump(inventory))
        before, began = one.calls(), time.monotonic()
        played = subprocess.run(
            [BIN / "ansible-playbook", "-i", file, HERE / playbook],
            env=one.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if played.returncode:
            sys.exit(f"bench: {playbook} failed\n{played.stdout[-4000:]}\n{played.stderr}")
        changed = sum(map(int, re.findall(r"changed=(\d+)", played.stdout)))
        return Figure(one.calls() - before, seconds, changed)


# --- the run -------------------------------------------------------------------------------------


def compared(create: int, steady: int, folder: Path) -> Iterator[tuple[str, int, Pair]]:
    """Work, how many containers, and what it took both.

    Raises:
        AssertionError: the two did not make the same.
    """
    few, many = Fleet(create, folder), Fleet(steady, folder)
    with lab() as one, lab() as other:
        ours = few.ours(one)
        wanted = one.configs()
        yield CREATE, create, Pair(ours, few.theirs(other, wanted))
        assert other.configs() == wanted, "the two made different containers"
        for each in (one, other):
            each.look()
        yield NOTHING, create, Pair(few.ours(one), few.theirs(other, wanted))
    with lab() as one:
        many.ours(one)
        one.look()
        wanted = one.configs()
        yield NOTHING, steady, Pair(many.ours(one), many.theirs(one, wanted))


def table(pairs: Sequence[tuple[str, int, Pair]]) -> str:
    """What was measured."""
    lines = [
        "| work | containers | calls: corral.fleet | community.proxmox | x |"
        " seconds: corral.fleet | community.proxmox | x |",
        f"|{' --- |' * 8}",
    ]
    for work, count, pair in pairs:
        cells = [work, str(count)]
        for number in ("calls", "seconds"):
            form = ",.0f" if number == "calls" else ",.1f"
            cells += [format(getattr(one, number), form) for one in (pair.ours, pair.theirs)]
            cells.append(f"{pair.ratio(number):,.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def judged(pairs: Sequence[tuple[str, int, Pair]]) -> list[Verdict]:
    """What was promised, on every size that was measured."""
    return [
        Verdict(work, count, number, goal, pair.ratio(number))
        for work, number, goal in BOUNDS
        for done, count, pair in pairs
        if done == work
    ]


def verdicts(pairs: Sequence[tuple[str, int, Pair]]) -> str:
    """What was promised, and whether it was met."""
    lines = [
        f"- {one.work}, {one.count} containers: at least {one.goal} times fewer {one.number};"
        f" measured {one.ratio:,.1f}: {'met' if one.met else 'MISSED'}"
        for one in judged(pairs)
    ]
    lines += [
        f"- {work}, {count} containers: tasks reported as changed:"
        f" corral.fleet {pair.ours.changed}, community.proxmox {pair.theirs.changed}"
        for work, count, pair in pairs
        if work == NOTHING
    ]
    return "\n".join(lines)


def page(pairs: Sequence[tuple[str, int, Pair]], command: str, day: str, load: float) -> str:
    """The page of the docs."""
    versions = f"Python {platform.python_version()}, "
    versions += ", ".join(f"{name} {version(name)}" for name in ("ansible", "ansible-core"))
    machine = f"{os.cpu_count()} cores ({processor()}), load average up to {load:.0f}"
    told = f"`{command}`, {day}; {machine}; {versions} (community.proxmox {public()})"
    return "\n\n".join([INTRODUCTION, told, table(pairs), verdicts(pairs), METHOD]) + "\n"


def public() -> str:
    """The version of the public collection."""
    file = Path(
        sysconfig.get_path("purelib"), "ansible_collections/community/proxmox/MANIFEST.json"
    )
    return str(json.loads(file.read_text())["collection_info"]["version"])


INTRODUCTION = """\
# The fleet beside the public collection

Written by `make bench-fleet`, which measures the same on your machine; do not edit."""
METHOD = """\
Both make the same containers on `corral lab up --dry`, whose clones take no time: linked clones of
three templates on three nodes, then hostname, cores, memory, swap, address, tags, started. Every
setting of what was made is compared. Calls are those in the lab's own request log; seconds are
those of the whole `ansible-playbook`. *Nothing to do* is the same playbook once more.

corral.fleet takes one task for the whole fleet (`bench/fleet/ours.yml`). community.proxmox takes
three for each container (`bench/fleet/theirs.yml`), because its clone takes no settings; they run
on ten containers at once, but for clones: two of one template at once fail."""


def main() -> int:
    """Run the bench; it fails when a bound is missed."""
    parser = argparse.ArgumentParser(prog="bench/fleet/run.sh", description=__doc__)
    parser.add_argument("--create", type=int, default=30, help="containers to create (30)")
    parser.add_argument("--steady", type=int, default=100, help="containers to leave alone (100)")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no lab is left behind
    pairs, load = [], 0.0
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as folder:
        for work, count, pair in compared(options.create, options.steady, Path(folder)):
            print(f"bench: {work}, {count} containers: {pair}", file=sys.stderr)
            pairs.append((work, count, pair))
            load = max(load, os.getloadavg()[0])
    print(table(pairs), verdicts(pairs), sep="\n\n")
    if options.write:
        command = " ".join(["bash bench/fleet/run.sh", *sys.argv[1:]])
        PAGE.write_text(page(pairs, command, time.strftime("%Y-%m-%d"), load))
    return 0 if all(one.met for one in judged(pairs)) else 1


if __name__ == "__main__":
    sys.exit(main())
