"""What the lab answers when it does not do what was asked, in Proxmox's own words.

The text of a refusal stands in the status line, which is what most clients show; a body repeats it.
Refusals of one call are made beside that call; here are the kinds that several share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus


class Refused(Exception):
    """The call is answered with an error."""

    def __init__(
        self,
        text: str,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        errors: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.errors = errors


@dataclass
class Page:
    """Some of many: `total` says how many there are."""

    data: Sequence[object]
    total: int


@dataclass
class Download:
    """A file instead of an answer."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def forbidden(detail: str = "") -> Refused:
    """403: the actor lacks a privilege, or may not know what is missing."""
    text = f"Permission check failed ({detail})" if detail else "Permission check failed"
    return Refused(text, HTTPStatus.FORBIDDEN)


def invalid(errors: Mapping[str, str]) -> Refused:
    """400: every bad parameter with its reason."""
    return Refused("Parameter verification failed.", HTTPStatus.BAD_REQUEST, errors)


def not_implemented(method: str, path: str) -> Refused:
    """501: there is no such call."""
    return Refused(f"Method '{method} {path}' not implemented", HTTPStatus.NOT_IMPLEMENTED)
