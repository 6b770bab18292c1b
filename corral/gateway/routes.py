"""What a resource is, and how a request becomes a call of the function behind it.

A resource is a line of a table: verb, path, the function, the least role, and the structs of query,
body and answer. Router and OpenAPI document are both made from it, so that they cannot disagree.
What the resources do is told where their tables stand.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from corral import jsons
from corral.errors import CorralError, NotAllowed
from corral.gateway.problems import (
    MEDIA_TYPE,
    BadBody,
    BodyTooLarge,
    GatewayMayNot,
    Refusal,
    RoleTooLow,
    WrongMediaType,
    headers_of,
    problem_of,
)
from corral.gateway.stream import Hub
from corral.gateway.upstream import Upstream
from corral.tokens import may

BODY_SECONDS = 30.0  # in which a body must arrive


class Caller(NamedTuple):
    """Who asks."""

    name: str
    role: str
    address: str


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """A query, or a body, that has no fields."""


class Ask(NamedTuple):
    """A request that was understood, and what is at hand to answer it."""

    upstream: Upstream
    hub: Hub
    caller: Caller
    headers: Mapping[str, str]
    path: Mapping[str, str]
    query: Any
    body: Any
    note: dict[str, Any]  #: what the audit line shall tell beside who and what
    welcome: Callable[[], bool]  #: whether the caller may still come in


class Told(NamedTuple):
    """An answer that says more than its body."""

    value: Any
    status: int = 200
    headers: Mapping[str, str] = {}


class Stream(NamedTuple):
    """In a table: the answer is not JSON but a stream of this type."""

    media_type: str
    tells: str


class Resource(NamedTuple):
    """One line of a table."""

    verb: str
    path: str  #: below /api/v1
    act: Callable[[Ask], Awaitable[Any]]
    answer: Any  #: a type, or a `Stream`
    role: str = "viewer"
    query: type[Struct] = Nothing
    body: Any = None
    status: int = 200  #: of success
    other: Mapping[int, str] = {}  #: further statuses of success, with the same body


def answer_of(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(jsons.encode(value), status, headers, media_type="application/json")


def refuse(error: CorralError) -> Response:
    """An error as a response."""
    problem = problem_of(error)
    return Response(jsons.encode(problem), problem.status, headers_of(error), media_type=MEDIA_TYPE)


async def respond(
    resource: Resource,
    request: Request,
    upstream: Upstream,
    hub: Hub,
    welcome: Callable[[], bool],
    max_body: int,
) -> ASGIApp:
    """Answer one request.

    Raises:
        CorralError: it is refused, or the broker refuses what it asks for.
    """
    caller: Caller = request.scope["caller"]
    if not may(caller.role, resource.role):
        raise RoleTooLow(
            who=caller.name, role=caller.role, action=resource.path, needed=resource.role
        )
    ask = Ask(
        upstream,
        hub,
        caller,
        request.headers,
        request.path_params,
        _query(request, resource.query),
        None if resource.body is None else await _body(request, resource.body, max_body),
        request.scope["note"],
        welcome,
    )
    try:
        told = await resource.act(ask)
    except NotAllowed as refused:  # the broker knows the gateway's key, and not who asks
        raise GatewayMayNot(**refused.fields) from None
    if isinstance(told, Told):
        return answer_of(told.value, told.status, told.headers)
    if isinstance(resource.answer, Stream):
        app: ASGIApp = told
        return app
    return answer_of(told, resource.status)


def _query(request: Request, struct: type[Struct]) -> Any:
    """The query as a struct; a name that it does not have is refused, not passed over."""
    known = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    given: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Refusal(what=f"there is no parameter {name[:80]}{hint}")
        if _is_list(known[name].type):
            given.setdefault(name, []).append(text)
        elif name in given:
            raise Refusal(what=f"the parameter {name} is given twice")
        else:
            given[name] = text
    try:
        return msgspec.convert(given, struct, strict=False)
    except msgspec.ValidationError as bad:
        why, _, where = str(bad).partition(" - at `$.")
        raise Refusal(what=f"parameter {where.rstrip('`') or '(query)'}: {why}") from None


def _is_list(kind: Any) -> bool:
    plain = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    return get_origin(plain) in (list, tuple)


async def _body(request: Request, kind: Any, limit: int) -> Any:
    """The body as a struct. None at all is as good as an empty object."""
    data = await read(request, limit)
    if not data:
        data = b"{}"
    else:
        found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if found != "application/json":
            raise WrongMediaType(found=found[:200] or "of no type")
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise BadBody(path="the body", why="it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as bad:
        kind_of = "" if isinstance(bad, msgspec.ValidationError) else "it is no JSON: "
        why, _, path = f"{kind_of}{bad}".partition(" - at `$")
        raise BadBody(path=path.strip("`.") or "the body", why=why) from None


async def read(request: Request, limit: int) -> bytes:
    """The body, when it is not too large and comes in time.

    Raises:
        BodyTooLarge: it is.
        Refusal: it does not come.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(limit=limit)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise BodyTooLarge(limit=limit)
    except TimeoutError:
        raise Refusal(what=f"the body did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise Refusal(what="the body ended early") from None
    return bytes(data)
