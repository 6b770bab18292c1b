"""The state of the lab: nodes, containers, pools, storages; and its locks.

A container's config is a mapping, as the file is that Proxmox keeps. Each container has a file of
its own; the rest is in one. Calls and tasks change these mappings at the same time: who goes
through one takes a list of it first, which nothing interrupts. What the status daemon saw last is
kept apart: `/cluster/resources` tells names and states from it, and so lags behind. What may be
done is the API's matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from corral.lab import store
from corral.lab.access import Access
from corral.lab.answers import Refused
from corral.lab.faults import Faults
from corral.lab.firewall import Firewall
from corral.lab.runtime import Runtime, Usage
from corral.lab.settings import Settings
from corral.lab.tasks import Tasks, WorkerLost

Config = dict[str, str | int | float]

EXPIRY_SECONDS = 300.0  # after which the statistics of a dead node's containers are forgotten
RELEASE = {"version": "9.2.11", "release": "9.2", "repoid": "14a22df35955d97d"}


class Container(msgspec.Struct, omit_defaults=True):
    """One container, running or not."""

    vmid: int
    node: str
    config: Config
    pending: dict[str, str | int | float | None] = {}  # None: the option is to be deleted
    snapshots: dict[str, Config] = {}
    volumes: dict[str, int] = {}  # volume id -> when it was made
    keys: str = ""  # for root's authorized_keys, as given at its creation
    unmade: list[str] = []  # those of further mount points, which exist only in the config
    firewall: Firewall = msgspec.field(default_factory=Firewall)

    @property
    def name(self) -> str:
        """The hostname, or what Proxmox shows for one without."""
        return str(self.config.get("hostname", f"CT{self.vmid}"))

    @property
    def is_template(self) -> bool:
        """Whether it is only to be cloned."""
        return bool(self.config.get("template"))

    def unlocked(self) -> Container:
        """Itself.

        Raises:
            Refused: some task has it.
        """
        if "lock" in self.config:
            raise Refused(f"CT is locked ({self.config['lock']})")
        return self

    def digest(self) -> str:
        """Of the config, as a change of it must name."""
        return digest([self.config, self.pending, self.snapshots])


class Pool(msgspec.Struct, omit_defaults=True):
    """Containers and storages that share permissions."""

    comment: str = ""
    vms: list[int] = []
    storage: list[str] = []


class Kept(msgspec.Struct):
    """What is kept beside the containers."""

    pools: dict[str, Pool] = {}
    storages: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {}
    ha: dict[str, dict[str, Any]] = {}
    ha_rules: dict[str, dict[str, Any]] = {}


class Seen(msgspec.Struct):
    """What the status daemon saw of a container."""

    at: float
    node: str
    fields: dict[str, Any]


def digest(value: object) -> str:
    """A digest of any state, as Proxmox tells one of a file."""
    return hashlib.sha1(msgspec.json.encode(value, order="deterministic")).hexdigest()


class Cluster:
    """Everything, for the calls of the API."""

    def __init__(self, folder: Path, settings: Settings, runtime: Runtime) -> None:
        self.folder = folder
        self.settings = settings
        self.runtime = runtime
        self.faults = Faults()
        self.tasks = Tasks(folder / "tasks", self.faults)
        self.lock = threading.RLock()  # of the mappings here; held for moments
        self.started = time.time()
        self.fingerprint = ""  # of the certificate
        self.seen: dict[int, Seen] = {}
        self._config_locks: dict[int, threading.RLock] = {}
        self._backup_locks: dict[str, threading.Lock] = {}
        self._file = folder / "cluster.json"
        self.kept = store.load(self._file, Kept) or Kept(storages=_storages())
        loaded = (store.load(path, Container) for path in (folder / "guests").glob("*.json"))
        self.containers = {guest.vmid: guest for guest in loaded if guest is not None}
        self._members: Mapping[str, frozenset[str]] = {}
        self.access = Access(folder / "access.json", lambda: self._members)
        self._remember_members()

    # --- keeping -----------------------------------------------------------------------------

    def save(self) -> None:
        """Keep pools, storages and options."""
        with self.lock:
            self._remember_members()
            store.save(self._file, self.kept)

    def save_container(self, guest: Container) -> None:
        """Keep a container that was changed, or is new."""
        with self.lock:
            self.containers[guest.vmid] = guest
            store.save(self.folder / "guests" / f"{guest.vmid}.json", guest)

    def forget_container(self, guest: Container) -> None:
        """A container is gone, from its pool too."""
        with self.lock:
            self.containers.pop(guest.vmid, None)
            self.seen.pop(guest.vmid, None)
            (self.folder / "guests" / f"{guest.vmid}.json").unlink(missing_ok=True)
            self.leave_pools(guest.vmid)

    def _remember_members(self) -> None:
        self._members = {
            name: frozenset(
                [f"/vms/{vmid}" for vmid in pool.vms]
                + [f"/storage/{storage}" for storage in pool.storage]
            )
            for name, pool in self.kept.pools.items()
        }

    # --- containers --------------------------------------------------------------------------

    def container(self, node: str, vmid: int) -> Container:
        """The container of that number on that node.

        Raises:
            Refused: it has none.
        """
        guest = self.containers.get(vmid)
        if guest is None or guest.node != node:
            raise Refused(f"Configuration file 'nodes/{node}/lxc/{vmid}.conf' does not exist")
        return guest

    def add(self, guest: Container) -> None:
        """Reserve a number in the whole cluster, by the config of a new container.

        Raises:
            Refused: the number is taken.
        """
        with self.lock:
            other = self.containers.get(guest.vmid)
            if other is not None:
                raise Refused(f"CT {guest.vmid} already exists on node '{other.node}'")
            self.save_container(guest)

    @contextlib.contextmanager
    def config_lock(self, vmid: int) -> Iterator[None]:
        """Exclude other changes of a container's config; waits for them a while.

        Raises:
            Refused: somebody holds it for too long.
        """
        with self.lock:
            lock = self._config_locks.setdefault(vmid, threading.RLock())
        if not lock.acquire(timeout=self.settings.lock_seconds):
            raise Refused(f"can't lock file '/run/lock/lxc/pve-config-{vmid}.lock' - got timeout")
        try:
            yield
        finally:
            lock.release()

    def set_lock(self, node: str, vmid: int, name: str) -> Container:
        """Put a lock into the config, where it outlives the process that set it."""
        with self.config_lock(vmid):
            guest = self.container(node, vmid).unlocked()
            guest.config["lock"] = name
            self.save_container(guest)
            return guest

    def unset_lock(self, guest: Container) -> None:
        """Remove the lock from the config."""
        with self.config_lock(guest.vmid):
            if guest.config.pop("lock", None) is not None:
                self.save_container(guest)

    def backup_lock(self, node: str) -> threading.Lock:
        """Held by the one backup job of a node."""
        with self.lock:
            return self._backup_locks.setdefault(node, threading.Lock())

    def usage(self) -> Mapping[int, Usage]:
        """What runs, by number."""
        return self.runtime.usage()

    def runs(self, vmid: int) -> bool:
        """Whether a container runs."""
        return vmid in self.runtime.usage()

    # --- pools -------------------------------------------------------------------------------

    def pool_of(self, vmid: int) -> str | None:
        """The pool that a container is in."""
        return next(
            (name for name, pool in list(self.kept.pools.items()) if vmid in pool.vms), None
        )

    def join_pool(self, name: str, vmid: int) -> None:
        """Put a container into a pool."""
        with self.lock:
            self.kept.pools[name].vms.append(vmid)
            self.save()

    def leave_pools(self, vmid: int) -> None:
        """Take a container out of its pool."""
        with self.lock:
            for pool in self.kept.pools.values():
                if vmid in pool.vms:
                    pool.vms.remove(vmid)
                    self.save()

    # --- nodes -------------------------------------------------------------------------------

    def is_up(self, node: str) -> bool:
        """Whether a node answers."""
        return not self.faults.is_down(node)

    def take_down(self, node: str) -> None:
        """What happens when a node dies: its tasks are lost, its containers stop."""
        self.tasks.lose(node)
        usage = self.usage()
        for guest in list(self.containers.values()):
            if guest.node == node and guest.vmid in usage:
                with contextlib.suppress(WorkerLost):
                    self.runtime.stop(guest.vmid)

    def known(self, vmid: int) -> dict[str, Any] | None:
        """What the status daemon last saw of a container, unless that is too old."""
        seen = self.seen.get(vmid)
        if seen is None or time.time() - seen.at > EXPIRY_SECONDS:
            return None
        return seen.fields


def _storages() -> dict[str, dict[str, Any]]:
    """The storages of a fresh installation."""
    return {
        "local": {
            "type": "dir",
            "path": "/var/lib/vz",
            "content": "iso,vztmpl,backup,snippets",
            "prune-backups": "keep-all=1",
        },
        "local-lvm": {
            "type": "lvmthin",
            "vgname": "pve",
            "thinpool": "data",
            "content": "rootdir,images",
        },
    }
