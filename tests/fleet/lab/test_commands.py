"""The commands that the docs give an administrator make tokens that may what the lab's own may."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fleet.lab.process import LabProcess

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "proxmox-cluster.md"
TOKENS = ("deploy", "inventory")

#: what `pveum` asks of the API: words -> method, path of the words that follow, name of the first
CALLS = {
    "pool add": ("POST", "/pools", "poolid"),
    "role add": ("POST", "/access/roles", "roleid"),
    "user add": ("POST", "/access/users", "userid"),
    "user token add": ("POST", "/access/users/{}/token/{}", None),
    "acl modify": ("PUT", "/access/acl", "path"),
}
#: storage of the docs -> the lab's
STORAGES = {"/storage/local-zfs": "/storage/local-lvm", "/storage/nas": "/storage/local"}

Permissions = dict[str, set[str]]


def commands() -> Iterator[list[str]]:
    """Every pveum of the page that changes something."""
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("pveum "):
                yield shlex.split(line)[1:]


def typed(lab: LabProcess, words: list[str]) -> Any:
    """One of them is typed by root."""
    verb = next(verb for verb in CALLS if words[: len(verb.split())] == verb.split())
    method, path, first = CALLS[verb]
    rest = words[len(verb.split()) :]
    begin = next((at for at, word in enumerate(rest) if word.startswith("--")), len(rest))
    names, options = rest[:begin], rest[begin:]
    given = {
        option.removeprefix("--"): value
        for option, value in zip(options[::2], options[1::2], strict=True)
    }
    if first is not None:
        given[first] = names[0]
    answer = lab.ask(method, path.format(*names), data=given)
    assert answer.status_code == 200, (words, answer.reason, answer.text)
    return answer.json()["data"]


def may(lab: LabProcess, token: str) -> Permissions:
    """What a token may, by path."""
    found: Permissions = {}
    for path, privileges in lab.client(token).access.permissions.get().items():
        found.setdefault(STORAGES.get(path, path), set()).update(privileges)
    return found


def test_they_make_the_lab_s_tokens(lab: LabProcess) -> None:
    own = {name: may(lab, name) for name in TOKENS}
    root = lab.client()
    root.pools("corral").delete()
    root.access.users("corral@pve").delete()
    for role in root.access.roles.get():
        if not role.get("special"):
            root.access.roles(role["roleid"]).delete()
    for words in commands():
        made = typed(lab, words)
        if words[:3] == ["user", "token", "add"]:
            lab.info["tokens"][words[4]] = {"id": made["full-tokenid"], "secret": made["value"]}
    assert {name: may(lab, name) for name in TOKENS} == own
