"""The firewall of a container: options, rules, aliases, IP sets. Kept and told, not enforced."""

from __future__ import annotations

import ipaddress
from typing import Any

from corral.lab.answers import Refused
from corral.lab.api import Call, call, index
from corral.lab.cluster import digest
from corral.lab.formats import split_list

PATH = "/nodes/{node}/lxc/{vmid}/firewall"
ADDRESSING = frozenset({"node", "vmid", "pos", "name", "digest", "delete", "moveto", "rename"})
CHANGED = "detected modified configuration - file changed by other user? Try again."

index(PATH, "aliases", "ipset", "log", "options", "refs", "rules")


def _given(asked: Call) -> dict[str, Any]:
    return {key: value for key, value in asked.params.items() if key not in ADDRESSING}


def _change(asked: Call, held: Any, changed: Any) -> None:
    """Refuse a change of what somebody else changed meanwhile; keep it otherwise."""
    if asked.get("digest", digest(held)) != digest(held):
        raise Refused(CHANGED)
    changed()
    asked.cluster.save_container(asked.container)


# --- options ---------------------------------------------------------------------------------


@call("GET", f"{PATH}/options")
def options(asked: Call) -> dict[str, Any]:
    """What is set."""
    held = asked.container.firewall.options
    return {**held, "digest": digest(held)}


@call("PUT", f"{PATH}/options")
def set_options(asked: Call) -> None:
    """Set and delete options."""
    held = asked.container.firewall.options

    def changed() -> None:
        for key in split_list(asked.get("delete", "")):
            held.pop(key, None)
        held.update(_given(asked))

    _change(asked, held, changed)


# --- rules -----------------------------------------------------------------------------------


def _rule(asked: Call) -> dict[str, Any]:
    rules, pos = asked.container.firewall.rules, int(asked["pos"])
    if not 0 <= pos < len(rules):
        raise Refused(f"no rule at position {pos}")
    return rules[pos]


@call("GET", f"{PATH}/rules")
def rules(asked: Call) -> list[dict[str, Any]]:
    """In the order in which they apply."""
    held = asked.container.firewall.rules
    return [{**rule, "pos": pos, "digest": digest(held)} for pos, rule in enumerate(held)]


@call("POST", f"{PATH}/rules")
def add_rule(asked: Call) -> None:
    """A new one: the first, unless a position is told."""
    held = asked.container.firewall.rules
    rule = {"enable": 0, **_given(asked)}
    _change(asked, held, lambda: held.insert(asked.get("pos", 0), rule))


@call("GET", f"{PATH}/rules/{{pos}}")
def read_rule(asked: Call) -> dict[str, Any]:
    """One of them."""
    held = asked.container.firewall.rules
    return {**_rule(asked), "pos": asked["pos"], "digest": digest(held)}


@call("PUT", f"{PATH}/rules/{{pos}}")
def change_rule(asked: Call) -> None:
    """Change one, or move it."""
    held, rule = asked.container.firewall.rules, _rule(asked)

    def changed() -> None:
        if "moveto" in asked.params:
            held.remove(rule)
            held.insert(asked["moveto"], rule)
        for key in split_list(asked.get("delete", "")):
            rule.pop(key, None)
        rule.update(_given(asked))

    _change(asked, held, changed)


@call("DELETE", f"{PATH}/rules/{{pos}}")
def delete_rule(asked: Call) -> None:
    """Remove one."""
    held, rule = asked.container.firewall.rules, _rule(asked)
    _change(asked, held, lambda: held.remove(rule))


# --- aliases ---------------------------------------------------------------------------------


def _alias(asked: Call) -> dict[str, Any]:
    alias = asked.container.firewall.aliases.get(asked["name"])
    if alias is None:
        raise Refused(f"no such alias '{asked['name']}'")
    return alias


def _alias_shown(name: str, alias: dict[str, Any]) -> dict[str, Any]:
    version = ipaddress.ip_interface(alias["cidr"]).version
    return {"name": name, "ipversion": version, **alias}


@call("GET", f"{PATH}/aliases")
def aliases(asked: Call) -> list[dict[str, Any]]:
    """Names for addresses."""
    held = asked.container.firewall.aliases
    return [{**_alias_shown(name, held[name]), "digest": digest(held)} for name in sorted(held)]


@call("POST", f"{PATH}/aliases")
def add_alias(asked: Call) -> None:
    """A new one."""
    held, name = asked.container.firewall.aliases, asked["name"]
    if name in held:
        raise Refused(f"alias '{name}' already exists")
    _change(asked, held, lambda: held.update({name: _given(asked)}))


@call("GET", f"{PATH}/aliases/{{name}}")
def read_alias(asked: Call) -> dict[str, Any]:
    """One of them."""
    return _alias_shown(asked["name"], _alias(asked))


