"""Access: tickets, permissions, users with their tokens, roles, and the access control list."""

from __future__ import annotations

from typing import Any

from corral.lab.access import ACL_PATH, BUILT_IN, ROOT, Actor, Entry, Token, User
from corral.lab.answers import Refused, forbidden, invalid
from corral.lab.api import Call, call
from corral.lab.formats import split_list

USER = "/access/users/{userid}"
TOKEN = f"{USER}/token/{{tokenid}}"
SUBJECTS = {"users": "user", "groups": "group", "tokens": "token"}
TEXTS = ("comment", "email", "firstname", "lastname")

#: part of a ticket's `cap` -> the path, and the beginnings of the privileges told there
CAPABILITIES = {
    "access": ("/access", ("User.", "Group.", "Permissions.")),
    "dc": ("/", ("SDN.", "Sys.Audit", "Sys.Modify")),
    "mapping": ("/mapping", ("Mapping.", "Permissions.")),
    "nodes": ("/nodes", ("Sys.", "Permissions.")),
    "sdn": ("/sdn", ("SDN.", "Permissions.")),
    "storage": ("/storage", ("Datastore.", "Permissions.")),
    "vms": ("/vms", ("VM.", "Permissions.")),
}


@call("GET", "/access/ticket")
def ticket_form(asked: Call) -> None:
    """Nothing; the call exists for those who look whether it does."""


@call("POST", "/access/ticket")
def ticket(asked: Call) -> dict[str, Any]:
    """Log in."""
    access = asked.cluster.access
    name = asked["username"]
    if "realm" in asked.params and "@" not in name:
        name = f"{name}@{asked['realm']}"
    actor = access.by_password(name, asked["password"])
    if actor is None:
        raise Refused("authentication failure", 401)
    made, guard = access.ticket(actor.user)
    caps = {
        part: {
            privilege: 1
            for privilege in sorted(access.permissions(actor, path))
            if privilege.startswith(starts)
        }
        for part, (path, starts) in CAPABILITIES.items()
    }
    return {
        "username": actor.user,
        "ticket": made,
        "CSRFPreventionToken": guard,
        "cap": caps,
    }


@call("GET", "/access/permissions")
def permissions(asked: Call) -> dict[str, dict[str, int]]:
    """What the actor, or somebody it may ask about, has on each path; 1 where it propagates."""
    access = asked.cluster.access
    who = asked.actor
    if "userid" in asked.params:
        user, _, token = asked["userid"].partition("!")
        who = Actor(user, token)
        if user != asked.actor.user:
            asked.demand("/access", "Sys.Audit")
    paths = [asked["path"]] if "path" in asked.params else access.known_paths()
    found = {path: access.permissions(who, path) for path in paths}
    return {
        path: {name: int(propagates) for name, propagates in has.items()}
        for path, has in found.items()
        if has or "path" in asked.params
    }


# --- users and tokens ------------------------------------------------------------------------


def _user(asked: Call) -> User:
    user = asked.cluster.access.book.users.get(asked["userid"])
    if user is None:
        raise Refused(f"no such user ('{asked['userid']}')")
    return user


def _shown(user: User) -> dict[str, Any]:
    shown: dict[str, Any] = {"enable": int(user.enable), "expire": user.expire}
    return shown | {key: getattr(user, key) for key in TEXTS if getattr(user, key)}


@call("GET", "/access/users")
def users(asked: Call) -> list[dict[str, Any]]:
    """Everybody, for those who may see them; otherwise oneself."""
    everybody = asked.may("/access/groups", "User.Modify", "Sys.Audit")
    return [
        {"userid": name, "realm-type": name.partition("@")[2], **_shown(user)}
        for name, user in list(asked.cluster.access.book.users.items())
        if everybody or name == asked.actor.user
    ]


@call("POST", "/access/users")
def create_user(asked: Call) -> None:
    """A new user; with a password they may log in."""
    access, name = asked.cluster.access, asked["userid"]
    with access.lock:
        if name in access.book.users:
            raise Refused(f"create user failed: user '{name}' already exists")
        if name.partition("@")[2] not in ("pam", "pve"):
            raise Refused(f"create user failed: domain '{name.partition('@')[2]}' does not exist")
        access.book.users[name] = User()
        _set(access.book.users[name], asked)
        access.save()
    if "password" in asked.params:
        access.set_password(name, asked["password"])


