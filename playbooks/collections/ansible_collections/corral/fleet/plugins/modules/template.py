"""The module `template`: versions of the template, from a tarball to a replica on every node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: template
short_description: Make, replicate, try and retire versions of the template
version_added: 1.0.0
description:
  - A version of the template is made in steps, because its inside is made over SSH by a role.
    O(state=building) gives a running container to work in, O(state=sealed) turns it into a
    template on every node, O(state=tried) clones each replica once, waits for SSH and notes on the
    replica that it was tried, and O(state=retired) destroys versions that nothing was cloned from.
  - Versions stand beside each other. A template that has clones is never destroyed.
  - Every step finds what an interrupted run left behind and goes on from there.
options:
  state:
    description: The step.
    type: str
    choices: [building, sealed, tried, retired]
    required: true
  version:
    description:
      - The version; lower-case letters, digits, hyphens, dots and plus signs.
      - In O(state=retired), the version in use, which stays.
    type: str
    required: true
  vmid:
    description: Base of the VMIDs of templates. The hundred above it are theirs.
    type: int
    default: 9000
  pool:
    description: The pool of the templates.
    type: str
    required: true
  nodes:
    description:
      - Nodes that get a replica. The first one builds. Default is every node that is online.
      - On shared storage one node is enough.
    type: list
    elements: str
  archive:
    description: O(state=building) - A root file system as a tarball on this machine; it is
      uploaded when the storage lacks it.
    type: path
  archive_storage:
    description: O(state=building) - The storage that keeps tarballs.
    type: str
    default: local
  storage:
    description: O(state=building) - The storage of the root file system.
    type: str
  disk_gib:
    description: O(state=building) - Size of the root file system, in GiB.
    type: int
    default: 8
  cores:
    description: O(state=building) - Cores while building; every clone says its own.
    type: int
    default: 2
  memory_mib:
    description: O(state=building) - Memory while building, in MiB.
    type: int
    default: 1024
  ssh_public_keys:
    description: O(state=building) - Keys that may log in as root while building.
    type: list
    elements: str
    default: []
  bridge:
    description: O(state=building) and O(state=tried) - Bridge of eth0.
    type: str
  address:
    description: O(state=building) and O(state=tried) - Address of eth0 with its prefix length,
      such as V(10.90.0.5/24).
    type: str
  gateway:
    description: O(state=building) and O(state=tried) - The default gateway.
    type: str
  nameserver:
    description: O(state=building) - Name servers, separated by spaces.
    type: str
  ssh_port:
    description: O(state=tried) - The port that SSH listens on.
    type: int
    default: 22
  ssh_timeout:
    description: O(state=tried) - Seconds until SSH must answer.
    type: int
    default: 60
  keep:
    description: O(state=retired) - How many versions without clones stay beside O(version), the
      newest first.
    type: int
    default: 1
  lock_timeout:
    description: Seconds to wait for a locked container or storage before saying who holds it.
    type: int
    default: 120
  task_timeout:
    description: Seconds that one task of Proxmox may take.
    type: int
    default: 1800
extends_documentation_fragment: corral.fleet.api
attributes:
  check_mode:
    description: Says what it would do and does nothing.
    support: full
  diff_mode:
    description: Shows the steps.
    support: full
author: The Corral authors
"""

EXAMPLES = r"""
- name: Have a container to build in
  corral.fleet.template:
    state: building
    version: "7"
    pool: corral
    archive: build/debian-12.tar.zst
    storage: local-lvm
    bridge: vmbr0
    address: 10.90.0.5/24
    gateway: 10.90.0.1
    ssh_public_keys: ["{{ lookup('ansible.builtin.file', '~/.ssh/corral.pub') }}"]
  register: build

- name: Let the role work in it
  ansible.builtin.add_host:
    name: template
    ansible_host: "{{ build.address }}"
  when: not build.sealed
  changed_when: false

- name: Turn it into a template on every node
  corral.fleet.template: {state: sealed, version: "7", pool: corral}

- name: Clone each replica that was not tried yet
  corral.fleet.template:
    state: tried
    version: "7"
    pool: corral
    bridge: vmbr0
    address: 10.90.0.6/24

- name: Destroy old versions
  corral.fleet.template: {state: retired, version: "7", pool: corral}
"""

