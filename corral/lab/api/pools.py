"""Pools: containers and storages that share permissions."""

from __future__ import annotations

from typing import Any

from corral.lab import status
from corral.lab.answers import Refused, forbidden
from corral.lab.api import Call, call
from corral.lab.cluster import Pool
from corral.lab.formats import split_list

ONE = "/pools/{poolid}"


def _pool(asked: Call) -> Pool:
    name = asked["poolid"]
    if name not in asked.cluster.kept.pools:
        raise Refused(f"pool '{name}' does not exist")
    return asked.cluster.kept.pools[name]


def _shown(asked: Call, pool: Pool) -> dict[str, Any]:
    cluster, kind = asked.cluster, asked.get("type")
    members: list[dict[str, Any]] = []
    for vmid in pool.vms:
        guest = cluster.containers.get(vmid)
        if guest is not None and kind in (None, "lxc"):
            entry = status.resource_of_container(cluster, guest)
            members.append({key: entry[key] for key in entry if key not in status.LIVE})
    for name in pool.storage if kind in (None, "storage") else ():
        for node in cluster.settings.names:
            entry = {"id": f"storage/{node}/{name}", "type": "storage", "node": node}
            members.append({**entry, "storage": name, "status": "available"})
    shown: dict[str, Any] = {"members": members}
    return shown | ({"comment": pool.comment} if pool.comment else {})


@call("GET", "/pools")
def pools(asked: Call) -> list[dict[str, Any]]:
    """Those that the actor may see; a pool that is named shows its members to everybody."""
    if "poolid" in asked.params:
        return [{"poolid": asked["poolid"], **_shown(asked, _pool(asked))}]
    return [
        {"poolid": name, **({"comment": pool.comment} if pool.comment else {})}
        for name, pool in list(asked.cluster.kept.pools.items())
        if asked.may(f"/pool/{name}", "Pool.Audit")
    ]


@call("GET", ONE)
def read(asked: Call) -> dict[str, Any]:
    """A pool with its members."""
    return {"poolid": asked["poolid"], **_shown(asked, _pool(asked))}


@call("POST", "/pools")
def create(asked: Call) -> None:
    """A new pool."""
    cluster, name = asked.cluster, asked["poolid"]
    with cluster.lock:
        if name in cluster.kept.pools:
            raise Refused(f"create pool failed: pool '{name}' already exists")
        cluster.kept.pools[name] = Pool(asked.get("comment", ""))
        cluster.save()


@call("PUT", "/pools")
@call("PUT", ONE)
def change(asked: Call) -> None:
    """Change the comment, add members, or take them away."""
    cluster = asked.cluster
    with cluster.lock:
        pool = _pool(asked)
        pool.comment = asked.get("comment", pool.comment)
        vmids = [int(vmid) for vmid in split_list(asked.get("vms", ""))]
        for path in [f"/vms/{vmid}" for vmid in vmids] + [
            f"/storage/{name}" for name in split_list(asked.get("storage", ""))
        ]:
            if not cluster.access.may_modify(asked.actor, path):
                raise forbidden(f"{path}, Permissions.Modify")
        for vmid in vmids:
            _move(asked, pool, vmid)
        for name in split_list(asked.get("storage", "")):
            _switch(pool.storage, name, bool(asked.get("delete")), f"Storage '{name}'")
        cluster.save()


def _move(asked: Call, pool: Pool, vmid: int) -> None:
    cluster, gone = asked.cluster, bool(asked.get("delete"))
    if not gone and vmid not in cluster.containers:
        raise Refused(f"update pools failed: VM {vmid} does not exist")
    other = cluster.pool_of(vmid)
    if not gone and other not in (None, asked["poolid"]):
        if not asked.get("allow-move"):
            raise Refused(
                f"update pools failed: VM {vmid} belongs already to pool '{other}' and "
                "'allow-move' is not set"
            )
        cluster.kept.pools[str(other)].vms.remove(vmid)
    _switch(pool.vms, vmid, gone, f"VM {vmid}")


def _switch(members: list[Any], member: Any, gone: bool, told: str) -> None:
    if gone and member not in members:
        raise Refused(f"update pools failed: {told} is not a pool member")
    if not gone and member in members:
        raise Refused(f"update pools failed: {told} is already a pool member")
    members.remove(member) if gone else members.append(member)


@call("DELETE", "/pools")
@call("DELETE", ONE)
def delete(asked: Call) -> None:
    """Remove an empty pool."""
    cluster, name = asked.cluster, asked["poolid"]
    with cluster.lock:
        pool = _pool(asked)
        if pool.vms or pool.storage:
            what = f"VM {pool.vms[0]}" if pool.vms else f"storage '{pool.storage[0]}'"
            raise Refused(f"delete pool failed: pool '{name}' is not empty (contains {what})")
        del cluster.kept.pools[name]
        cluster.save()