def _set(user: User, asked: Call) -> None:
    for key in ("expire", *TEXTS):
        if key in asked.params:
            setattr(user, key, asked[key])
    if "enable" in asked.params:
        user.enable = bool(asked["enable"])
    if "groups" in asked.params:
        user.groups = split_list(asked["groups"])


@call("GET", USER)
def read_user(asked: Call) -> dict[str, Any]:
    """One user."""
    user = _user(asked)
    tokens = {name: _token_info(token) for name, token in user.tokens.items()}
    return {**_shown(user), "groups": user.groups, "tokens": tokens}


@call("PUT", USER)
def change_user(asked: Call) -> None:
    """Change a user."""
    with asked.cluster.access.lock:
        _set(_user(asked), asked)
        asked.cluster.access.save()


@call("DELETE", USER)
def delete_user(asked: Call) -> None:
    """Remove a user with their tokens and their entries in the ACL."""
    access, name = asked.cluster.access, asked["userid"]
    with access.lock:
        if name == ROOT:
            raise Refused("delete user failed: cannot delete root@pam")
        _user(asked)
        del access.book.users[name]
        access.book.entries = [
            entry for entry in access.book.entries if entry.subject.partition("!")[0] != name
        ]
        access.save()


def _token_info(token: Token) -> dict[str, Any]:
    info: dict[str, Any] = {"privsep": int(token.privsep), "expire": token.expire}
    return info | ({"comment": token.comment} if token.comment else {})


@call("GET", f"{USER}/token")
def tokens(asked: Call) -> list[dict[str, Any]]:
    """A user's tokens."""
    return [{"tokenid": name, **_token_info(token)} for name, token in _user(asked).tokens.items()]


def _token(asked: Call) -> Token:
    token = _user(asked).tokens.get(asked["tokenid"])
    if token is None:
        raise Refused(f"no such token '{asked['tokenid']}' for user '{asked['userid']}'")
    return token


@call("POST", TOKEN)
def create_token(asked: Call) -> dict[str, Any]:
    """A new token; its secret is told this once."""
    access, name = asked.cluster.access, asked["tokenid"]
    with access.lock:
        user = _user(asked)
        if name in user.tokens:
            raise invalid({"tokenid": "Token already exists."})
        token = Token(
            "", bool(asked.get("privsep", 1)), asked.get("comment", ""), asked.get("expire", 0)
        )
        user.tokens[name] = token
        secret = access.new_token(asked["userid"], name, token)
    info = {"privsep": str(int(token.privsep))}
    info |= {key: str(asked[key]) for key in ("comment", "expire") if key in asked.params}
    return {"full-tokenid": f"{asked['userid']}!{name}", "info": info, "value": secret}


@call("GET", TOKEN)
def read_token(asked: Call) -> dict[str, Any]:
    """One token, without its secret."""
    return _token_info(_token(asked))


@call("PUT", TOKEN)
def change_token(asked: Call) -> dict[str, Any]:
    """Change a token."""
    with asked.cluster.access.lock:
        token = _token(asked)
        if "privsep" in asked.params:
            token.privsep = bool(asked["privsep"])
        token.comment = asked.get("comment", token.comment)
        token.expire = asked.get("expire", token.expire)
        asked.cluster.access.save()
        return _token_info(token)


@call("DELETE", TOKEN)
def delete_token(asked: Call) -> None:
    """Remove a token and its entries in the ACL."""
    access = asked.cluster.access
    with access.lock:
        _token(asked)
        del _user(asked).tokens[asked["tokenid"]]
        name = f"{asked['userid']}!{asked['tokenid']}"
        access.book.entries = [entry for entry in access.book.entries if entry.subject != name]
        access.save()


# --- roles and the access control list -------------------------------------------------------