RETURN = r"""
sealed:
  description: Whether the version is a template already, so that there is nothing to build.
  returned: state is building
  type: bool
vmid:
  description: The container to build in.
  returned: state is building
  type: int
node:
  description: The node that builds.
  returned: state is building
  type: str
address:
  description: Where the container to build in is reached.
  returned: state is building
  type: str
steps:
  description: What was done, or is to be done, one line each.
  returned: success
  type: list
  elements: str
templates:
  description: The templates of the fleet as they are now.
  returned: success
  type: list
  elements: dict
  sample: [{vmid: 9001, node: pve1, version: "7", clones: 12}]
calls:
  description: Calls made to the API, as M(corral.fleet.containers) counts them.
  returned: always
  type: dict
"""

import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.corral.fleet.plugins.module_utils import connection, replicas
from ansible_collections.corral.fleet.plugins.module_utils.connection import Api
from ansible_collections.corral.fleet.plugins.module_utils.module import Result, run
from ansible_collections.corral.fleet.plugins.module_utils.patience import Patience
from ansible_collections.corral.fleet.plugins.module_utils.problems import BadWish, Problem
from ansible_collections.corral.fleet.plugins.module_utils.replicas import Replicas
from ansible_collections.corral.fleet.plugins.module_utils.seen import (
    BUILDING,
    TEMPLATE,
    Cluster,
    Guest,
    cluster,
)
from ansible_collections.corral.fleet.plugins.module_utils.steps import Steps
from ansible_collections.corral.fleet.plugins.module_utils.tasks import EVERY, Tasks
from ansible_collections.corral.fleet.plugins.module_utils.wanted import VERSION

SHUTDOWN_SECONDS = 60
GREETING = b"SSH-"


