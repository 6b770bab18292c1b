"""The door: HTTPS, who calls, which call it is, and the answer in Proxmox's form.

In the order of the real one: credentials, the call itself (501), privileges (403), the node that
has to answer (595), parameters (400), and then the call, which runs in a thread and may block.
Every request is written to the journal. Under /lab stand the lab's own calls (`corral.lab.admin`).
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import tempfile
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import BodyPartReader, web

from corral.lab import api, schema
from corral.lab.access import Actor
from corral.lab.answers import Download, Page, Refused, not_implemented
from corral.lab.api import Call
from corral.lab.cluster import Cluster
from corral.lab.journal import Journal
from corral.lab.runtime import RuntimeFailed

PREFIX = re.compile(r"/api2/(?:json|extjs)(?=/|$)")
HEADERS = {
    "Server": "pve-api-daemon/3.0",
    "Cache-Control": "max-age=0",
    "Pragma": "no-cache",
}
UNREACHABLE = "No route to host"  # with status 595: the node that has to answer is not there
JSON = "application/json;charset=UTF-8"
WORKERS = 64  # calls at the same time; some wait for a lock
LARGEST = 8 * 1024**3  # bytes of an upload
CHUNK = 1024**2


class Unauthorized(Exception):
    """401: nobody knows who calls."""


class Door:
    """Answers requests for the API."""

    def __init__(self, cluster: Cluster, journal: Journal) -> None:
        self._cluster = cluster
        self._journal = journal
        self._schema = schema.load()
        self._calls = api.load()
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="call")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, and write it down."""
        began = time.monotonic()
        path = PREFIX.sub("", unquote(request.rel_url.raw_path), count=1) or "/"
        entry = self._journal.begin(request.method, path)
        try:
            response = await self._answer(request, path, entry)
        except Unauthorized as error:
            await asyncio.sleep(self._cluster.settings.auth_seconds)
            response = _response(b"", HTTPStatus.UNAUTHORIZED, str(error))
            response.force_close()
        entry.status = response.status
        entry.seconds = time.monotonic() - began
        self._journal.end(entry)
        return response

    async def _answer(self, request: web.Request, path: str, entry: Any) -> web.Response:
        found = self._schema.find(path)
        template = found[0] if found else ""
        declared = self._schema.calls.get((request.method, template))
        wanted = declared.permissions if declared else None
        world = (wanted or {}).get("user") == "world"
        actor = self._who(request, world)
        entry.actor = actor.name if actor else ""
        if found is None or declared is None or (request.method, template) not in self._calls:
            return _refusal(not_implemented(request.method, path))
        fault = self._cluster.faults.answer(request.method, path)
        if fault is not None:
            return _refusal(Refused(fault.text or UNREACHABLE, fault.status))
        file: Path | None = None
        try:
            given, file = await _parameters(request)
            given.update(found[1])
            data = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._carry_out, actor, declared, given, file
            )
        except Refused as refused:
            if refused.status == HTTPStatus.UNAUTHORIZED:
                await asyncio.sleep(self._cluster.settings.auth_seconds)
            return _refusal(refused)
        except RuntimeFailed as error:
            return _refusal(Refused(str(error)))
        except Exception as error:  # a fault of the lab itself: said in its log, and to the client
            traceback.print_exc()
            return _refusal(Refused(f"internal error of the lab: {error!r}"))
        finally:
            if file is not None:
                file.unlink(missing_ok=True)
        return _success(data)

    def _carry_out(
        self,
        actor: Actor | None,
        declared: schema.Declared,
        given: dict[str, Any],
        file: Path | None,
    ) -> Any:
        self._cluster.access.permits(actor, declared.permissions, given)
        if declared.proxied:
            self._reach(str(given["node"]))
        checked = self._schema.check(declared, given)
        handler = self._calls[declared.method, declared.template]
        return handler(Call(self._cluster, actor or Actor(""), checked, file))

    def _reach(self, node: str) -> None:
        if node not in self._cluster.settings.names:
            raise Refused(
                f"hostname lookup '{node}' failed - failed to get address info for: {node}: "
                "Temporary failure in name resolution"
            )
        if not self._cluster.is_up(node):
            raise Refused(UNREACHABLE, 595)

    def _who(self, request: web.Request, world: bool) -> Actor | None:
        """Whose credentials come along.

        Raises:
            Unauthorized: nobody's, where somebody is needed.
        """
        access = self._cluster.access
        header = request.headers.get("Authorization", "")
        if header.startswith("PVEAPIToken="):
            actor = access.by_token(header.removeprefix("PVEAPIToken="))
            if actor is None:
                raise Unauthorized("Authentication failed!")
            return actor
        if world:
            return None
        ticket = unquote(request.cookies.get("PVEAuthCookie", ""))
        if not ticket:
            raise Unauthorized("No ticket")
        actor = access.by_ticket(ticket)
        if actor is None:
            raise Unauthorized("Authentication failed!")
        guard = request.headers.get("CSRFPreventionToken", "")
        if request.method != "GET" and not access.guards(actor.user, guard):
            raise Unauthorized("Permission denied - invalid csrf token")
        return actor


async def _parameters(request: web.Request) -> tuple[dict[str, Any], Path | None]:
    """What is asked for in query and body; a name that is repeated has a list."""
    given: dict[str, Any] = {}
    for name in request.query:
        values = request.query.getall(name)
        given[name] = values if len(values) > 1 else values[0]
    if request.content_type == "application/json":
        body = await request.text()
        try:
            read = json.loads(body) if body else {}
        except ValueError as error:
            raise Refused(f"unable to parse JSON: {error}", HTTPStatus.BAD_REQUEST) from None
        given.update(read)
    elif request.content_type == "multipart/form-data":
        return await _uploaded(request, given)
    else:
        form = await request.post()
        for name in form:
            fields = form.getall(name)
            given[name] = fields if len(fields) > 1 else fields[0]
    return given, None


async def _uploaded(
    request: web.Request, given: dict[str, Any]
) -> tuple[dict[str, Any], Path | None]:
    """The fields of a form with a file; the file itself is on disk."""
    file: Path | None = None
    async for part in await request.multipart():
        assert isinstance(part, BodyPartReader)
        if part.filename is None:
            given[part.name or ""] = await part.text()
            continue
        given["filename"] = part.filename
        with tempfile.NamedTemporaryFile(prefix="pveupload-", delete=False) as target:
            file = Path(target.name)
            given["tmpfilename"] = f"/var/tmp/pveupload-{secrets.token_hex(16)}"
            while chunk := await part.read_chunk(CHUNK):
                target.write(chunk)
    return given, file


def _success(data: Any) -> web.Response:
    if isinstance(data, Download):
        return web.Response(body=data.body, headers={**HEADERS, **data.headers})
    if isinstance(data, Page):
        total = {"total": data.total} if data.total else {}
        body: Mapping[str, Any] = {"data": data.data, **total}
    else:
        body = {"data": data}
    return _response(_encoded(body), HTTPStatus.OK, "OK", JSON)


def _refusal(refused: Refused) -> web.Response:
    feed = "" if refused.status == HTTPStatus.NOT_IMPLEMENTED else "\n"
    body: dict[str, Any] = {"data": None, "message": refused.text + feed}
    if refused.errors:
        body["errors"] = dict(refused.errors)
    reason = " ".join(refused.text.split("\n"))
    return _response(_encoded(body), refused.status, reason, JSON)


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _response(body: bytes, status: int, reason: str, kind: str | None = None) -> web.Response:
    headers = {**HEADERS, "Content-Type": kind} if kind else HEADERS
    return web.Response(body=body, status=status, reason=reason, headers=headers)