@call("GET", "/access/roles")
def roles(asked: Call) -> list[dict[str, Any]]:
    """All roles."""
    book = asked.cluster.access.book
    built_in = [
        {"roleid": name, "privs": ",".join(sorted(has)), "special": 1}
        for name, has in BUILT_IN.items()
    ]
    own = [{"roleid": name, "privs": ",".join(has)} for name, has in book.roles.items()]
    return [*built_in, *own]


@call("POST", "/access/roles")
def create_role(asked: Call) -> None:
    """A new role."""
    access, name = asked.cluster.access, asked["roleid"]
    with access.lock:
        if access.privileges_of(name) is not None:
            raise Refused(f"create role failed: role '{name}' already exists")
        access.book.roles[name] = split_list(asked.get("privs", ""))
        access.save()


def _role(asked: Call) -> str:
    name = str(asked["roleid"])
    if asked.cluster.access.privileges_of(name) is None:
        raise Refused(f"role '{name}' does not exist")
    return name


@call("GET", "/access/roles/{roleid}")
def read_role(asked: Call) -> dict[str, int]:
    """What a role gives."""
    return dict.fromkeys(asked.cluster.access.privileges_of(_role(asked)) or (), 1)


@call("PUT", "/access/roles/{roleid}")
def change_role(asked: Call) -> None:
    """Change what a role gives."""
    access, name = asked.cluster.access, _role(asked)
    with access.lock:
        if name in BUILT_IN:
            raise Refused(f"auto-generated role '{name}' cannot be modified")
        wanted = split_list(asked.get("privs", ""))
        old = access.book.roles[name] if asked.get("append") else []
        access.book.roles[name] = list(dict.fromkeys([*old, *wanted]))
        access.save()


@call("DELETE", "/access/roles/{roleid}")
def delete_role(asked: Call) -> None:
    """Remove a role and the entries that give it."""
    access, name = asked.cluster.access, _role(asked)
    with access.lock:
        if name in BUILT_IN:
            raise Refused(f"auto-generated role '{name}' cannot be deleted")
        del access.book.roles[name]
        access.book.entries = [entry for entry in access.book.entries if entry.role != name]
        access.save()


@call("GET", "/access/acl")
def acl(asked: Call) -> list[dict[str, Any]]:
    """The entries of paths whose permissions the actor may change."""
    access = asked.cluster.access
    return [
        {
            "path": entry.path,
            "type": entry.kind,
            "ugid": entry.subject,
            "roleid": entry.role,
            "propagate": int(entry.propagate),
        }
        for entry in sorted(access.book.entries, key=lambda entry: entry.path)
        if access.may_modify(asked.actor, entry.path)
    ]


@call("PUT", "/access/acl")
def change_acl(asked: Call) -> None:
    """Add entries, or take them away."""
    access, path = asked.cluster.access, asked["path"]
    path = path.rstrip("/") or "/"
    given = [name for name in SUBJECTS if name in asked.params]
    if not given:
        text = "either 'users', 'groups' or 'tokens' is required."
        raise invalid(dict.fromkeys(SUBJECTS, text))
    if not ACL_PATH.fullmatch(path):
        raise invalid({"path": f"invalid ACL path '{path}'"})
    if not access.may_modify(asked.actor, path):
        raise forbidden(f"{path}, Permissions.Modify")
    with access.lock:
        for role in split_list(asked["roles"]):
            if access.privileges_of(role) is None:
                raise Refused(f"ACL update failed: role '{role}' does not exist")
            for name in given:
                for subject in split_list(asked[name]):
                    _change_entry(asked, path, SUBJECTS[name], subject, role)
        access.save()


def _change_entry(asked: Call, path: str, kind: str, subject: str, role: str) -> None:
    access = asked.cluster.access
    user, _, token = subject.partition("!")
    known = access.book.users.get(user)
    if kind != "group" and (known is None or (token and token not in known.tokens)):
        what = "token" if token else "user"
        raise Refused(f"ACL update failed: {what} '{subject}' does not exist")
    same = (path, kind, subject, role)
    others = [
        entry
        for entry in access.book.entries
        if (entry.path, entry.kind, entry.subject, entry.role) != same
    ]
    if not asked.get("delete"):
        others.append(Entry(path, kind, subject, role, bool(asked.get("propagate", 1))))
    access.book.entries = others
