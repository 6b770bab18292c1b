"""The lab's own calls, under /lab, for whoever holds the admin token: faults, request log, state.

They are no part of Proxmox's API; a client of that never sees them, and they are not in the log.
"""

from __future__ import annotations

import hmac
from http import HTTPStatus

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from corral.lab import status
from corral.lab.access import ROOT, Actor
from corral.lab.answers import Refused
from corral.lab.api.power import start
from corral.lab.cluster import Cluster, Container
from corral.lab.faults import Fault
from corral.lab.journal import Journal


class Admin:
    """Answers requests for the lab itself."""

    def __init__(self, cluster: Cluster, journal: Journal, token: str) -> None:
        self._cluster = cluster
        self._journal = journal
        self._token = token

    def routes(self) -> list[web.RouteDef]:
        """What is answered, for aiohttp."""
        return [
            web.get("/lab", self.state),
            web.post("/lab/look", self.look),
            web.get("/lab/faults", self.faults),
            web.post("/lab/faults", self.add_fault),
            web.delete("/lab/faults", self.clear_faults),
            web.delete("/lab/faults/{id}", self.clear_faults),
            web.post("/lab/containers/{vmid}/unlock", self.unlock),
            web.get("/lab/requests", self.requests),
            web.post("/lab/requests/marks/{name}", self.mark),
        ]

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let nobody else in, and tell what is wrong as JSON."""
        if not request.path.startswith("/lab"):
            return await handler(request)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return _json({"message": "the admin token is needed"}, HTTPStatus.UNAUTHORIZED)
        try:
            return await handler(request)
        except (msgspec.ValidationError, msgspec.DecodeError, ValueError, Refused) as error:
            return _json({"message": str(error)}, HTTPStatus.BAD_REQUEST)

    async def state(self, request: web.Request) -> web.Response:
        """What there is."""
        cluster = self._cluster
        usage = cluster.usage()
        return _json(
            {
                "settings": cluster.settings,
                "nodes": {node: cluster.is_up(node) for node in cluster.settings.names},
                "containers": len(cluster.containers),
                "running": len(usage),
                "tasks": len(cluster.tasks.running()),
                "faults": cluster.faults.all(),
            }
        )

    async def look(self, request: web.Request) -> web.Response:
        """Let the status daemon look now."""
        status.look(self._cluster)
        return _json(None)

    async def faults(self, request: web.Request) -> web.Response:
        """Those that are set."""
        return _json(self._cluster.faults.all())

    async def add_fault(self, request: web.Request) -> web.Response:
        """Set one."""
        cluster = self._cluster
        fault = msgspec.json.decode(await request.read(), type=Fault)
        if fault.kind == "node" and fault.node not in cluster.settings.names:
            raise Refused(
                f"there is no node '{fault.node}', but {', '.join(cluster.settings.names)}"
            )
        if fault.kind == "lock":
            guest = self._container(fault.vmid)
            guest.unlocked().config["lock"] = fault.lock
            cluster.save_container(guest)
        cluster.faults.add(fault)
        if fault.kind == "node":
            cluster.take_down(fault.node)
        return _json(fault)

    async def clear_faults(self, request: web.Request) -> web.Response:
        """Clear one, or all: locks are released, nodes come back."""
        wanted = request.match_info.get("id")
        gone = self._cluster.faults.clear(None if wanted is None else int(wanted))
        for fault in gone:
            if fault.kind == "lock" and fault.vmid in self._cluster.containers:
                self._cluster.unset_lock(self._cluster.containers[fault.vmid])
            if fault.kind == "node":
                boot(self._cluster, fault.node)
        return _json(gone)

    async def unlock(self, request: web.Request) -> web.Response:
        """Remove a lock that a lost worker left, as `pct unlock` does."""
        self._cluster.unset_lock(self._container(int(request.match_info["vmid"])))
        return _json(None)

    def _container(self, vmid: int | None) -> Container:
        if vmid is None or vmid not in self._cluster.containers:
            raise Refused(f"there is no container {vmid}")
        return self._cluster.containers[vmid]

    async def requests(self, request: web.Request) -> web.Response:
        """The log after an entry."""
        return _json(self._journal.since(int(request.query.get("since", "0"))))

    async def mark(self, request: web.Request) -> web.Response:
        """Write a mark into the log; returns it."""
        return _json(self._journal.mark(request.match_info["name"]))


def boot(cluster: Cluster, node: str) -> None:
    """What happens when a node comes up: containers with `onboot` start."""
    usage = cluster.usage()
    for guest in sorted(cluster.containers.values(), key=lambda guest: guest.vmid):
        if guest.node == node and guest.config.get("onboot") and guest.vmid not in usage:
            start(cluster, Actor(ROOT), guest)


def _json(value: object, code: int = HTTPStatus.OK) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=code, content_type="application/json"
    )