class Versions:
    """The steps of one run."""

    def __init__(
        self, api: Api, options: Mapping[str, Any], tasks: Tasks, steps: Steps, result: Result
    ) -> None:
        self.api = api
        self.options = options
        self.patience = Patience(api, tasks, options["lock_timeout"])
        self.steps = steps
        self.result = result
        self.version: str = options["version"]
        self.look()

    def look(self) -> None:
        """See the cluster as it is now, where templates are."""
        seen = cluster(self.api.get("/cluster/resources"))
        nodes = {guest.node for guest in seen.guests.values() if guest.tags & {TEMPLATE, BUILDING}}
        self.seen: Cluster = connection.with_live(
            self.api, seen, sorted(node for node in nodes if seen.online(node))
        )
        self.replicas = Replicas(self.seen, self.options["vmid"])

    def nodes(self) -> list[str]:
        """Nodes that get a replica."""
        online = [name for name in sorted(self.seen.nodes) if self.seen.online(name)]
        asked: list[str] = self.options["nodes"] or online
        if away := [node for node in asked if node not in online]:
            raise Problem(
                f"Node {', '.join(away)} is offline or not in the cluster: bring it back, or leave"
                " it out of nodes; online are " + ", ".join(online) + "."
            )
        return asked

    # --- building -------------------------------------------------------------------------

    def build(self) -> None:
        """A running container to work in, unless the version is a template already."""
        finished = self.replicas.finished(self.version)
        unfinished = self.replicas.unfinished(self.version)
        self.result["sealed"] = bool(finished) or any(one.flag for one in unfinished)
        if self.result["sealed"]:
            return
        if unfinished:
            vmid, node = unfinished[0].vmid, unfinished[0].node
            running = unfinished[0].status == "running"
        else:
            vmid, node, running = self.replicas.free(), self.nodes()[0], False
            self.steps.do(f"create container {vmid} on {node}", lambda: self._create(vmid, node))
        if not running:
            self.steps.do(f"start container {vmid}", lambda: self._post(node, vmid, "status/start"))
        self.result |= {
            "vmid": vmid,
            "node": node,
            "address": self.options["address"].partition("/")[0],
        }

    def _create(self, vmid: int, node: str) -> None:
        options = self.options
        volume = self._archive(node)
        self.patience.do(
            lambda: self.api.post(
                f"/nodes/{node}/lxc",
                vmid=vmid,
                ostemplate=volume,
                hostname=replicas.name("build", self.version, vmid),
                rootfs=f"{options['storage']}:{options['disk_gib']}",
                cores=options["cores"],
                memory=options["memory_mib"],
                swap=0,
                net0=self._eth0(),
                nameserver=options["nameserver"],
                unprivileged=1,
                features="nesting=1",  # systemd isolates services by it
                pool=options["pool"],
                tags=replicas.tags(BUILDING, self.version),
                ssh__public__keys="\n".join(options["ssh_public_keys"]) or None,
            )
        )

    def _eth0(self) -> str:
        options = self.options
        gateway = f",gw={options['gateway']}" if options["gateway"] else ""
        return f"name=eth0,bridge={options['bridge']},ip={options['address']}{gateway}"

    def _archive(self, node: str) -> str:
        """The volume with the root file system; uploaded when it is not there, or another one."""
        file, storage = Path(self.options["archive"]), self.options["archive_storage"]
        if not file.is_file():
            raise BadWish(f"archive {file} is not there: make it, or mend the path.")
        volume = f"{storage}:vztmpl/{file.name}"
        there = self.api.get(f"/nodes/{node}/storage/{storage}/content", content="vztmpl")
        if not any(one["volid"] == volume and one["size"] == file.stat().st_size for one in there):

            def upload() -> str:
                with file.open("rb") as stream:
                    upid: str = self.api.post(
                        f"/nodes/{node}/storage/{storage}/upload", content="vztmpl", filename=stream
                    )
                return upid

            self.patience.do(upload)
        return volume

    # --- sealing --------------------------------------------------------------------------

    def seal(self) -> None:
        """A template of the version on every node."""
        wanted = self.nodes()
        finished = dict(self.replicas.finished(self.version))
        unfinished = self.replicas.unfinished(self.version)
        if not finished and not unfinished:
            raise Problem(
                f"There is nothing of version {self.version} to seal: begin with state building."
            )
        if not finished:
            first = min(unfinished, key=lambda one: (one.node != wanted[0], one.vmid))
            unfinished.remove(first)
            self._convert(first, first.node)
            finished[first.node] = first
        for node in [node for node in wanted if node not in finished]:
            # What an interrupted run left is used up first, here or to be moved here.
            unfinished.sort(key=lambda one: (one.node != node, one.vmid))
            if unfinished:
                replica = unfinished.pop(0)
            else:
                replica = self._copy(min(finished.values(), key=lambda one: one.vmid))
            if replica.node != node:
                self._move(replica, node)
            self._convert(replica, node)
            finished[node] = replica
        for left in unfinished:
            self._destroy(left)

    def _copy(self, source: Guest) -> Guest:
        vmid = self.replicas.free()
        name = replicas.name("build", self.version, vmid)
        made = Guest(vmid, source.node, name=name, status="stopped", flag=False)
        self.replicas = Replicas(
            Cluster(self.seen.nodes, {**self.replicas.seen.guests, vmid: made}), self.replicas.base
        )
        self.steps.do(
            f"copy template {source.vmid} to container {vmid} on {source.node}",
            lambda: self._clone(source, vmid, name, full=True),
        )
        return made

    def _clone(self, source: Guest, vmid: int, name: str, *, full: bool) -> None:
        self.patience.do(
            lambda: self.api.post(
                f"/nodes/{source.node}/lxc/{source.vmid}/clone",
                newid=vmid,
                hostname=name,
                full=full,
                pool=self.options["pool"],
            )
        )

    def _move(self, replica: Guest, node: str) -> None:
        self.steps.do(
            f"move container {replica.vmid} from {replica.node} to {node}",
            lambda: self._post(replica.node, replica.vmid, "migrate", target=node),
        )

    def _convert(self, replica: Guest, node: str) -> None:
        """Stop it, turn it into a template, and only then tag it as one."""
        if replica.status == "running":
            self.steps.do(
                f"stop container {replica.vmid}",
                lambda: self._post(
                    node, replica.vmid, "status/shutdown", forceStop=1, timeout=SHUTDOWN_SECONDS
                ),
            )
        if not replica.flag:
            self.steps.do(
                f"make container {replica.vmid} on {node} a template",
                lambda: self._make_template(node, replica.vmid),
            )
        self.steps.do(
            f"tag template {replica.vmid} as version {self.version}",
            lambda: self._put_config(node, replica.vmid, tags=self._finished_tags()),
        )

    def _finished_tags(self) -> str:
        return replicas.tags(TEMPLATE, self.version)

    def _make_template(self, node: str, vmid: int) -> None:
        """The call names no task, so the flag is what tells the end."""
        self._post(node, vmid, "template")
        until = time.monotonic() + self.options["task_timeout"]
        while not self.api.get(f"/nodes/{node}/lxc/{vmid}/config").get("template"):
            if time.monotonic() > until:
                raise Problem(
                    f"Container {vmid} did not become a template in {self.options['task_timeout']}"
                    f" s: look at the task vztemplate on node {node}."
                )
            time.sleep(EVERY / 2)

    # --- trying and retiring --------------------------------------------------------------

    def try_out(self) -> None:
        """Clone each replica that was not tried yet, and wait for SSH."""
        if not self.replicas.finished(self.version):
            raise Problem(f"There is no template {self.version} to try: seal it first.")
        for left in self.replicas.trials():
            self._destroy(left)
        for source in self.replicas.untried(self.version):
            vmid = self.replicas.free()
            self.steps.do(
                f"clone template {source.vmid} on {source.node} and wait for SSH",
                partial(self._try, source, vmid),
            )

    def _try(self, source: Guest, vmid: int) -> None:
        node = source.node
        name = replicas.name(replicas.TRIAL, self.version, vmid)
        self._clone(source, vmid, name, full=False)
        try:
            self._put_config(node, vmid, net0=self._eth0())
            self._post(node, vmid, "status/start")
            self._wait_for_ssh(source)
        finally:
            self._delete(node, vmid)
        tags = source.tags | {replicas.tried(source.vmid)}
        self._put_config(node, source.vmid, tags=";".join(sorted(tags)))

    def _wait_for_ssh(self, source: Guest) -> None:
        host, port = self.options["address"].partition("/")[0], self.options["ssh_port"]
        until = time.monotonic() + self.options["ssh_timeout"]
        while True:
            try:
                with socket.create_connection((host, port), timeout=2) as connected:
                    if connected.recv(4) == GREETING:
                        return
                    why = "something else than SSH answers"
            except OSError as error:
                why = str(error)
            if time.monotonic() > until:
                raise Problem(
                    f"A clone of template {source.vmid} on {source.node} gave no SSH at"
                    f" {host}:{port} in {self.options['ssh_timeout']} s ({why}): look at"
                    " what the role lxc_template did, and build another version."
                )
            time.sleep(0.2)

    def retire(self) -> None:
        """Destroy old versions that nothing was cloned from."""
        for template in self.replicas.retired(self.version, self.options["keep"]):
            self._destroy(template)

    def _destroy(self, guest: Guest) -> None:
        self.steps.do(
            f"destroy {guest.vmid} ({guest.name or guest.version}) on {guest.node}",
            lambda: self._delete(guest.node, guest.vmid),
        )

    # --- calls ----------------------------------------------------------------------------

    def _post(self, node: str, vmid: int, what: str, **params: Any) -> None:
        self.patience.do(lambda: self.api.post(f"/nodes/{node}/lxc/{vmid}/{what}", **params))

    def _put_config(self, node: str, vmid: int, **config: Any) -> None:
        self.patience.do(lambda: self.api.put(f"/nodes/{node}/lxc/{vmid}/config", **config))

    def _delete(self, node: str, vmid: int) -> None:
        self.patience.do(lambda: self.api.delete(f"/nodes/{node}/lxc/{vmid}", force=1, purge=1))


def work(api: Api, options: Mapping[str, Any], check: bool, result: Result) -> None:
    """Do the step that is asked for."""
    if not VERSION.fullmatch(options["version"]):
        raise BadWish(
            f"version {options['version']!r} cannot be a tag: use lower-case letters, digits,"
            " hyphens, dots and plus signs."
        )
    with Tasks(api, options["task_timeout"]) as tasks:
        versions = Versions(api, options, tasks, Steps(check, result), result)
        {
            "building": versions.build,
            "sealed": versions.seal,
            "tried": versions.try_out,
            "retired": versions.retire,
        }[options["state"]]()
        if result["changed"] and not check:
            versions.look()
    result["templates"] = replicas.listed(versions.seen)


def main() -> None:
    address = ["bridge", "address"]
    run(
        DOCUMENTATION,
        work,
        required_if=[
            ("state", "building", ["archive", "storage", *address]),
            ("state", "tried", address),
        ],
    )


if __name__ == "__main__":
    main()
