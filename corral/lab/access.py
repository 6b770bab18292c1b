"""Who may do what: users, API tokens, tickets, roles and access control lists.

An entry nearer to the object replaces those above it; an entry for the user replaces those of their
groups. What a pool allows holds for its members. A token with privilege separation has what both it
and its user have. `permits` evaluates the check that a call of the schema declares.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from corral.lab import store
from corral.lab.answers import forbidden
from corral.lab.formats import PRIVILEGES

ROOT = "root@pam"
TICKET_SECONDS = 7200
ACL_PATH = re.compile(
    r"/(?:access(?:/groups(?:/[^/]+)?|/realm(?:/[^/]+)?)?|mapping(?:/[^/]+){0,2}|nodes(?:/[^/]+)?"
    r"|pool(?:/[^/]+){0,3}|sdn(?:/.+)?|storage(?:/[^/]+)?|vms(?:/[1-9]\d{2,})?)?"
)

#: the roles that exist from the start; NoAccess takes away what others give
BUILT_IN: Mapping[str, frozenset[str]] = {
    "NoAccess": frozenset(),
    "Administrator": PRIVILEGES,
    "PVEAdmin": PRIVILEGES
    - {"Permissions.Modify", "Sys.PowerMgmt", "Sys.Modify", "Realm.Allocate", "Sys.Incoming"},
    "PVEAuditor": frozenset(name for name in PRIVILEGES if name.endswith(".Audit")),
    "PVEVMAdmin": frozenset(name for name in PRIVILEGES if name.startswith("VM.")),
    "PVEVMUser": frozenset(
        {"VM.Audit", "VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console"}
        | {"VM.GuestAgent.Audit", "VM.PowerMgmt"}
    ),
    "PVEPoolAdmin": frozenset({"Pool.Allocate", "Pool.Audit"}),
    "PVEPoolUser": frozenset({"Pool.Audit"}),
    "PVEDatastoreAdmin": frozenset(name for name in PRIVILEGES if name.startswith("Datastore.")),
    "PVEDatastoreUser": frozenset({"Datastore.AllocateSpace", "Datastore.Audit"}),
    "PVESDNUser": frozenset({"SDN.Audit", "SDN.Use"}),
    "PVESysAdmin": frozenset({"Sys.Audit", "Sys.Console", "Sys.Syslog"}),
}


class Token(msgspec.Struct, omit_defaults=True):
    """An API token; of its secret only a digest is kept."""

    digest: str
    privsep: bool = True
    comment: str = ""
    expire: int = 0


class User(msgspec.Struct, omit_defaults=True):
    """Somebody who may log in, when they have a password."""

    enable: bool = True
    expire: int = 0
    comment: str = ""
    email: str = ""
    firstname: str = ""
    lastname: str = ""
    groups: list[str] = []
    password: str = ""  # its digest
    tokens: dict[str, Token] = {}


class Entry(msgspec.Struct, frozen=True):
    """One line of the access control list."""

    path: str
    kind: str  # user, group or token
    subject: str
    role: str
    propagate: bool = True


class Book(msgspec.Struct):
    """All that is kept."""

    key: str  # signs tickets
    users: dict[str, User]
    roles: dict[str, list[str]]  # those beside the built-in ones
    entries: list[Entry]


@dataclass(frozen=True)
class Actor:
    """Who calls."""

    user: str
    token: str = ""  # its name, when one is used

    @property
    def name(self) -> str:
        """As tasks and ACLs name them: user, or user!token."""
        return f"{self.user}!{self.token}" if self.token else self.user

    @property
    def is_root(self) -> bool:
        """Whether nothing is checked: only for root@pam itself, never for a token of it."""
        return self.name == ROOT


class Access:
    """The book, and the questions asked of it. Its methods may be called from any thread."""

    def __init__(self, path: Path, members: Callable[[], Mapping[str, Iterable[str]]]) -> None:
        """`members` tells the ACL paths (`/vms/101`) of what each pool holds."""
        self._path = path
        self._members = members
        self.lock = threading.RLock()
        fresh = Book(secrets.token_hex(32), {ROOT: User()}, {}, [])
        self.book = store.load(path, Book) or fresh

    def save(self) -> None:
        """Keep what was changed."""
        store.save(self._path, self.book)

    # --- who is it ---------------------------------------------------------------------------

    def new_token(self, user: str, name: str, token: Token) -> str:
        """Add a token, or give one another secret; returns the secret."""
        secret = secrets.token_hex(16)
        parts = (secret[:8], secret[8:12], secret[12:16], secret[16:20], secret[20:])
        uuid = "-".join(parts)
        with self.lock:
            token.digest = _digest(uuid)
            self.book.users[user].tokens[name] = token
            self.save()
        return uuid

    def by_token(self, text: str) -> Actor | None:
        """Who sends `user@realm!name=secret`; None when nobody does."""
        found = re.fullmatch(r"([^!=\s]+@[^!=\s]+)!([^!=\s]+)[=:](\S+)", text)
        user = self.book.users.get(found[1]) if found else None
        token = user.tokens.get(found[2]) if user and found else None
        if found is None or user is None or token is None or not user.enable:
            return None
        if _expired(user.expire) or _expired(token.expire):
            return None
        known = hmac.compare_digest(token.digest, _digest(found[3]))
        return Actor(found[1], found[2]) if known else None

    def by_password(self, user: str, password: str) -> Actor | None:
        """Who logs in; a ticket does for a password."""
        known = self.book.users.get(user)
        if known is None or not known.enable or _expired(known.expire):
            return None
        if password.startswith("PVE:"):
            actor = self.by_ticket(password)
            return actor if actor and actor.user == user else None
        if not known.password:
            return None
        salt, _, digest = known.password.partition("$")
        right = hmac.compare_digest(digest, _hashed(password, salt))
        return Actor(user) if right else None

    def set_password(self, user: str, password: str) -> None:
        """Let a user log in with it."""
        with self.lock:
            salt = secrets.token_hex(8)
            self.book.users[user].password = f"{salt}${_hashed(password, salt)}"
            self.save()

    def ticket(self, user: str) -> tuple[str, str]:
        """A ticket, and the token that protects writes from cross-site forgery."""
        stamp = f"{int(time.time()):08X}"
        return (
            f"PVE:{user}:{stamp}::{self._sign(f'PVE:{user}:{stamp}')}",
            f"{stamp}:{self._sign(f'CSRF:{user}:{stamp}')}",
        )

    def by_ticket(self, ticket: str) -> Actor | None:
        """Whose ticket it is."""
        plain, _, signature = ticket.partition("::")
        parts = plain.split(":")
        if len(parts) != 3 or not hmac.compare_digest(signature, self._sign(plain)):
            return None
        known = self.book.users.get(parts[1])
        if known is None or not known.enable or _old(parts[2]):
            return None
        return Actor(parts[1])

    def guards(self, user: str, token: str) -> bool:
        """Whether a CSRF prevention token is that user's."""
        stamp, _, signature = token.partition(":")
        return hmac.compare_digest(signature, self._sign(f"CSRF:{user}:{stamp}")) and not _old(
            stamp
        )

    def _sign(self, text: str) -> str:
        mac = hmac.new(self.book.key.encode(), text.encode(), hashlib.sha256).digest()
        return base64.b64encode(mac).decode()

    # --- what may they do --------------------------------------------------------------------

    def privileges_of(self, role: str) -> frozenset[str] | None:
        """What a role gives; None when there is no such role."""
        if role in BUILT_IN:
            return BUILT_IN[role]
        known = self.book.roles.get(role)
        return None if known is None else frozenset(known)

    def permissions(self, actor: Actor, path: str) -> Mapping[str, bool]:
        """The privileges that an actor has on a path, and whether each one propagates."""
        with self.lock:
            user = self.book.users.get(actor.user)
            if user is None:
                return {}
            if not actor.token:
                return self._of_user(actor.user, user, path)
            token = user.tokens.get(actor.token)
            if token is None:
                return {}
            mine = self._of_user(actor.user, user, path)
            if not token.privsep:
                return mine
            its = self._granted([("token", actor.name)], path)
            return {name: its[name] and mine[name] for name in its if name in mine}

    def may(self, actor: Actor, path: str, *any_of: str) -> bool:
        """Whether an actor has one of some privileges on a path."""
        return actor.is_root or not self.permissions(actor, path).keys().isdisjoint(any_of)

    def demand(self, actor: Actor, path: str, *any_of: str) -> None:
        """Raise 403, naming path and privileges, unless the actor has one of them."""
        if not self.may(actor, path, *any_of):
            raise forbidden(f"{path}, {'|'.join(any_of)}")

    def known_paths(self) -> Iterator[str]:
        """The paths whose permissions are worth telling."""
        top = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")
        found = dict.fromkeys(top)
        found.update(dict.fromkeys(entry.path for entry in self.book.entries))
        for pool, members in self._members().items():
            found[f"/pool/{pool}"] = None
            found.update(dict.fromkeys(members))
        return iter(found)

    def _of_user(self, name: str, user: User, path: str) -> Mapping[str, bool]:
        if name == ROOT:
            return dict.fromkeys(PRIVILEGES, True)
        groups = [("group", group) for group in user.groups]
        return self._granted([("user", name), *groups], path)

    def _granted(self, subjects: Sequence[tuple[str, str]], path: str) -> Mapping[str, bool]:
        roles = self._roles(subjects, path)
        if path.startswith(("/vms/", "/storage/")):
            for pool, members in self._members().items():
                if path in members:
                    of_pool = self._roles(subjects, f"/pool/{pool}")
                    roles |= dict.fromkeys(of_pool.keys() - roles.keys(), False)
        if "NoAccess" in roles:
            return {}
        found: dict[str, bool] = {}
        for role, propagate in roles.items():
            for privilege in self.privileges_of(role) or ():
                found[privilege] = found.get(privilege, False) or propagate
        return found

    def _roles(self, subjects: Sequence[tuple[str, str]], path: str) -> dict[str, bool]:
        roles: dict[str, bool] = {}
        for step in _steps(path):
            for kinds in (("group",), ("user", "token")):
                here = {
                    entry.role: entry.propagate
                    for entry in self.book.entries
                    if entry.path == step
                    and entry.kind in kinds
                    and (entry.kind, entry.subject) in subjects
                    and (entry.propagate or step == path)
                }
                roles = here or roles
        return roles

    def forget(self, path: str) -> None:
        """Remove the entries of an object that is gone."""
        with self.lock:
            left = [entry for entry in self.book.entries if entry.path != path]
            if left != self.book.entries:
                self.book.entries = left
                self.save()

    # --- what a call demands -----------------------------------------------------------------

    def permits(
        self,
        actor: Actor | None,
        wanted: Mapping[str, Any] | None,
        params: Mapping[str, Any],
    ) -> None:
        """Raise 403 unless the actor passes the check that a call declares."""
        who = (wanted or {}).get("user")
        if who == "world" or (actor is not None and actor.is_root):
            return
        if actor is None or wanted is None:
            raise forbidden("user != root@pam")
        if who != "all" and not self._passes(actor, wanted["check"], params, quiet=False):
            raise forbidden()

    def _passes(
        self, actor: Actor, check: Sequence[Any], params: Mapping[str, Any], quiet: bool
    ) -> bool:
        kind, *rest = check
        if kind == "and":
            return all(self._passes(actor, part, params, quiet) for part in rest)
        if kind == "or":
            return any(self._passes(actor, part, params, quiet=True) for part in rest)
        if kind == "perm":
            template, privileges, *options = rest
            return self._has(actor, template, privileges, options, params, quiet)
        if kind == "perm-modify":
            return self.may_modify(actor, str(params.get("path", "")), quiet)
        if kind == "userid-param" and rest[0] == "self":
            return bool(params.get("userid") == actor.user)
        if kind == "userid-param":
            realm = str(params.get("userid", "")).partition("@")[2]
            return self._all(actor, f"/access/realm/{realm}", rest, quiet)
        assert kind == "userid-group", kind
        if self.may(actor, "/access/groups", *rest[0]):
            return True
        if not quiet:
            raise forbidden(f"/access/groups, {'|'.join(rest[0])}")
        return False

    def _has(
        self,
        actor: Actor,
        template: str,
        privileges: Sequence[str],
        options: Sequence[Any],
        params: Mapping[str, Any],
        quiet: bool,
    ) -> bool:
        settings = dict(zip(options[::2], options[1::2], strict=True))
        if settings.get("require_param") and settings["require_param"] not in params:
            return False
        path = re.sub(r"\{(\w+)\}", lambda found: str(params.get(found[1], "")), template)
        if not settings.get("any"):
            return self._all(actor, path, privileges, quiet)
        if self.may(actor, path, *privileges):
            return True
        if not quiet:
            raise forbidden(f"{path}, {'|'.join(privileges)}")
        return False

    def _all(self, actor: Actor, path: str, privileges: Iterable[str], quiet: bool) -> bool:
        for privilege in privileges:
            if not self.may(actor, path, privilege):
                if not quiet:
                    raise forbidden(f"{path}, {privilege}")
                return False
        return True

    def may_modify(self, actor: Actor, path: str, quiet: bool = True) -> bool:
        """Whether an actor may change the ACL of a path."""
        needed = {"/storage": "Datastore.Allocate", "/vms": "VM.Allocate", "/pool": "Pool.Allocate"}
        more = next((name for start, name in needed.items() if path.startswith(start)), None)
        if self.may(actor, path, "Permissions.Modify", *([more] if more else [])):
            return True
        if not quiet:
            raise forbidden(f"{path}, Permissions.Modify")
        return False


def _steps(path: str) -> Iterator[str]:
    """`/`, `/vms`, `/vms/101` for the last one."""
    yield "/"
    parts = path.strip("/").split("/") if path.strip("/") else []
    for end in range(1, len(parts) + 1):
        yield "/" + "/".join(parts[:end])


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _hashed(password: str, salt: str) -> str:
    return hashlib.scrypt(password.encode(), salt=salt.encode(), n=2**12, r=8, p=1).hex()


def _expired(moment: int) -> bool:
    return moment != 0 and moment < time.time()


def _old(stamp: str) -> bool:
    try:
        return int(stamp, 16) < time.time() - TICKET_SECONDS
    except ValueError:
        return True