@call("PUT", f"{PATH}/aliases/{{name}}")
def change_alias(asked: Call) -> None:
    """Change one, or its name."""
    held, alias = asked.container.firewall.aliases, _alias(asked)

    def changed() -> None:
        alias.update(_given(asked))
        held[asked.get("rename", asked["name"])] = held.pop(asked["name"])

    _change(asked, held, changed)


@call("DELETE", f"{PATH}/aliases/{{name}}")
def delete_alias(asked: Call) -> None:
    """Remove one."""
    held = asked.container.firewall.aliases
    _alias(asked)
    _change(asked, held, lambda: held.pop(asked["name"]))


# --- IP sets ---------------------------------------------------------------------------------


def _set(asked: Call) -> dict[str, Any]:
    found = asked.container.firewall.ipsets.get(asked["name"])
    if found is None:
        raise Refused(f"no such IPSet '{asked['name']}'")
    return found


def _entry(asked: Call) -> dict[str, Any]:
    found: dict[str, Any] | None = _set(asked)["entries"].get(asked["cidr"])
    if found is None:
        raise Refused(f"no such IPSet entry '{asked['cidr']}'")
    return found


@call("GET", f"{PATH}/ipset")
def ipsets(asked: Call) -> list[dict[str, Any]]:
    """Sets of addresses."""
    held = asked.container.firewall.ipsets
    return [{"name": name, "digest": digest(held), **_comment(held[name])} for name in sorted(held)]


def _comment(found: dict[str, Any]) -> dict[str, str]:
    return {"comment": found["comment"]} if found.get("comment") else {}


@call("POST", f"{PATH}/ipset")
def add_ipset(asked: Call) -> None:
    """A new one, or another name for one."""
    held, name = asked.container.firewall.ipsets, asked["name"]
    old = asked.get("rename")
    if old is None and name in held:
        raise Refused(f"IPSet '{name}' already exists")
    made = held.get(old or name, {"entries": {}})

    def changed() -> None:
        if old is not None:
            held.pop(old, None)
        held[name] = {**made, **_comment(asked.params)}

    _change(asked, held, changed)


@call("GET", f"{PATH}/ipset/{{name}}")
def entries(asked: Call) -> list[dict[str, Any]]:
    """What is in a set."""
    held = _set(asked)["entries"]
    return [{"cidr": cidr, "digest": digest(held), **entry} for cidr, entry in held.items()]


@call("POST", f"{PATH}/ipset/{{name}}")
def add_entry(asked: Call) -> None:
    """Put an address into a set."""
    held, cidr = _set(asked)["entries"], asked["cidr"]
    if cidr in held:
        raise Refused(f"address '{cidr}' already exists")
    entry = {key: value for key, value in _given(asked).items() if key != "cidr"}
    _change(asked, held, lambda: held.update({cidr: entry}))


@call("DELETE", f"{PATH}/ipset/{{name}}")
def delete_ipset(asked: Call) -> None:
    """Remove a set; one that is not empty only by force."""
    held = asked.container.firewall.ipsets
    if _set(asked)["entries"] and not asked.get("force"):
        raise Refused(f"IPSet '{asked['name']}' is not empty")
    _change(asked, held, lambda: held.pop(asked["name"]))


@call("GET", f"{PATH}/ipset/{{name}}/{{cidr}}")
def read_entry(asked: Call) -> dict[str, Any]:
    """One address of a set."""
    return {"cidr": asked["cidr"], **_entry(asked)}


@call("PUT", f"{PATH}/ipset/{{name}}/{{cidr}}")
def change_entry(asked: Call) -> None:
    """Change one address of a set."""
    entry = _entry(asked)
    given = {key: value for key, value in _given(asked).items() if key != "cidr"}
    _change(asked, _set(asked)["entries"], lambda: entry.update(given))


@call("DELETE", f"{PATH}/ipset/{{name}}/{{cidr}}")
def delete_entry(asked: Call) -> None:
    """Take an address out of a set."""
    held = _set(asked)["entries"]
    _entry(asked)
    _change(asked, held, lambda: held.pop(asked["cidr"]))


# --- the rest --------------------------------------------------------------------------------


@call("GET", f"{PATH}/refs")
def refs(asked: Call) -> list[dict[str, str]]:
    """What a rule may name: aliases and sets."""
    held, wanted = asked.container.firewall, asked.get("type")
    found = [("alias", "guest", name) for name in sorted(held.aliases)]
    found += [("ipset", "guest", name) for name in sorted(held.ipsets)]
    return [
        {"type": kind, "scope": scope, "name": name, "ref": f"{scope}/{name}"}
        for kind, scope, name in found
        if wanted in (None, kind)
    ]


@call("GET", f"{PATH}/log")
def log(asked: Call) -> list[dict[str, Any]]:
    """Nothing is enforced, so nothing is logged."""
    return [{"n": 1, "t": "no content"}]
