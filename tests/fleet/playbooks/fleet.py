"""What the tests of playbooks do to a fleet behind its back, and how they look at it."""

from __future__ import annotations

import json
import time

from tests.fleet.site import Site

BROKER = 4001
WORKERS = 3  # of inventory/lab
DEADLINE = 60.0


def vmids(workers: int = WORKERS) -> set[int]:
    """A broker and so many workers."""
    return {BROKER, *(5000 + ordinal for ordinal in range(1, workers + 1))}


def names(workers: int = WORKERS) -> set[str]:
    """The hosts of so many workers."""
    return {f"worker-{ordinal}" for ordinal in range(1, workers + 1)}


def live(site: Site) -> set[str]:
    """The workers that the broker hears of."""
    return {name for name, worker in site.workers().items() if worker.health == "live"}


def as_wanted(site: Site, workers: int = WORKERS) -> bool:
    """Whether the fleet is there, at work, and no other container is; the broker remembers some."""
    there = site.containers()
    return (
        there.keys() == vmids(workers)
        and all(one["status"] == "running" and "lock" not in one for one in there.values())
        and live(site) >= names(workers)
    )


def boot(site: Site, vmid: int, name: str, address: str, **more: str) -> None:
    """Clone the template on its first node by hand, and wait until SSH answers."""
    api = site.lab.client().nodes("pve1")
    template = next(one["vmid"] for one in api.lxc.get() if one.get("template"))
    cloned = api.lxc(template).clone.post(newid=vmid, hostname=name, **more)
    assert site.lab.wait(site.lab.client(), cloned) == "OK"
    card = f"name=eth0,bridge=vmbr0,ip={address}/24,gw={site.subnet}.1"
    api.lxc(vmid).config.put(net0=card, cores=1, memory=512)
    assert site.lab.wait(site.lab.client(), api.lxc(vmid).status.start.post()) == "OK"
    until = time.monotonic() + DEADLINE
    while site.ssh(address, "true").returncode:
        assert time.monotonic() < until
        time.sleep(0.1)


def destroy(site: Site, *gone: int) -> None:
    """Take containers away, as somebody does who knows nothing of Corral."""
    api = site.lab.client()
    there = site.containers()
    tasks = [
        api.nodes(there[vmid]["node"]).lxc(vmid).delete(force=1) for vmid in gone if vmid in there
    ]
    for task in tasks:
        assert site.lab.wait(api, task) == "OK"


def submit(site: Site, count: int, seconds: float) -> list[str]:
    """Tasks that sleep; returns their ids."""
    lines = "\n".join(json.dumps({"params": {"seconds": seconds}}) for _ in range(count))
    file = site.folder / "tasks.jsonl"
    file.write_text(lines)
    return site.corral("task", "submit", "sleep", "--file", str(file), "-o", "name").split()


def succeeded(site: Site, ids: list[str]) -> bool:
    """Whether all have ended well."""
    with site.client() as client:
        return {one.state for one in client.show(ids)} == {"succeeded"}


def wait_until_done(site: Site, ids: list[str]) -> None:
    """Until all have ended well."""
    until = time.monotonic() + DEADLINE
    while not succeeded(site, ids):
        assert time.monotonic() < until
        time.sleep(0.5)
