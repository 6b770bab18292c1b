"""Who may come in, and how often; what every answer carries; the line that is kept of each action.

Without tokens whoever can reach the port may act, so the port is on loopback and two more things
are looked at. The name in `Host` must be one of ours: a page of another site may have its own name
resolve to 127.0.0.1, but its browser still tells that name. And where a browser says which site a
page is of (`Origin`, `Sec-Fetch-Site`), only our own may act. With tokens the first is needless,
since a browser adds a token by itself to this gateway's own name alone; the second is looked at
always, since it does so for a page of another port too.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corral import jsons, tokens
from corral.errors import CorralError
from corral.gateway.dashboard import COOKIE, SIGN_IN, asked, wants_page
from corral.gateway.problems import CrossSite, NoToken, TooFast, WrongHost, moment
from corral.gateway.routes import Caller, refuse

log = logging.getLogger("corral.gateway")

#: all that a stranger may ask for
OPEN = frozenset({("GET", "/api/v1/health"), ("HEAD", "/api/v1/health"), ("POST", SIGN_IN)})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
LOCAL = "local"  #: what a caller is called where no token is needed
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
RELOAD = 1.0  # seconds after which the table of tokens is looked at again
BURST = 4.0  # seconds' worth of requests that may come at once
BUCKETS = 10_000  # callers whose pace is remembered
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


class Tokens:
    """The table of tokens, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = 0.0
        self._seen: tuple[int, int] | None = None
        self._roles: dict[str, tokens.Token] = {}
        self._read()

    def get(self, token: str) -> tokens.Token | None:
        """What the table says of a token that gives access now."""
        if time.monotonic() - self._looked > RELOAD:
            try:
                self._read()
            except CorralError as error:  # nobody comes in by a table that cannot be read
                log.error("%s", error)
                self._roles, self._seen = {}, None
        return self._roles.get(tokens.hashed(token))

    def _read(self) -> None:
        self._looked = time.monotonic()
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_ino)
        except OSError:
            seen = None
        if seen is None or seen != self._seen:
            table = tokens.table(self._path)
            self._roles = {one.sha256: one for one in table if one.revoked is None}
            self._seen = seen


class Pace:
    """Token buckets, one for each caller. Pure: the time is an argument."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, who: str, now: float) -> float:
        """Seconds until this caller may ask again; 0 when it may now."""
        most = max(1.0, self.rate * BURST)
        left, at = self._left.pop(who, (most, now))
        left = min(most, left + (now - at) * self.rate)
        self._left[who] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > BUCKETS:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self.rate


class Guests:
    """Tells who asks, by the token that a request shows."""

    def __init__(self, table: Tokens | None) -> None:
        self.table = table  #: None: no token is needed

    def named(self, scope: Scope) -> Caller:
        """Who asks.

        Raises:
            NoToken: that cannot be told.
        """
        address = scope["client"][0] if scope.get("client") else ""
        if (scope["method"], scope["path"]) in OPEN:
            return Caller("", "viewer", address)
        if self.table is None:
            return Caller(LOCAL, "operator", address)
        token = _shown(scope)
        if not token:
            raise NoToken(why="none was shown")
        found = self.table.get(token)
        if found is None:
            raise NoToken(why="the one that was shown is unknown or was revoked")
        return Caller(found.name, found.role, address)

    def known(self, token: str) -> tokens.Token | None:
        """What is known of a token that gives access; without a table none does."""
        return None if self.table is None else self.table.get(token)

    def still(self, scope: Scope) -> bool:
        """Whether one who came in may stay: a token may be revoked while a stream is open."""
        try:
            self.named(scope)
        except NoToken:
            return False
        return True


class Door:
    """Stands before the application."""

    def __init__(
        self,
        app: ASGIApp,
        guests: Guests,
        hosts: frozenset[str],
        pace: Pace,
        audit: Callable[[bytes], None],
    ) -> None:
        self._app = app
        self._guests = guests
        self._hosts = hosts
        self._pace = pace
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or refuse it."""
        assert scope["type"] == "http", scope["type"]
        note: dict[str, Any] = {}
        scope["note"] = note
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    sent.setdefault(name, value)
            await send(message)

        caller = Caller("", "", scope["client"][0] if scope.get("client") else "")
        try:
            caller = scope["caller"] = self._admitted(scope, caller.address)
        except CorralError as error:
            note["refused"] = error.code
            if isinstance(error, NoToken) and wants_page(scope["method"], Headers(scope=scope)):
                why = error.message if _shown(scope) else ""
                answer = asked(why, scope["query_string"].decode("latin-1"))
            else:
                answer = refuse(error)
            await answer(scope, receive, told)
        else:
            await self._app(scope, receive, told)
        finally:
            if scope["method"] not in SAFE:
                self._audit(_line(scope, caller, status, note))

    def _admitted(self, scope: Scope, address: str) -> Caller:
        """Who asks.

        Raises:
            CorralError: they may not, or not now.
        """
        headers = Headers(scope=scope)
        if self._guests.table is None:
            self._check_host(headers)
        if scope["method"] not in SAFE:
            _check_site(headers)
        try:
            caller = self._guests.named(scope)
        except NoToken:
            self._check_pace(address)  # who guesses tokens does it slowly
            raise
        self._check_pace(address if caller.name in ("", LOCAL) else caller.name)
        return caller

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:  # a bracket that does not close
            name = None
        if name not in self._hosts:
            raise WrongHost(host=host[:200] or "(none)")

    def _check_pace(self, who: str) -> None:
        if wait := self._pace.wait(who, time.monotonic()):
            raise TooFast(who=who, rate=self._pace.rate, seconds_left=int(wait) + 1)


def _shown(scope: Scope) -> str:
    """The token that a request shows: a program's in a header, a browser's as a cookie."""
    header = Headers(scope=scope).get("authorization")
    if header is None:
        return Request(scope).cookies.get(COOKIE, "")
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _check_site(headers: Headers) -> None:
    """Refuse what a page of another site asks for."""
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != headers.get("host", "").lower():
        raise CrossSite(origin=origin[:200])
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise CrossSite(origin="another site")


def _line(scope: Scope, caller: Caller, status: int, note: Mapping[str, Any]) -> bytes:
    return jsons.encode(
        {
            "at": moment(time.time()),
            "who": caller.name,
            "role": caller.role,
            "address": caller.address,
            "verb": scope["method"],
            "path": scope["path"][:500],
            "status": status,
            **note,
        }
    )
