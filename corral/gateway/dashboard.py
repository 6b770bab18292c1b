"""The dashboard's files, and how a browser comes in where a token is wanted.

A browser adds no header to a page or an event stream, so it shows its token as a cookie: no script
can read it, and no page of another site can have it sent. It is the token itself, so a token that
is revoked is out at once, and a gateway that starts again asks nobody anew.

What the dashboard looks like is in `web/`; what it shows comes by the resources and the stream.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from corral.gateway.problems import NoSuchPath, NoToken
from corral.gateway.routes import read
from corral.tokens import Token

WEB = Path(__file__).with_name("web")
COOKIE = "corral"
SIGN_IN = "/sign-in"  #: takes a token, so it needs none
MOST_POSTED = 8192  # bytes of a form
KEPT = 30 * 86400  # seconds that a browser keeps a token
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Everything from here and nothing written into the page: what a task says of itself cannot run.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
)


class File(NamedTuple):
    """One file of the dashboard."""

    body: bytes
    type: str
    etag: str


def read_files(folder: Path = WEB) -> Mapping[str, File]:
    """Every file that a browser may ask for, by its path below `folder`."""
    found: dict[str, File] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in TYPES:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[path.relative_to(folder).as_posix()] = File(body, TYPES[path.suffix], etag)
    return found


FILES = read_files()
_PAGE = FILES["sign-in.html"].body.decode()
_STYLES = "".join(
    f" 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
    for style in re.findall(r"<style>(.*?)</style>", _PAGE, re.DOTALL)
)


def routes(known: Callable[[str], Token | None]) -> list[Route]:
    """Where the dashboard is. `known` tells of a token whether it gives access."""

    async def sign_in(request: Request) -> Response:
        form = parse_qs((await read(request, MOST_POSTED)).decode("utf-8", "replace"))
        token = "".join(form.get("token", ())).strip()
        back = "".join(form.get("back", ()))
        found = known(token)
        if found is None:
            error = NoToken(why="the one that was shown is unknown or was revoked")
            request.scope["note"]["refused"] = error.code
            return asked(error.message, back)
        request.scope["note"]["signed_in"] = found.name
        answer = Response(status_code=303, headers={"location": _back(back)})
        _set(answer, request.headers, token, KEPT)
        return answer

    async def sign_out(request: Request) -> Response:
        answer = Response(status_code=303, headers={"location": "/"})
        _set(answer, request.headers, "", 0)
        return answer

    return [
        Route("/", _file, methods=["GET"]),
        Route("/web/{path:path}", _file, methods=["GET"]),
        Route(SIGN_IN, sign_in, methods=["POST"]),
        Route("/sign-out", sign_out, methods=["POST"]),
    ]


async def _file(request: Request) -> Response:
    name = request.path_params.get("path", "index.html")
    file = FILES.get(name)
    if file is None:
        raise NoSuchPath(path=request.url.path[:200])
    headers = {
        "content-security-policy": POLICY,
        "cache-control": "no-cache",  # kept, and asked about each time: an update is seen at once
        "etag": file.etag,
        "referrer-policy": "same-origin",  # or a form would tell that it is of no site
    }
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers=headers, media_type=file.type)


def wants_page(method: str, headers: Headers) -> bool:
    """Whether a person with a browser asks, who can be asked for a token."""
    return method == "GET" and "text/html" in headers.get("accept", "")


def asked(why: str, back: str) -> Response:
    """The page that asks for a token: why again, and the query to return to."""
    page = _PAGE.replace("{why}", html.escape(why)).replace("{back}", html.escape(back))
    policy = (
        f"default-src 'none'; style-src{_STYLES}; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "same-origin",
        "www-authenticate": 'Bearer realm="corral"',
    }
    return Response(page, 401, headers, media_type=TYPES[".html"])


def _back(query: str) -> str:
    """A place on this page alone."""
    return f"/?{query}" if re.fullmatch(r"[!-~]{1,2000}", query) else "/"


def _set(answer: Response, headers: Headers, value: str, seconds: int) -> None:
    answer.set_cookie(
        COOKIE,
        value,
        max_age=seconds,
        secure=headers.get("origin", "").startswith("https:"),
        httponly=True,
        samesite="strict",
    )
