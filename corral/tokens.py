"""Bearer tokens of the REST door: the table that knows them, and what a role may do there.

The table holds hashes, so whoever reads it cannot come in. A token is 32 random bytes, which need
no slow hash. How a request shows one is `corral.gateway`'s matter; keys of the broker are in
`corral.keys`.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import msgspec
from msgspec import Struct

from corral import keys
from corral.errors import BadConfig, Usage
from corral.tasks import is_name

ROLES = ("viewer", "client", "operator")  #: each may do what the one before may, and more
PREFIX = "corral_"  #: so that a token which strays into a log or a repository is found there


class Token(Struct, frozen=True, kw_only=True):
    """One line of the table."""

    name: str
    role: str
    sha256: str  #: of the token, in hexadecimal digits
    added: float
    revoked: float | None = None


def table(path: Path) -> list[Token]:
    """Every token that was ever made, revoked ones too; none when there is no file.

    Raises:
        BadConfig: the file cannot be read, or is no table.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Token])
    except FileNotFoundError:
        return []
    except OSError as bad:
        raise BadConfig(file=path, key="tokens", why=f"it cannot be read: {bad.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as bad:
        raise BadConfig(file=path, key="tokens", why=f"it is no table of tokens: {bad}") from None


def new(path: Path, name: str, role: str, now: float) -> str:
    """Make a token and note its hash; it is told here and never again.

    Raises:
        Usage: the name is taken or cannot be one, or there is no such role.
        BadConfig: the table is damaged.
    """
    if role not in ROLES:
        raise Usage(what=f"{role!r} is no role of a token; the roles are {', '.join(ROLES)}")
    if not is_name(name):
        raise Usage(what=f"{name!r} cannot name a token: 1 to 200 characters without space")
    known = table(path)
    if any(one.name == name and one.revoked is None for one in known):
        raise Usage(what=f"a token named {name} is already in {path}")
    token = PREFIX + secrets.token_urlsafe(32)
    made = Token(name=name, role=role, sha256=hashed(token), added=now)
    keys.replace(path, [*known, made])
    return token


def revoke(path: Path, name: str, now: float) -> Token:
    """Take access from a token. A gateway that runs heeds it within a second.

    Raises:
        Usage: no token with access is called so.
    """
    known = table(path)
    found = next((one for one in known if one.name == name and one.revoked is None), None)
    if found is None:
        raise Usage(what=f"no token in {path} that gives access is called {name}")
    revoked = msgspec.structs.replace(found, revoked=now)
    keys.replace(path, [revoked if one is found else one for one in known])
    return revoked


def hashed(token: str) -> str:
    """What the table holds of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def may(role: str, needed: str) -> bool:
    """Whether `role` may do what `needed` may."""
    return ROLES.index(role) >= ROLES.index(needed)
