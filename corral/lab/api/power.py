"""Start, stop, shutdown, reboot; suspend and resume, which containers cannot.

Whether a container runs is asked before the task begins; locks, templates and missing configs are
found by the task.
"""

from __future__ import annotations

from typing import Any

from corral.lab.access import Actor
from corral.lab.answers import Refused, invalid
from corral.lab.api import Call, call, index
from corral.lab.cluster import Cluster, Container
from corral.lab.guests import guest_of
from corral.lab.tasks import Task

SHUTDOWN_SECONDS = 60
STATUS = "/nodes/{node}/lxc/{vmid}/status"


def running(cluster: Cluster, guest: Container) -> bool:
    """Whether a container runs."""
    return cluster.runs(guest.vmid)


def start(cluster: Cluster, actor: Actor, guest: Container) -> str:
    """Begin the start of a container; returns the task."""
    return _start(cluster, actor, guest.node, guest.vmid)


def _start(cluster: Cluster, actor: Actor, node: str, vmid: int) -> str:
    if f"ct:{vmid}" in cluster.kept.ha:
        return cluster.tasks.start(node, "hastart", vmid, actor, lambda task: task.point())

    def work(task: Task) -> None:
        cluster.container(node, vmid).unlocked()
        with cluster.config_lock(vmid):
            guest = cluster.container(node, vmid).unlocked()
            if guest.is_template:
                raise Refused("you can't start a CT if it's a template")
            apply_pending(cluster, guest)
            task.point()
            cluster.runtime.start(guest_of(guest), task.log)

    return cluster.tasks.start(node, "vzstart", vmid, actor, work)


def apply_pending(cluster: Cluster, guest: Container) -> None:
    """Options that could not be changed in a running container take effect."""
    for key, value in guest.pending.items():
        if value is None:
            guest.config.pop(key, None)
        else:
            guest.config[key] = value
    if guest.pending:
        guest.pending.clear()
        cluster.save_container(guest)


def shut_down(cluster: Cluster, actor: Actor, guest: Container, timeout: int, force: bool) -> str:
    """Begin the shutdown of a container; returns the task."""

    def work(task: Task) -> None:
        with cluster.config_lock(guest.vmid):
            guest.unlocked()
            task.point()
            _end(cluster, guest.vmid, timeout, force)

    return cluster.tasks.start(guest.node, "vzshutdown", guest.vmid, actor, work)


def _end(cluster: Cluster, vmid: int, timeout: int, force: bool) -> None:
    if not cluster.runs(vmid):  # another shutdown was quicker
        return
    if not cluster.runtime.shutdown(vmid, timeout):
        if not force:
            raise Refused(
                f"command 'lxc-stop -n {vmid} --nokill --timeout {timeout}' failed: exit code 1"
            )
        cluster.runtime.stop(vmid)


def _must_run(asked: Call, word: str = "CT") -> None:
    if not asked.cluster.runs(asked.vmid):
        raise Refused(f"{word} {asked.vmid} not running")


def _skiplock(asked: Call) -> None:
    if asked.get("skiplock") and not asked.actor.is_root:
        raise invalid({"skiplock": "Only root may use this option."})


index(STATUS, "current", "start", "stop", "shutdown", "reboot", "migrate", key="subdir")


@call("POST", f"{STATUS}/start")
def start_container(asked: Call) -> str:
    """Boot it."""
    _skiplock(asked)
    if asked.cluster.runs(asked.vmid):
        raise Refused(f"CT {asked.vmid} already running")
    return _start(asked.cluster, asked.actor, asked.node, asked.vmid)


@call("POST", f"{STATUS}/stop")
def stop_container(asked: Call) -> str:
    """End it at once."""
    _skiplock(asked)
    _must_run(asked)
    cluster, vmid, node = asked.cluster, asked.vmid, asked.node
    if asked.get("overrule-shutdown"):
        for other in cluster.tasks.running():
            if other.type == "vzshutdown" and other.id == str(vmid):
                cluster.tasks.stop(other)

    def work(task: Task) -> None:
        with cluster.config_lock(vmid):
            cluster.container(node, vmid).unlocked()
            task.point()
            if cluster.runs(vmid):
                cluster.runtime.stop(vmid)

    return cluster.tasks.start(node, "vzstop", vmid, asked.actor, work)


@call("POST", f"{STATUS}/shutdown")
def shutdown_container(asked: Call) -> str:
    """Ask it to power off."""
    _must_run(asked)
    timeout = asked.get("timeout", SHUTDOWN_SECONDS)
    force = bool(asked.get("forceStop"))
    return shut_down(asked.cluster, asked.actor, asked.container, timeout, force)


@call("POST", f"{STATUS}/reboot")
def reboot_container(asked: Call) -> str:
    """Shut it down and boot it again."""
    _must_run(asked, "VM")
    cluster, guest = asked.cluster, asked.container
    timeout = asked.get("timeout", SHUTDOWN_SECONDS)

    def work(task: Task) -> None:
        with cluster.config_lock(guest.vmid):
            guest.unlocked()
            task.point()
            _end(cluster, guest.vmid, timeout, force=False)
            apply_pending(cluster, guest)
            cluster.runtime.start(guest_of(guest), task.log)

    return cluster.tasks.start(asked.node, "vzreboot", guest.vmid, asked.actor, work)


@call("POST", f"{STATUS}/suspend")
def suspend_container(asked: Call) -> str:
    """Fails in its task, as it does where CRIU is not there."""
    _must_run(asked)
    return _checkpoint(asked, "vzsuspend", "-s")


@call("POST", f"{STATUS}/resume")
def resume_container(asked: Call) -> str:
    """Fails in its task, as there is nothing to resume from."""
    if asked.cluster.runs(asked.vmid):
        raise Refused(f"CT {asked.vmid} already running")
    return _checkpoint(asked, "vzresume", "-r --foreground")


def _checkpoint(asked: Call, type: str, flag: str) -> str:
    vmid: Any = asked.vmid

    def work(task: Task) -> None:
        task.log(
            f"lxc-checkpoint: {vmid}: ../src/lxc/tools/lxc_checkpoint.c: "
            f"lxc_checkpoint_main: 299 {vmid} is not defined"
        )
        raise Refused(
            f"command 'lxc-checkpoint -n {vmid} {flag} -D /var/lib/vz/dump' failed: exit code 1"
        )

    return asked.cluster.tasks.start(asked.node, type, vmid, asked.actor, work)
