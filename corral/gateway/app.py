"""The application: resources behind routes, errors as problem details, the door before it all."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from corral.errors import CorralError
from corral.gateway import compat, dashboard, fleet, metrics, openapi, pipelines, tasks
from corral.gateway.door import LOCAL, Guests
from corral.gateway.problems import Defect, NoSuchPath, WrongVerb, moment
from corral.gateway.routes import Ask, Resource, refuse, respond
from corral.gateway.stream import Hub
from corral.gateway.upstream import Upstream


class Health(Struct, frozen=True, kw_only=True):
    """Whether there is somebody to talk to: all that a stranger is told."""

    healthy: bool  #: the gateway hears the broker
    timestamp: str


async def health(ask: Ask) -> Health:
    """Tell whether the gateway hears its broker. Needs no token."""
    return Health(healthy=ask.upstream.away_since is None, timestamp=moment(time.time()))


class Me(Struct, frozen=True, kw_only=True):
    """Who asks, as the gateway sees it."""

    name: str
    role: str  #: viewer, client or operator
    signed_in: bool  #: by a token; False where none is needed
    version: str  #: of this gateway
    history: bool  #: it keeps one


async def me(ask: Ask) -> Me:
    """Tell who asks and what they may do."""
    caller = ask.caller
    signed_in = caller.name != LOCAL
    return Me(
        name=caller.name,
        role=caller.role,
        signed_in=signed_in,
        version=version("corral"),
        history=ask.upstream.history is not None,
    )


async def description(ask: Ask) -> dict[str, Any]:
    """Give this document."""
    return openapi.document(RESOURCES)


HEALTH = Resource("GET", "/health", health, Health)
RESOURCES: Sequence[Resource] = (
    HEALTH,
    Resource("GET", "/openapi.json", description, dict[str, Any]),
    Resource("GET", "/me", me, Me),
    *tasks.RESOURCES,
    *pipelines.RESOURCES,
    *compat.RESOURCES,  # before the next: /workers/health is no worker
    *fleet.RESOURCES,
)


class Endpoint:
    """What is at one path, by verb."""

    def __init__(
        self,
        resources: Mapping[str, Resource],
        upstream: Upstream,
        hub: Hub,
        guests: Guests,
        max_body: int,
    ) -> None:
        self._resources = resources
        self._upstream, self._hub = upstream, hub
        self._guests = guests
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive, send)
        verb = "GET" if request.method == "HEAD" else request.method
        resource = self._resources.get(verb)
        if resource is None:
            allow = ", ".join(sorted(self._resources))
            raise WrongVerb(verb=verb[:20], path=request.url.path[:200], allow=allow)
        welcome = partial(self._guests.still, scope)
        answer = await respond(
            resource, request, self._upstream, self._hub, welcome, self._max_body
        )
        await answer(scope, receive, send)


def build(upstream: Upstream, hub: Hub, guests: Guests, max_body: int) -> ASGIApp:
    """Every resource at its place; what stands before them is the door's matter."""
    places: dict[str, dict[str, Resource]] = {}
    for one in RESOURCES:
        places.setdefault(one.path, {})[one.verb] = one

    def route(path: str, there: Mapping[str, Resource]) -> Route:
        return Route(path, Endpoint(there, upstream, hub, guests, max_body))

    app = Starlette(
        routes=[
            *(route(_pattern(path), there) for path, there in places.items()),
            route("/health", {"GET": HEALTH}),  # where a network check looks for it
            route("/metrics", {"GET": metrics.RESOURCE}),  # where Prometheus looks
            *dashboard.routes(guests.known),
        ],
        exception_handlers={
            CorralError: _refused,
            HTTPException: _no_route,
            Exception: _defect,
        },
    )
    app.router.redirect_slashes = False
    return app


def _pattern(path: str) -> str:
    """The path as Starlette writes it. An id may have any character, a slash too."""
    return openapi.BASE + re.sub(r"{(\w+)}", r"{\1:path}", path)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, CorralError)
    request.scope["note"]["refused"] = error.code
    return refuse(error)


async def _no_route(request: Request, error: Exception) -> Response:
    return refuse(NoSuchPath(path=request.url.path[:200]))


async def _defect(request: Request, error: Exception) -> Response:
    return refuse(Defect(what=type(error).__name__))
